"""The end of a run, for people and for programs."""

from decimal import Decimal

import click
import msgspec

from batchmill.cli.line_file import STDOUT
from batchmill.cli.result_files import ResultFiles
from batchmill.cli.tally import FailureGroup, Tally
from batchmill.cli.words import cost_of, duration, outcomes
from batchmill.openrouter.money import to_usd
from batchmill.producer.render import to_json
from batchmill.store.model import BatchStatus

_SHOWN_FAILURES = 10


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds of the calls that brought the completions; None without any."""

    p50: int | None
    p95: int | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What `run --json` prints. Lines and money are the whole batch's, time and rate are this run's.

    `done_before` lines had a result when the run began. `uncosted_lines` succeeded without a word about their
    cost, `cached_lines` from earlier answers.
    """

    batch_id: str
    status: str
    exit_code: int
    lines: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    done_before: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: Decimal
    uncosted_lines: int
    cached_lines: int
    elapsed_s: float
    lines_per_s: float
    latency_ms: Latency
    results_file: str | None
    errors_file: str | None
    failures: list[FailureGroup]


def summarize(
    status: BatchStatus, tally: Tally, files: ResultFiles, *, done_before: int, elapsed: float, exit_code: int
) -> Summary:
    """Put the end of a run together; `elapsed` in seconds."""
    return Summary(
        batch_id=status.id,
        status=status.state.value,
        exit_code=exit_code,
        lines=status.total,
        succeeded=status.succeeded,
        failed=status.failed,
        cancelled=status.cancelled,
        expired=status.expired,
        done_before=done_before,
        prompt_tokens=status.usage.prompt_tokens,
        completion_tokens=status.usage.completion_tokens,
        cost_usd=to_usd(status.cost),
        uncosted_lines=status.uncosted,
        cached_lines=status.cached,
        elapsed_s=round(elapsed, 3),
        lines_per_s=round((status.done - done_before) / elapsed, 1) if elapsed else 0.0,
        latency_ms=Latency(tally.latency_ms(0.50), tally.latency_ms(0.95)),
        results_file=None if files.results_path == STDOUT else str(files.results_path),
        errors_file=None if files.errors_path is None else str(files.errors_path),
        failures=tally.failures(),
    )


def print_json(summary: Summary) -> None:
    """Print one JSON object on standard output."""
    click.echo(to_json(summary))


def print_summary(summary: Summary, status: BatchStatus) -> None:
    """Print it for people, on standard error."""
    rows = [
        ("lines", f"{summary.lines:,}: {outcomes(status)}"),
        ("tokens", f"{summary.prompt_tokens:,} prompt + {summary.completion_tokens:,} completion"),
        ("cost", cost_of(status)),
        ("time", _time(summary)),
        ("results", summary.results_file or "standard output"),
    ]
    if summary.errors_file:
        rows.append(("errors", summary.errors_file))
    for name, value in rows:
        click.echo(f"{name:<9}{value}", err=True)
    _print_failures(summary)


def _time(summary: Summary) -> str:
    parts = [duration(summary.elapsed_s)]
    if summary.lines > summary.done_before:
        parts.append(f"{summary.lines_per_s:,.1f} lines/s")
    latency = summary.latency_ms
    if latency.p50 is not None and latency.p95 is not None:
        parts.append(f"latency p50 {latency.p50:,} ms, p95 {latency.p95:,} ms")
    return " · ".join(parts)


def _print_failures(summary: Summary) -> None:
    if not summary.failures:
        return
    click.echo("failures", err=True)
    for group in summary.failures[:_SHOWN_FAILURES]:
        click.echo(f"  {group.count:>6,}  {group.code}, e.g. {group.example}", err=True)
    more = summary.failures[_SHOWN_FAILURES:]
    if more:
        click.echo(f"  {sum(group.count for group in more):>6,}  of {len(more)} other causes", err=True)
