"""The page for operators names every metric, in the words of its declaration."""

from pathlib import Path

from batchmill.store.metrics import METRICS

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"


def test_the_table_of_metrics_is_that_of_the_declarations() -> None:
    rows = [f"| `{each.name}` | {', '.join(each.labels)} | {each.says} |" for each in METRICS]
    shown = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `batchmill_")]
    assert shown == rows
