"""One `batchmill run`, from the input to the summary.

submit ──► fleet + results as they land + progress ──► all there         exit 0 or 1
                     │            │
                     │            ├─ account refused ──► stop the fleet  exit 4
                     │            └─ only a budget stands in the way     exit 3
                     └─ Ctrl-C, SIGTERM ──► drain the fleet              exit 130
"""

import shlex
import time
from contextlib import AsyncExitStack
from pathlib import Path

import click
import msgspec

from batchmill.cli import exit_codes
from batchmill.cli.attendance import Ended, Ending, attend
from batchmill.cli.collector import Collector
from batchmill.cli.errors import OutputClosedError, OutputError
from batchmill.cli.estimate_views import in_short
from batchmill.cli.handover import Wishes, announce, estimate_of, hand_over
from batchmill.cli.line_file import STDOUT, LineFile
from batchmill.cli.progress import progress_on_stderr
from batchmill.cli.question import ask
from batchmill.cli.rehearsal import rehearsal
from batchmill.cli.result_files import ResultFiles, check_places, places
from batchmill.cli.source import Source
from batchmill.cli.summary import Summary, print_json, print_summary, summarize
from batchmill.cli.words import lines
from batchmill.cli.worker_log import WorkerLog
from batchmill.config.settings import Settings
from batchmill.producer import Batch
from batchmill.producer.intake import Consent
from batchmill.store.connection import Store, open_store
from batchmill.store.model import BatchStatus
from batchmill.store.presence import forget_refusal
from batchmill.workers.fleet import Fleet
from batchmill.workers.policy_watch import policy_in_force


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `batchmill run` was asked for."""

    wishes: Wishes
    out: Path | None
    simple: bool
    ordered: bool
    as_json: bool
    yes: bool
    hints: str  # the options that other commands need to find the same batch, as typed


async def run_job(source: Source, options: RunOptions, settings: Settings) -> int:
    """Run the lines of an input and return the exit code."""
    started = time.monotonic()
    out, errors = places(source.place, options.out)
    check_places(source.place, out, errors)
    if options.as_json and out == STDOUT:
        raise OutputError("--json and the results can't both go to standard output; give a file with -o")
    async with open_store(settings) as store, policy_in_force(store.redis, settings):
        batch = await hand_over(
            store.redis, settings, source, options.wishes, _consent(source, options, settings, store)
        )
        before = await batch.status()
        announce(batch, before)
        files = ResultFiles(
            batch.id,
            LineFile(out, ordered=options.ordered),
            LineFile(errors, ordered=options.ordered),
            simple=options.simple,
        )
        await files.open(batch.results)
        collector = Collector(store.redis, batch.id, files)
        try:
            ended = await work(batch, before, settings, store, collector, shown=not options.as_json)
        finally:
            files.close()
        status = await batch.status()
        code = exit_code_of(ended, status)
        summary = summarize(
            status,
            collector.tally,
            files,
            done_before=before.done,
            elapsed=time.monotonic() - started,
            exit_code=code,
        )
        if options.as_json:
            print_json(summary)
        else:
            print_summary(summary, status)
        _say_how_to_go_on(ended, status, options, settings)
        if summary.status in ("completed", "expired") and collector.tally.sendable:
            _say_how_to_try_again(summary, collector.tally.sendable, options, settings)
        return code


def _consent(source: Source, options: RunOptions, settings: Settings, store: Store) -> Consent:
    async def consent() -> None:
        """Say what the lines would come to, and ask where that is much. Raises click.Abort for a no."""
        found = await estimate_of(store.redis, settings, source, options.wishes)
        if not options.as_json:
            _say(in_short(found))
        if not options.yes and not settings.simulate:
            ask(found, settings.spend.ask_over_usd)

    return consent


async def work(
    batch: Batch, before: BatchStatus, settings: Settings, store: Store, collector: Collector, *, shown: bool
) -> Ended:
    """Have a fleet work on a batch until something ends it; `shown` tells whether progress is."""
    if before.state.terminal:
        await collector.catch_up()
        return Ended(Ending.FINISHED)
    async with AsyncExitStack() as stack:
        if settings.simulate:
            settings = await stack.enter_async_context(rehearsal(settings))
        log = stack.enter_context(WorkerLog(settings, batch.id))
        progress = stack.enter_context(progress_on_stderr(shown=shown))
        await forget_refusal(store.redis, settings.upstream_name)
        fleet = Fleet(settings, store.url, server=store.server, logs=log.file)
        try:
            ended = await attend(batch, fleet, store, collector, progress)
        except OutputClosedError:
            return Ended(Ending.DETACHED)
        log.finished = ended.ending is Ending.FINISHED
        return ended


def exit_code_of(ended: Ended, status: BatchStatus) -> int:
    """Return the exit code of a run that ended so."""
    if ended.ending is Ending.REFUSED:
        return exit_codes.REFUSED
    if ended.ending is Ending.BUDGET:
        return exit_codes.BUDGET
    if ended.ending is Ending.DETACHED:
        return exit_codes.DETACHED
    return exit_codes.OK if status.succeeded == status.total else exit_codes.LINES_FAILED


def _say_how_to_go_on(ended: Ended, status: BatchStatus, options: RunOptions, settings: Settings) -> None:
    left = status.total - status.done
    if ended.ending is Ending.REFUSED:
        _say(
            f"batchmill: the upstream refuses the account: {ended.reason}\n"
            f"Mend the key or the credits (`batchmill check`), then run the same command again: "
            f"it goes on with the {lines(left)} left."
        )
    elif ended.ending is Ending.BUDGET:
        _say(
            f"Stopped: {ended.reason}.\n{lines(left)} left, kept in the queue. Raise the budget, or wait for its "
            "window, then run the same command again; or leave it to\n"
            f"  batchmill worker{' --simulate' if settings.simulate else ''}{options.hints}"
        )
    elif ended.ending is Ending.DETACHED:
        _say(
            f"Detached: {status.done:,} of {lines(status.total)} done, the rest is kept. To go on, "
            "run the same command again, or:\n"
            f"  batchmill worker{' --simulate' if settings.simulate else ''}{options.hints}\n"
            f"  batchmill results {status.id} -f{options.hints}"
        )


def _say_how_to_try_again(summary: Summary, sendable: int, options: RunOptions, settings: Settings) -> None:
    """Name the commands with the options without which they would go elsewhere, or be refused."""
    simulate = " --simulate" if settings.simulate else ""
    skip = " --skip-invalid" if sendable < summary.failed + summary.expired else ""
    _say(
        "to try them again\n"
        f"  batchmill run {shlex.quote(str(summary.errors_file))}{skip}{simulate}{options.hints}\n"
        f"  batchmill retry {summary.batch_id}{options.hints}   (for workers that run elsewhere)"
    )


def _say(message: str) -> None:
    click.echo(message, err=True)
