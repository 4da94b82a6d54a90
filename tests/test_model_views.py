"""What `batchmill models` shows on screens of any width: a number is whole, or not there."""

import io
from datetime import UTC, date, datetime

import msgspec
import pytest
from rich.console import Console, RenderableType

from batchmill.cli.model_commands import drift_lines
from batchmill.cli.model_details import details, endpoint_table, override_text, traffic_table
from batchmill.cli.model_views import (
    comparison_tables,
    expiry_warning,
    list_table,
    recommendation_views,
    share_text,
    tokens,
)
from batchmill.openrouter.drift import Drift, UnknownField, UnknownValue, Unreadable
from batchmill.openrouter.endpoints import Endpoint, Percentiles
from batchmill.openrouter.prices import decode_price
from batchmill.openrouter.variants import variants_of
from batchmill.routing.comparison import compare
from batchmill.routing.health import ModelHealth, Spread, Traffic
from batchmill.routing.recommendation import Needs, recommend
from batchmill.routing.shelf import Shelf, item_of

from .shelf_helpers import catalogue, facts

SHELF = Shelf(catalogue())
TODAY = date(2026, 11, 24)
NOW_MS = 1_795_521_600_000
LONGEST = max(SHELF.items, key=lambda item: len(item.id))
HEALTH = {
    LONGEST.id: ModelHealth(
        model=LONGEST.id, calls=1_234, failures=12, seconds=3600, latency_ms=812.4, measured_at=NOW_MS - 2_000
    ),
    "openai/gpt-4o-mini": ModelHealth(
        model="openai/gpt-4o-mini",
        uptime=0.987,
        stated_latency_ms=420.0,
        stated_tokens_per_second=88.0,
        stated_at=NOW_MS - 65_000,
    ),
}


def shown(*what: RenderableType, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    for one in what:
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 132, 240])
def test_a_list_fits_the_screen_and_cuts_nothing(width: int) -> None:
    text = shown(list_table(SHELF.items, HEALTH, width), width=width)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    joined = "".join(text.split())
    for item in SHELF.items:
        assert item.id[:20] in joined
    for number in ("$0.15", "$0.60", "128k"):
        assert number in text


def test_a_wide_screen_has_more_columns() -> None:
    narrow, wide = (shown(list_table(SHELF.items, HEALTH, width), width=width) for width in (80, 240))
    assert "tags" not in narrow
    assert all(word in wide for word in ("tags", "created", "answer", "99.0 %", "0.8 s", "~98.7 %", "~3.8 s"))


@pytest.mark.parametrize("width", [50, 80, 240])
def test_a_comparison_keeps_every_model_and_every_number(width: int) -> None:
    ids = [
        "openai/gpt-4o-mini",
        "anthropic/claude-haiku-4.5",
        "google/gemini-2.5-flash",
        "x-ai/grok-4-fast",
        LONGEST.id,
    ]
    compared = compare(SHELF, ids, at=datetime(2026, 11, 24, tzinfo=UTC), health=HEALTH)
    text = shown(*comparison_tables(compared, TODAY, width), width=width)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    for number in ("$0.00105", "$0.008", "$0.0034", "16.4k", "2M *", "~98.7 %", "99.0 % *", "2024-07-18"):
        assert number in text, number
    assert "all can: " in text


@pytest.mark.parametrize("width", [60, 80, 240])
def test_recommendations_show_score_parts_and_reasons(width: int) -> None:
    ranking = recommend(SHELF, Needs(today=TODAY), HEALTH)
    text = shown(*recommendation_views(ranking.best, width), width=width)
    assert "…" not in text
    assert "the score weighs price 70 %, quality 10 %, speed 10 %, reliability 10 %" in " ".join(text.split())
    assert f"{100 * ranking.best[0].score:.0f}" in text
    assert ranking.best[0].reason in " ".join(text.split())


def test_one_model_in_full_says_prices_overrides_variants_and_health_with_source_and_age() -> None:
    item = SHELF.find("openai/gpt-6-luna-pro")
    assert item is not None
    related = variants_of(item.id, SHELF.models)
    health = msgspec.structs.replace(HEALTH[LONGEST.id], model=item.id, uptime=1.0, stated_at=NOW_MS - 65_000)
    text = shown(details(item, related, SHELF, health, NOW_MS), width=80)
    for words in (
        "input $0.10, output $0.50",
        "for prompts above 272,000 tokens",
        "openai/gpt-6-luna-pro:batch ($0.05 / $0.25)",
        "vision (architecture.input_modalities: image)",
        "efforts: max, xhigh, high, medium, low, none, medium by default",
        "by the fleet: 1,234 calls in 1:00:00, the last 2.0 s ago",
        "by its endpoints: what they stated 1:05 ago",
    ):
        assert words in " ".join(text.split()), words


@pytest.mark.parametrize("width", [80, 132])
def test_traffic_is_shown_by_provider(width: int) -> None:
    one = Traffic(model="a", seconds=60, calls=1_234_567, failures=1, latency=Spread(812.0, 1_900.0, 61_000.0))
    other = Traffic(model="a", seconds=60, limited=3)
    whole = msgspec.structs.replace(one, limited=3, providers={"Amazon Bedrock": one, "": other})
    text = shown(traffic_table(whole, width), width=width)
    assert "…" not in text
    for words in ("Amazon Bedrock", "not told", "all", "1,234,567", "99.9 %", "0.81 s"):
        assert words in text, words
    assert "61.00 s" in text
    assert "\nall" in text
    assert "\nall" not in shown(traffic_table(msgspec.structs.replace(one, providers={"A": one}), width), width=width)


def test_of_a_model_that_nobody_used_the_health_is_not_known() -> None:
    item = item_of(facts(expires="2026-12-01"))
    text = " ".join(shown(details(item, (), SHELF, None, NOW_MS), width=80).split())
    assert "nobody knows" in text
    assert "2026-12-01: it may be removed after that day" in text


@pytest.mark.parametrize(
    ("expires", "warning"),
    [(None, None), ("2026-12-01", "may be removed after 2026-12-01"), ("2026-11-01", "may be gone since 2026-11-01")],
)
def test_an_expiry_is_warned_about(expires: str | None, warning: str | None) -> None:
    told = expiry_warning(item_of(facts(expires=expires)), TODAY)
    assert told == (None if warning is None else f"acme/one: {warning}")


def test_endpoints_say_who_serves_at_what_price_and_how_well() -> None:
    served = [
        Endpoint(
            "DeepInfra", "deepinfra/turbo", pricing=b'{"prompt":"0.000001","completion":"0.000002"}', status=0,
            uptime_last_30m=99.5, latency_ms=Percentiles(p50=410.0), throughput=Percentiles(p50=95.2),
            quantization="fp8",
        ),
        Endpoint("Acme", status=-3),
    ]  # fmt: skip
    text = shown(endpoint_table(served, 132), width=132)
    for words in ("deepinfra/turbo", "$1.00", "$2.00", "99.5 %", "410 ms", "95", "fp8", "Acme", "status -3"):
        assert words in text, words


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            '{"utc_days":["monday","friday"],"utc_start":1630,"utc_end":30,"prompt":"0.0000014"}',
            "prompt $1.40 on Mon, Fri from 16:30 to 00:30 UTC",
        ),
        ('{"utc_start":800,"completion":"-1"}', "completion unknown from 08:00 to 24:00 UTC"),
        ('{"utc_days":["someday"],"prompt":"0.1"}', "prompt unknown at times that can not be read"),
    ],
)
def test_overrides_in_words(override: str, text: str) -> None:
    price = decode_price(f'{{"prompt":"0","completion":"0","overrides":[{override}]}}'.encode())
    assert override_text(price.overrides[0]) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (512, "512"), (128_000, "128k"), (131_072, "131.1k"), (1_000_000, "1M"), (1_048_576, "1.05M")],
)
def test_numbers_of_tokens(count: int | None, text: str) -> None:
    assert tokens(count) == text


@pytest.mark.parametrize(("share", "text"), [(1.0, "100.0 %"), (0.99999, "99.9 %"), (0.987, "98.7 %"), (0.0, "0.0 %")])
def test_a_hundred_per_cent_means_all(share: float, text: str) -> None:
    assert share_text(share) == text


def test_drift_in_lines() -> None:
    drift = Drift(
        entries=3,
        fields=(UnknownField("pricing.overrides[].region", 2, '"eu"'),),
        values=(UnknownValue("architecture.tokenizer", "Gamma", 1),),
        unreadable=(Unreadable("#7", "it is no object", True), Unreadable("a/b", "context_length", False)),
        unpriced=("a/b",),
        missing=4,
    )
    assert drift_lines(drift) == [
        'unknown field pricing.overrides[].region: 2 times, e.g. "eu"',
        "unknown value Gamma of architecture.tokenizer: 1 times",
        "left out: #7: it is no object",
        "read in part: a/b: context_length",
        "4 models more than the listing holds",
        "no usable price: a/b",
    ]
    assert drift_lines(Drift(entries=3)) == ["everything in 3 entries is known"]
    assert drift_lines(None) == ["nothing was read anew, so nothing is known of its drift"]
