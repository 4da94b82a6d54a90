"""One model in full on the screen."""

from collections.abc import Iterator, Sequence

import msgspec
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from batchmill.cli.model_tables import Column, table_of
from batchmill.cli.model_views import day, percent, price, rate, seconds, share_text, tokens
from batchmill.cli.words import duration
from batchmill.openrouter.capabilities import EFFORT, evidence
from batchmill.openrouter.endpoints import Endpoint
from batchmill.openrouter.list_prices import MILLION, list_price, usd_text
from batchmill.openrouter.models import Reasoning
from batchmill.openrouter.prices import Override
from batchmill.routing.health import ModelHealth, Traffic
from batchmill.routing.performance import answer_ms, first_token_ms, success, tokens_per_second, trouble
from batchmill.routing.shelf import Item, Shelf

_END_OF_DAY = 2400  # HHMM
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def details(
    item: Item, related: Sequence[str], shelf: Shelf, health: ModelHealth | None, now_ms: int
) -> RenderableType:
    """Return everything that is known of a model as names and values; `now_ms` is Redis's clock."""
    table = Table.grid(padding=(0, 2))
    for name, value in (
        *_identity(item),
        *_prices(item),
        *_abilities(item),
        *_kin(related, shelf),
        *_state(health, now_ms),
    ):
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def endpoint_table(endpoints: Sequence[Endpoint], width: int) -> RenderableType:
    """Return who serves a model, at what price, and how well in the last 30 minutes."""
    listed = [list_price(one.pricing) for one in endpoints]
    columns = (
        Column("input $/M", [price(one.input) for one in listed]),
        Column("output $/M", [price(one.output) for one in listed]),
        Column("context", [tokens(one.context_length) for one in endpoints], 3),
        Column("up", ["-" if one.uptime_last_30m is None else f"{one.uptime_last_30m:.1f} %" for one in endpoints], 1),
        Column("first token", [_median(one.latency_ms, "ms") for one in endpoints], 2),
        Column("tokens/s", [_median(one.throughput, "") for one in endpoints], 2),
        Column("quantization", [one.quantization or "-" for one in endpoints], 4, right=False),
        Column("state", ["" if one.status in (0, None) else f"status {one.status}" for one in endpoints], 1),
    )
    return table_of(Column("provider", [one.tag or one.provider_name for one in endpoints]), columns, width)


def traffic_table(seen: Traffic, width: int) -> RenderableType:
    """Return what the fleet saw of a model in the last day, by the provider that answered or failed."""
    rows = [(name or "not told", one) for name, one in seen.providers.items()]
    if len(rows) != 1:
        rows.append(("all", seen))
    columns = (
        Column("calls", [f"{one.calls:,}" for _, one in rows]),
        Column("success", ["-" if one.success_rate is None else share_text(one.success_rate) for _, one in rows]),
        Column("limited", [f"{one.limited:,}" if one.limited else "-" for _, one in rows], 3),
        Column("median", [_time(one.latency.p50 if one.latency else None) for _, one in rows]),
        Column("90 %", [_time(one.latency.p90 if one.latency else None) for _, one in rows], 1),
        Column("99 %", [_time(one.latency.p99 if one.latency else None) for _, one in rows], 1),
        Column("first token", [_time(one.first_token.p50 if one.first_token else None) for _, one in rows], 2),
        Column("tokens/s", [f"{one.tokens_per_second:.0f}" if one.tokens_per_second else "-" for _, one in rows], 2),
    )
    return table_of(Column("in a day, by", [name for name, _ in rows]), columns, width)


def _identity(item: Item) -> Iterator[tuple[str, str]]:
    facts = item.facts
    yield "model", item.id
    named = (
        ("name", facts.name),
        ("author", item.author_name),
        ("family", item.family),
        ("about", " ".join(facts.description.split())),
        ("created", day(facts.created)),
        ("knows until", facts.knowledge_cutoff),
        ("expires", f"{facts.expires}: it may be removed after that day" if facts.expires else None),
        ("weights", facts.hugging_face_id),
        ("stands for", facts.alias_target),
        ("tags", ", ".join(sorted(item.tags))),
    )
    yield from ((name, value) for name, value in named if value and value != "-")


def _prices(item: Item) -> Iterator[tuple[str, str]]:
    listed = item.price
    rates = (
        ("input", listed.input),
        ("output", listed.output),
        ("cache read", listed.cache_read),
        ("cache write", listed.cache_write),
        ("reasoning", listed.reasoning),
    )
    told = ", ".join(f"{name} {usd_text(rate)}" for name, rate in rates if rate is not None)
    yield "price", f"{told} a million tokens" if told else "not known"
    each = (("request", listed.request), ("image", listed.image))
    if more := ", ".join(f"{usd_text(rate)} {_one(name)}" for name, rate in each if rate is not None):
        yield "and", more
    if listed.blended is not None:
        yield "blended", f"{usd_text(listed.blended)} a million tokens, three read to one written"
    for override in listed.price.overrides:
        yield "but", override_text(override)


def _one(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def override_text(override: Override) -> str:
    """Return when other rates hold, and which."""
    when = []
    if override.min_prompt_tokens is not None:
        when.append(f"for prompts above {override.min_prompt_tokens:,} tokens")
    if override.days is not None:
        when.append(f"on {', '.join(_DAYS[day] for day in sorted(override.days))}")
    if override.start is not None or override.end is not None:
        when.append(
            f"from {_clock(override.start or 0)} to {_clock(2400 if override.end is None else override.end)} UTC"
        )
    rates = msgspec.structs.asdict(override.rates)
    told = [
        f"{name.removeprefix('input_').replace('_', ' ')} {'unknown' if rate is None else usd_text(rate * MILLION)}"
        for name, rate in rates.items()
        if rate is not msgspec.UNSET
    ]
    return f"{', '.join(told)} {' '.join(when) or 'at times that can not be read'}"


def _abilities(item: Item) -> Iterator[tuple[str, str]]:
    facts = item.facts
    if facts.context_length is not None:
        longest = facts.max_completion_tokens
        answers = "" if longest is None else f", answers of up to {longest:,}"
        yield "context", f"{facts.context_length:,} tokens{answers}"
    if facts.input_modalities or facts.output_modalities:
        yield "modalities", f"{', '.join(facts.input_modalities)} -> {', '.join(facts.output_modalities)}"
    by = {word: field for word, field in sorted(evidence(facts).items()) if not word.startswith(EFFORT)}
    for place, (word, field) in enumerate(by.items()):
        yield "" if place else "can", f"{word} ({field})"
    if facts.reasoning is not None:
        yield "reasoning", _thinking(facts.reasoning)


def _thinking(reasoning: Reasoning) -> str:
    told = {None: "thinks when asked to, or by default", True: "thinks by default", False: "thinks when asked to"}
    when = "always thinks" if reasoning.mandatory else told[reasoning.default_enabled]
    usual = f", {reasoning.default_effort} by default" if reasoning.default_effort else ""
    return f"{when}; efforts: {', '.join(reasoning.efforts) or 'not told'}{usual}"


def _kin(related: Sequence[str], shelf: Shelf) -> Iterator[tuple[str, str]]:
    for place, model in enumerate(related):
        kin = shelf.find(model)
        listed = "" if kin is None else f" ({price(kin.price.input)} / {price(kin.price.output)})"
        yield "" if place else "variants", f"{model}{listed}"


def _state(health: ModelHealth | None, now_ms: int) -> Iterator[tuple[str, str]]:
    if health is None:
        yield "health", "nobody knows: the fleet did not use it lately, nor were its endpoints looked at"
        return
    figures = (
        ("an answer", seconds(answer_ms(health))),
        ("first token", seconds(first_token_ms(health))),
        ("success", percent(success(health))),
        ("tokens a second", rate(tokens_per_second(health))),
    )
    told = [f"{name} {value}" for name, value in figures if value != "-"]
    bad = [problem] if (problem := trouble(health)) else []
    yield "health", "; ".join([*told, *bad]) or "nothing is wrong, and nothing is known"
    if health.calls:
        calls = f"{health.calls:,} {'call' if health.calls == 1 else 'calls'} in {duration(health.seconds)}"
        yield "", f"by the fleet: {calls}, the last {_ago(health.measured_at, now_ms)}"
    if health.stated_at:
        yield "", f"~ by its endpoints: what they stated {_ago(health.stated_at, now_ms)}"


def _ago(at_ms: int, now_ms: int) -> str:
    return f"{duration(max(0, now_ms - at_ms) / 1000)} ago"


def _median(spread: msgspec.Struct | None, unit: str) -> str:
    median: float | None = getattr(spread, "p50", None)
    return "-" if median is None else f"{median:,.0f} {unit}".strip()


def _time(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds / 1000:.2f} s"


def _clock(hhmm: int) -> str:
    return f"{hhmm // 100:02}:{hhmm % 100:02}"
