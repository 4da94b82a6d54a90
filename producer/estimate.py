"""What a file of lines would cost, which budget would stop it, and how long it takes: told before anything is spent.

lines ──► Pricer: bound, or why it can't run ──► Guesser: likely model and cost ──► sums by model, room in budgets
                                                                                └─► limits: when it is done

Nothing is enqueued, nothing sent, nothing held. Memory does not grow with the file.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from pathlib import Path

import msgspec
from redis.asyncio import Redis

from batchmill.config.policy import Policy
from batchmill.config.settings import Settings
from batchmill.config.windows import window_at
from batchmill.producer.errors import InputError
from batchmill.producer.finish import Finish, Load, finish_of
from batchmill.producer.input import BadLine, InputOptions, Request, read
from batchmill.producer.likely import Guesser, Likely
from batchmill.producer.pricing import Pricer
from batchmill.producer.sampling import Measured, scaled
from batchmill.routing.health import ModelHealth
from batchmill.routing.performance import answer_ms
from batchmill.store import gauges
from batchmill.store.clock import now_ms
from batchmill.store.health import health_of
from batchmill.store.statistics import answer_tokens, models_seen

OWN = "--max-cost"
"""The name of the batch's own budget, as it is asked for."""

_SHOWN_BAD = 20
_CHUNK = 500
_DAY = 86_400.0


class ModelEstimate(msgspec.Struct, kw_only=True):
    """The lines that are likely to go to one model. Money in nano-dollars, None: no price is known.

    `observed`: the length of its answers was seen by the fleet, or measured by a sample, and is not a usual one.
    """

    model: str
    lines: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    likely: int | None = 0
    worst: int | None = 0
    observed: bool = False


class BudgetEstimate(msgspec.Struct, kw_only=True):
    """One budget that covers some of the lines. Money in nano-dollars; `stopped` lines find no room in it."""

    name: str
    limit: int
    free: int
    window: str
    resets_ms: int | None = None
    project: str | None = None
    lines: int = 0
    likely: int = 0  # of the lines that fit
    stopped: int = 0


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a file. `fits` lines can run before a budget's window turns, or it is raised.

    `low` and `high` are the range of `likely` after a sample; `unpriced` models have no usable price, with their lines.
    """

    lines: int
    bad: tuple[BadLine, ...]
    bad_count: int
    models: tuple[ModelEstimate, ...]
    unpriced: dict[str, int]
    likely: int | None
    worst: int | None
    fits: int
    budgets: tuple[BudgetEstimate, ...]
    finish: Finish | None
    low: int | None = None
    high: int | None = None
    chosen: tuple["Chosen", ...] = ()


class Chosen(msgspec.Struct, frozen=True):
    """A line that was asked for: the number of its physical line (from 1), and the model and cost guessed of it."""

    number: int
    model: str
    guess: int | None


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What an estimate goes by beside lines and rules, as it stands at one moment."""

    now: int  # ms of the Redis clock
    answers: Mapping[str, int] = {}  # mean tokens of an answer, by model
    health: Mapping[str, ModelHealth] = {}
    free: Mapping[str, int] = {}  # of each budget, nano-dollars
    used_today: Mapping[tuple[str, str], int] = {}  # requests, by limit and scope


class Estimator:
    """Adds lines up, one by one, in their order. Pure. `keep` are the good lines to be told of, counted from 0."""

    def __init__(
        self,
        pricer: Pricer,
        known: Known,
        measured: Mapping[str, Measured] | None = None,
        keep: AbstractSet[int] = frozenset(),
    ) -> None:
        self._keep = keep
        self._chosen: list[Chosen] = []
        self._good = 0
        self._pricer = pricer
        self._known = known
        self._measured = measured or {}
        self._guesser = Guesser(pricer, known.answers, known.health, now_ms=known.now)
        self._models: dict[str, ModelEstimate] = {}
        self._budgets: dict[str, BudgetEstimate] = {}
        self._covering: dict[str, list[BudgetEstimate]] = {}
        self._unpriced: Counter[str] = Counter()
        self._bad: list[BadLine] = []
        self._bad_count = self._fits = 0

    def add(self, line: Request | BadLine) -> Likely | None:
        """Count a line; return what was guessed of it, None when it can't run."""
        priced = self._pricer.price(line) if isinstance(line, Request) else line
        if isinstance(line, BadLine) or isinstance(priced, BadLine):
            self._bad_count += 1
            if isinstance(line, Request) and isinstance(priced, BadLine) and priced.code == "no_price":
                self._unpriced[line.model] += 1
            if isinstance(priced, BadLine) and len(self._bad) < _SHOWN_BAD:
                self._bad.append(priced)
            return None
        guess = self._guesser.guess(line, priced)
        if self._good in self._keep:
            self._chosen.append(Chosen(line.number, guess.model, guess.cost))
        self._good += 1
        self._count(guess)
        self._spend(guess)
        return guess

    def _count(self, guess: Likely) -> None:
        found = self._models.get(guess.model)
        if found is None:
            observed = guess.model in self._known.answers or guess.model in self._measured
            found = self._models[guess.model] = ModelEstimate(model=guess.model, observed=observed)
        found.lines += 1
        found.prompt_tokens += guess.prompt
        found.completion_tokens += guess.completion
        found.likely = None if found.likely is None or guess.cost is None else found.likely + guess.cost
        found.worst = None if found.worst is None or guess.worst is None else found.worst + guess.worst
        if guess.cost is None:
            self._unpriced[guess.model] += 1

    def _spend(self, guess: Likely) -> None:
        """Have the line pass every budget as the gate does: its bound must fit, its likely cost stays."""
        covering = self._covering.get(guess.model)
        if covering is None:
            covering = self._covering[guess.model] = self._over(guess.model)
        cost = min(scaled(guess.cost or 0, self._measured.get(guess.model)), guess.bound)
        full = [each for each in covering if each.likely + guess.bound > each.free]
        for each in covering:
            each.lines += 1
            each.likely += 0 if full else cost
        for each in full:
            each.stopped += 1
        self._fits += not full

    def _over(self, model: str) -> list[BudgetEstimate]:
        conditions = self._pricer.conditions
        found = []
        for rule in self._pricer.policy.budgets_for(model, conditions.project, conditions.key):
            if rule.name not in self._budgets:
                window = window_at(rule.window, rule.timezone, self._known.now)
                self._budgets[rule.name] = BudgetEstimate(
                    name=rule.name,
                    limit=rule.limit,
                    free=self._known.free.get(rule.name, rule.limit),
                    window=rule.window.value,
                    resets_ms=window.end_ms,
                    project=rule.project,
                )
            found.append(self._budgets[rule.name])
        if conditions.max_cost is not None:
            most = conditions.max_cost
            own = BudgetEstimate(name=OWN, limit=most, free=most, window="batch")
            found.append(self._budgets.setdefault(OWN, own))
        return found

    def estimate(self, *, places: int) -> Estimate:
        """Return what the lines so far come to, with so many in the air."""
        models = sorted(self._models.values(), key=lambda each: (-(each.likely or 0), each.model))
        low, high = self._range(models)
        for each in models:
            measured = self._measured.get(each.model)
            each.likely = measured.total(each.lines, each.likely) if measured else each.likely
            if measured and measured.completion_tokens is not None:
                each.completion_tokens = each.lines * measured.completion_tokens
        loads = [
            Load(each.model, each.lines, each.prompt_tokens + each.completion_tokens, self._latency(each.model))
            for each in models
        ]
        return Estimate(
            lines=sum(each.lines for each in models),
            bad=tuple(self._bad),
            bad_count=self._bad_count,
            models=tuple(models),
            unpriced=dict(self._unpriced),
            likely=_sum([each.likely for each in models]),
            worst=_sum([each.worst for each in models]),
            fits=self._fits,
            budgets=tuple(self._budgets.values()),
            finish=finish_of(loads, self._pricer.policy, self._known.used_today, places=places, now_ms=self._known.now),
            low=low,
            high=high,
            chosen=tuple(self._chosen),
        )

    def _range(self, models: list[ModelEstimate]) -> tuple[int | None, int | None]:
        """Return the range of the whole's cost; None when a model with lines was not measured."""
        found = [(self._measured.get(each.model), each) for each in models]
        ends = [measured.ends(each.lines, each.likely) for measured, each in found if measured]
        if not ends or len(ends) < len(models):
            return None, None
        return sum(low for low, _ in ends), sum(high for _, high in ends)

    def _latency(self, model: str) -> float | None:
        measured = self._measured.get(model)
        if measured and measured.latency_ms is not None:
            return measured.latency_ms
        figure = answer_ms(self._known.health.get(model))
        return figure.value if figure else None


async def known_now(redis: Redis, upstream: str, policy: Policy) -> Known:
    """Return what an estimate goes by at this moment."""
    seen = await models_seen(redis, upstream, _DAY)
    money = await gauges.budgets(redis, upstream)
    named = {budget.name for budget in policy.budgets}
    return Known(
        now=await now_ms(redis),
        answers=await answer_tokens(redis, upstream, seen) if seen else {},
        health=await health_of(redis, upstream, seen) if seen else {},
        free={each.name: each.free for each in money if each.name in named},
        used_today={
            (each.limit.name, each.scope): each.day_count for each in await gauges.limits(redis, upstream) if each.scope
        },
    )


async def estimate(
    redis: Redis,
    settings: Settings,
    path: Path,
    options: InputOptions,
    pricer: Pricer,
    *,
    source: str,
    measured: Mapping[str, Measured] | None = None,
    keep: AbstractSet[int] = frozenset(),
) -> Estimate:
    """Return what the lines of a file would come to now. Raises InputError when it can't be used as a whole."""
    estimator = Estimator(pricer, await known_now(redis, settings.upstream_name, pricer.policy), measured, keep)
    try:
        with path.open("rb") as file:
            lines = read(file, options)
            while await asyncio.to_thread(_add, estimator, lines, source):
                pass
    except OSError as error:
        raise InputError(f"{source} can't be read: {error.strerror}") from error
    return estimator.estimate(places=settings.worker.processes * settings.worker.concurrency)


def _add(estimator: Estimator, lines: Iterator[Request | BadLine], source: str) -> bool:
    """Add the next lines; return whether there may be more."""
    count = 0
    for line in islice(lines, _CHUNK):
        if isinstance(line, BadLine) and line.number is None:
            raise InputError(f"{source}: {line.message}")
        estimator.add(line)
        count += 1
    return count == _CHUNK


def _sum(parts: list[int | None]) -> int | None:
    return None if None in parts else sum(part for part in parts if part is not None)
