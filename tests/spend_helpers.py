"""A history of calls as the ledger tells it: records as they were written, and the roll-ups that belong to them."""

import random
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime

import msgspec
import pytest

from batchmill.spend.ledger import Day, Group, Source, Sums, UsageRecord
from batchmill.spend.reports import By, Report, Row, Tally
from batchmill.store import ledger

DAY_MS = 86_400_000
START = 1_793_491_200_000  # 2026-11-01T00:00Z
MODELS = ("openai/gpt-4o-mini", "anthropic/claude-3.5-haiku", "a/nameless")
PROVIDERS = {"openai/gpt-4o-mini": "OpenAI", "anthropic/claude-3.5-haiku": "Anthropic", "a/nameless": None}
TAGS: tuple[tuple[str, ...], ...] = ((), ("team=search",), ("exp=a, b", "team=ads"))


def record(hold: str = "h1", day: int = 0, **fields: object) -> UsageRecord:
    """Return a record of the day that is so many days after 2026-11-01."""
    told: dict[str, object] = {
        "at": START + day * DAY_MS, "project": "default", "batch": "batch_1", "index": 0, "model": MODELS[0],
    }  # fmt: skip
    return UsageRecord(hold=hold, **(told | fields))  # type: ignore[arg-type]


def history(seed: int, calls: int, days: int = 10) -> list[UsageRecord]:
    """Return random calls: most told, some failed at a cost, some suspect; of these some corrected, a few twice."""
    chance = random.Random(seed)
    found: list[UsageRecord] = []
    for number in range(calls):
        model = chance.choice(MODELS)
        call = record(
            f"h{number}",
            at=START + chance.randrange(days * DAY_MS),
            project=chance.choice(("web", "evals")),
            batch=f"batch_{chance.randrange(4)}",
            index=number,
            custom_id=f'line "{number}", é',
            model=model,
            provider=PROVIDERS[model],
            tags=chance.choice(TAGS),
            outcome=chance.choice(("ok", "ok", "timeout")),
            prompt_tokens=chance.randrange(2000),
            completion_tokens=chance.randrange(500),
            cached_tokens=chance.randrange(9),
            reasoning_tokens=chance.randrange(9),
            cost=chance.randrange(10**10),
        )
        if chance.random() < 0.7:
            found.append(call)
            continue
        blank = msgspec.structs.replace(
            call, source=Source.SUSPECT, outcome="lost", prompt_tokens=0, completion_tokens=0, cached_tokens=0,
            reasoning_tokens=0, provider=None, cost=10**10,
        )  # fmt: skip
        found.append(blank)
        at = blank.at
        for basis in chance.sample((blank, call), chance.randrange(3)):
            at += chance.randrange(3 * DAY_MS)
            cost = chance.randrange(10**10)
            found.append(msgspec.structs.replace(basis, at=at, source=Source.RECONCILED, cost=cost))
    return sorted(found, key=lambda one: one.at)


def day_of(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def rolled(records: list[UsageRecord], *, by_batch: bool = False) -> list[Day]:
    """Return the roll-ups: of every call what was said of it last, on the day when it was first told."""
    first: dict[str, str] = {}
    last: dict[str, UsageRecord] = {}
    for one in records:
        first.setdefault(one.hold, day_of(one.at))
        last[one.hold] = one
    days: dict[str, list[tuple[Group, Sums]]] = {}
    for hold, one in last.items():
        of_batch = Group(one.project, batch=one.batch)
        group = of_batch if by_batch else Group(one.project, one.model, one.provider or "", one.tags)
        days.setdefault(first[hold], []).append((group, sums_of(one)))
    return [Day(*day) for day in sorted(days.items())]


def sums_of(one: UsageRecord) -> Sums:
    known = one.source is not Source.SUSPECT
    return (
        1, int(one.outcome == "ok"), one.prompt_tokens, one.cached_tokens, one.completion_tokens, one.reasoning_tokens,
        one.cost if known else 0, 0 if known else one.cost,
    )  # fmt: skip


def report_of(days: Iterable[Day], by: By, project: str | None = None) -> Report:
    tally = Tally(by, project)
    for day in days:
        tally.take(day)
    return tally.report()


def counts(row: Row) -> Sums:
    return msgspec.structs.astuple(row)[1:]


def told_by_the_ledger(patch: pytest.MonkeyPatch, records: list[UsageRecord]) -> None:
    """Let the reading side of the ledger know these records, and nothing else."""

    async def read_records(
        redis: object, upstream: str, *, since_ms: int = 0, until_ms: int | None = None, project: str | None = None
    ) -> AsyncIterator[UsageRecord]:
        for one in records:
            if since_ms <= one.at and (until_ms is None or one.at < until_ms) and project in (None, one.project):
                yield one

    async def read_days(
        redis: object, upstream: str, first_day: str, last_day: str, *, by_batch: bool = False
    ) -> AsyncIterator[Day]:
        for day in rolled(records, by_batch=by_batch):
            if first_day <= day.name <= last_day:
                yield day

    patch.setattr(ledger, "records", read_records, raising=False)
    patch.setattr(ledger, "days", read_days, raising=False)
