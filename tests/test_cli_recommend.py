"""`batchmill spend recommend` as a person uses it."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from batchmill.spend.ledger import UsageRecord
from batchmill.store import ledger

from .cli_helpers import Desk, desk, shared_simulator

__all__ = ["desk", "shared_simulator"]

NOON = 1_795_435_200_000
CALL = UsageRecord(
    at=NOON, hold="h", project="p", batch="b", index=0, model="openai/gpt-4o",
    prompt_tokens=100_000, cached_tokens=20_000, completion_tokens=10_000, cost=325_000_000,
)  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the ledger was asked for; it answers with one call."""
    heard: dict[str, Any] = {}

    async def records(redis: object, upstream: str, **how: Any) -> AsyncIterator[UsageRecord]:
        heard.update(how)
        for record in () if how["project"] == "nobody" else (CALL,):
            yield record

    monkeypatch.setattr(ledger, "records", records, raising=False)
    return heard


def test_json_has_the_evidence_and_exact_money(desk: Desk, asked: dict[str, Any]) -> None:
    ended = desk.run(
        "spend", "recommend", "--simulate", "--json", "--needs", "nothing", "-n", "2", "--since", "2026-11-01"
    )
    assert ended.code == 0, ended.err
    told = json.loads(ended.out, parse_float=Decimal)
    (model,) = told["models"]
    assert (model["model"], model["requests"], model["paid_usd"]) == ("openai/gpt-4o", 1, Decimal("0.325"))
    assert (model["needs"], model["needs_source"], model["context_used"]) == ([], "told", 110_000)
    assert told["quality_judged"] is False
    assert {one["kind"] for one in model["options"]} == {"model", "free", "batch"}
    for option in model["options"]:
        assert option["saving_usd"] <= model["reckoned_from_usd"] - option["cost_usd"]
        assert option["saving_usd"] > 0
    assert max(sum(one["kind"] == kind for one in model["options"]) for kind in ("model", "free", "batch")) <= 2
    assert asked["since_ms"] == 1_793_491_200_000


def test_people_see_savings_evidence_and_that_quality_is_not_judged(desk: Desk, asked: dict[str, Any]) -> None:
    ended = desk.run("spend", "recommend", "--simulate", "--needs", "nothing")
    assert ended.code == 0, ended.err
    words = " ".join(ended.out.split())
    assert words.startswith("1. save $")
    assert "100,000 prompt tokens (20,000 cached) + 10,000 answer tokens" in words
    assert "caching: openai/gpt-4o read 80,000 prompt tokens that no cache held" in words
    assert "quality is not judged" in ended.err
    assert asked["project"] is None
    upper = desk.run("spend", "recommend", "--simulate")
    assert "all that it can do" in " ".join(upper.out.split())


def test_without_calls_it_says_so(desk: Desk, asked: dict[str, Any]) -> None:
    ended = desk.run("spend", "recommend", "--simulate", "--project", "nobody")
    assert (ended.code, ended.out) == (0, "")
    assert "nothing to reckon with" in ended.err
    assert asked["project"] == "nobody"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--needs", "tool"), "did you mean"),
        (("--needs", "nothing,tools"), "stands alone"),
        (("--since", "soon"), "'soon' is no day"),
    ],
)
def test_a_wrong_word_is_answered_with_what_would_do(
    desk: Desk, asked: dict[str, Any], options: tuple[str, ...], complaint: str
) -> None:
    ended = desk.run("spend", "recommend", "--simulate", *options)
    assert ended.code == 2
    assert complaint in ended.err
    assert asked == {}
