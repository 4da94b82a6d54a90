"""How good answers are likely to be: by benchmarks where the catalogue has them, else by a proxy that says so. Pure.

Shape of `benchmarks` after the schema of 2026-10-27: index scores of Artificial Analysis, and Design Arena's win rates.
Nothing here looks at what the fleet's own answers are worth: nobody knows that but their caller.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from batchmill.openrouter.wire import UNREADABLE
from batchmill.routing.shelf import Item

PROXY: Final = "proxy, no benchmark"
_PROXY_SHARE: Final = 0.7  # the best that a proxy can score where others have benchmarks
_PRICE, _RECENCY, _CONTEXT = 0.5, 0.3, 0.2  # what the proxy is made of
_PERCENT: Final = 100


class _Indexes(msgspec.Struct):
    intelligence_index: float | None = None
    coding_index: float | None = None
    agentic_index: float | None = None


class _Battle(msgspec.Struct):
    win_rate: float | None = None


class _Benchmarks(msgspec.Struct):
    artificial_analysis: _Indexes | None = None
    design_arena: list[_Battle] = []


class Benchmark(msgspec.Struct, frozen=True):
    """One number about a model's answers, higher is better, and whose it is."""

    score: float
    source: str


class Quality(msgspec.Struct, frozen=True):
    """A score from 0 to 1 among the models that were looked at together. `proxy` is the guess that is part of it."""

    value: float
    proxy: float
    benchmark: Benchmark | None

    @property
    def words(self) -> str:
        """Where the score comes from."""
        if self.benchmark is not None:
            return f"{self.benchmark.score:.1f} in {self.benchmark.source}"
        return f"{_PERCENT * self.proxy:.0f} % by price, age and context ({PROXY})"


def benchmark_of(raw: bytes | None) -> Benchmark | None:
    """Return the number that tells most in a model's `benchmarks`; None when there is none that can be read."""
    if not raw:
        return None
    try:
        told = msgspec.json.decode(raw, type=_Benchmarks)
    except UNREADABLE:
        return None
    found = told.artificial_analysis or _Indexes()
    for name in _Indexes.__struct_fields__:
        score: float | None = getattr(found, name)
        if score is not None and score > 0:
            return Benchmark(score, f"Artificial Analysis {name.replace('_', ' ')}")
    rates = [battle.win_rate for battle in told.design_arena if battle.win_rate is not None]
    return Benchmark(sum(rates) / len(rates), "Design Arena win rate") if sum(rates) > 0 else None


def qualities(items: Sequence[Item]) -> list[Quality]:
    """Return the quality of each model among the others, in their order."""
    marks = [benchmark_of(item.facts.benchmarks) for item in items]
    best: dict[str, float] = {}
    for mark in marks:
        if mark is not None:
            best[mark.source] = max(best.get(mark.source, 0.0), mark.score)
    most = _PROXY_SHARE if best else 1.0
    return [
        Quality(most * proxy if mark is None else mark.score / best[mark.source], proxy, mark)
        for mark, proxy in zip(marks, _proxies(items), strict=True)
    ]


def _proxies(items: Sequence[Item]) -> list[float]:
    """Return a guess for each: dearer, newer and with a longer context than the others is taken for better."""
    prices = _ranks([float(item.blended) if item.blended else None for item in items])
    ages = _ranks([item.facts.created or None for item in items])
    contexts = _ranks([item.facts.context_length for item in items])
    return [
        _PRICE * price + _RECENCY * age + _CONTEXT * context
        for price, age, context in zip(prices, ages, contexts, strict=True)
    ]


def _ranks(values: Sequence[float | None]) -> list[float]:
    """Return for each value its place among all, from 0 (least, or unknown) to 1; equals share one."""
    steps = sorted({value for value in values if value is not None})
    place = {value: (step + 1) / len(steps) for step, value in enumerate(steps)}
    return [0.0 if value is None else place[value] for value in values]
