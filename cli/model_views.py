"""Models on the screen: a list, one in full, several side by side, and recommendations."""

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

from rich.console import RenderableType
from rich.text import Text

from batchmill.cli.model_tables import BEST, Column, side_by_side, table_of
from batchmill.openrouter.list_prices import usd_text
from batchmill.routing.comparison import Compared, Comparison
from batchmill.routing.performance import FLEET, Figure, Health, answer_ms, success
from batchmill.routing.recommendation import Recommendation
from batchmill.routing.shelf import Item

_THOUSAND = 1000
_MILLION = 1_000_000
_HUNDRED = 100
_ALMOST = 1e-9  # so that 0.987, which is a little less as a float, stays 98.7 %


def list_table(items: Sequence[Item], health: Health, width: int) -> RenderableType:
    """Return a table of models; prices in USD for a million tokens."""
    columns = (
        Column("input $/M", [price(item.price.input) for item in items]),
        Column("output $/M", [price(item.price.output) for item in items]),
        Column("context", [tokens(item.facts.context_length) for item in items]),
        Column("answer", [tokens(item.facts.max_completion_tokens) for item in items], 2),
        Column("time", [seconds(answer_ms(health.get(item.id))) for item in items], 3),
        Column("success", [percent(success(health.get(item.id))) for item in items], 1),
        Column("created", [day(item.facts.created) for item in items], 4),
        Column("tags", [", ".join(sorted(item.tags)) for item in items], 5, right=False),
    )
    return table_of(Column("model", [item.id for item in items]), columns, width)


def comparison_tables(compared: Comparison, today: date, width: int) -> list[RenderableType]:
    """Return models side by side; a star marks the best of those that are known."""
    able = [word for word in compared.capabilities if not all(word in one.item.capabilities for one in compared.models)]
    shared = [word for word in compared.capabilities if word not in able]
    labels: list[str] = []
    columns = []
    for one in compared.models:
        rows = _rows(one, compared.wins) + [(word, "yes" if word in one.item.capabilities else "-") for word in able]
        labels = [label for label, _ in rows]
        columns.append(Column(one.item.id, [cell for _, cell in rows]))
    told = [place for place in range(len(labels)) if any(column.cells[place] != "-" for column in columns)]
    shown = [Column(one.title, [one.cells[place] for place in told]) for one in columns]
    tables = side_by_side([labels[place] for place in told], shown, width)
    notes = [
        f"cost: of {tokens(compared.mix.prompt)} prompt and {tokens(compared.mix.completion)} completion tokens"
        + (f", {tokens(compared.mix.cached)} of the prompt from a cache" if compared.mix.cached else "")
        + "; * the best",
        f"all can: {', '.join(shared)}" if shared else "",
        *(f"{one.item.id}: {one.trouble}" for one in compared.models if one.trouble),
        *filter(None, (expiry_warning(one.item, today) for one in compared.models)),
    ]
    return [*tables, Text("\n".join(note for note in notes if note))]


def recommendation_views(best: Sequence[Recommendation], width: int) -> list[RenderableType]:
    """Return the ranking: scores and their parts from 0 to 100, then the reasons."""
    names = [part.name for part in best[0].parts]
    columns = [
        Column("score", [points(one.score) for one in best]),
        *(Column(name, [points(one.parts[place].value) for one in best], 1) for place, name in enumerate(names)),
        Column("input $/M", [price(one.item.price.input) for one in best]),
        Column("output $/M", [price(one.item.price.output) for one in best]),
        Column("context", [tokens(one.item.facts.context_length) for one in best], 2),
    ]
    weights = ", ".join(f"{part.name} {_HUNDRED * part.weight:.0f} %" for part in best[0].parts)
    reasons = "\n".join(f"{place}. {one.item.id}: {one.reason}" for place, one in enumerate(best, 1))
    return [
        table_of(Column("model", [f"{place}. {one.item.id}" for place, one in enumerate(best, 1)]), columns, width),
        Text(f"\nthe score weighs {weights}\n"),
        Text(reasons),
    ]


def expiry_warning(item: Item, today: date) -> str | None:
    """Say when a model may be removed; None when nobody says."""
    expires = item.facts.expires
    if expires is None:
        return None
    gone = expires[:10] < today.isoformat()
    return f"{item.id}: {'may be gone since' if gone else 'may be removed after'} {expires}"


def price(usd: Decimal | None) -> str:
    """Return a price, or a dash for one that is not known."""
    return "-" if usd is None else usd_text(usd)


def tokens(count: int | None) -> str:
    """Return a number of tokens: 512, 128k, 1.05M; a dash for none."""
    if count is None:
        return "-"
    if count < _THOUSAND:
        return str(count)
    if count < _MILLION:
        return f"{count / _THOUSAND:.1f}".removesuffix(".0") + "k" if count % _THOUSAND else f"{count // _THOUSAND}k"
    return f"{count / _MILLION:.2f}".rstrip("0").rstrip(".") + "M"


def seconds(figure: Figure | None) -> str:
    """Return a time; one that the fleet did not measure itself is marked by ~."""
    return "-" if figure is None else f"{_mark(figure)}{figure.value / _THOUSAND:.1f} s"


def percent(figure: Figure | None) -> str:
    """Return a share of 0 to 1 in per cent, marked as `seconds` does."""
    return "-" if figure is None else f"{_mark(figure)}{share_text(figure.value)}"


def share_text(share: float) -> str:
    """Return a share of 0 to 1 in per cent, rounded down so that 100 % means all."""
    return f"{math.floor(_THOUSAND * share + _ALMOST) / 10:.1f} %"


def rate(figure: Figure | None) -> str:
    """Return tokens a second, marked as `seconds` does."""
    return "-" if figure is None else f"{_mark(figure)}{figure.value:.0f}"


def points(score: float) -> str:
    """Return a score of 0 to 1 as points of 100."""
    return f"{_HUNDRED * score:.0f}"


def day(unix_seconds: int) -> str:
    """Return a UTC day; a dash for none."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d") if unix_seconds else "-"


def _mark(figure: Figure) -> str:
    return "" if figure.source == FLEET else "~"


def _rows(one: Compared, wins: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """Return every row of a comparison for one model; a dash for what is not known."""
    facts, listed = one.item.facts, one.item.price
    cells = (
        ("cost", "cost", price(one.cost)),
        ("input $/M", "", price(listed.input)),
        ("output $/M", "", price(listed.output)),
        ("cache read $/M", "", price(listed.cache_read)),
        ("cache write $/M", "", price(listed.cache_write)),
        ("context", "context", tokens(facts.context_length)),
        ("longest answer", "output", tokens(facts.max_completion_tokens)),
        ("time of an answer", "answer time", seconds(one.answer_ms)),
        ("first token", "first token", seconds(one.first_token_ms)),
        ("tokens a second", "tokens a second", rate(one.tokens_per_second)),
        ("success", "success", percent(one.success)),
        ("benchmark", "", f"{one.benchmark.score:.1f}" if one.benchmark else "-"),
        ("created", "age", day(facts.created)),
        ("expires", "", facts.expires or "-"),
    )
    return [(label, cell + (BEST if one.item.id in wins.get(name, ()) else "")) for label, name, cell in cells]
