"""What `batchmill status` shows on screens of any width."""

import io

import msgspec
import pytest
from rich.console import Console

from batchmill.cli.views import table_of
from batchmill.openrouter.outcomes import Usage
from batchmill.store.model import BatchState, BatchStatus

BATCH = BatchStatus(
    id="batch_01a20bcf00c3f71811f2a3e18dbe",
    state=BatchState.IN_PROGRESS,
    total=123_456,
    running=100,
    succeeded=98_765,
    failed=4_321,
    cancelled=0,
    expired=0,
    usage=Usage(),
    cost=12_345_000_000,
    uncosted=0,
    models={"a/b": 123_456},
    upstream="simulator",
    source="a/long/way/to/the/prompts.jsonl",
    created_at=1_780_000_000,
)


def shown(width: int) -> str:
    """Return the table as a screen of that width shows it."""
    console = Console(width=width, file=io.StringIO())
    console.print(table_of([BATCH, msgspec.structs.replace(BATCH, source=None, total=1, succeeded=1, failed=0)], width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("width", "there", "gone"),
    [
        (200, ["a/long/way/to/the/prompts.jsonl", "$12.345"], []),
        (135, ["98,765", "4,321", "$12.345", "2026-05-2", "source"], []),
        (90, ["98,765", "4,321"], ["source", "created"]),
        (80, ["83 % of 123,456", "4,321"], ["cost"]),
        (40, [], ["progress"]),
    ],
)
def test_numbers_are_whole_or_not_there(width: int, there: list[str], gone: list[str]) -> None:
    text = shown(width)
    assert all(word in text for word in [BATCH.id, *there])
    assert not any(word in text for word in gone)
    assert "…" not in text or "source" in there, "only a path may be cut off"
    assert len(text.splitlines()) == 3
