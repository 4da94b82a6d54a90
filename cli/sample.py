"""Runs a few lines of a file for real, as a batch of their own, to see what they cost."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from batchmill.cli import exit_codes
from batchmill.cli.attendance import Ending
from batchmill.cli.collector import Collector
from batchmill.cli.handover import Wishes, announce, estimate_of, hand_over
from batchmill.cli.job import exit_code_of, work
from batchmill.cli.line_file import LineFile
from batchmill.cli.result_files import ResultFiles
from batchmill.cli.source import Source
from batchmill.config.settings import Settings
from batchmill.producer.estimate import Chosen
from batchmill.producer.sampling import Measured, Point, measure, spread_over
from batchmill.store.connection import Store
from batchmill.workers.policy_watch import policy_in_force

_BOM = b"\xef\xbb\xbf"


class Sampled(msgspec.Struct, frozen=True):
    """A sample that ran: its batch, how many lines have a result, what they cost (nano-dollars), what they say.

    `code` is the exit code of its run; lines that failed are a part of the answer, and no reason for another.
    """

    batch_id: str
    lines: int
    cost: int
    measured: dict[str, Measured]
    code: int


async def run_sample(
    store: Store, settings: Settings, source: Source, wishes: Wishes, count: int, total: int
) -> Sampled:
    """Run `count` of the `total` lines that can run. The same sample asked for again is not paid for again."""
    keep = frozenset(spread_over(total, count))
    chosen = (await estimate_of(store.redis, settings, source, wishes, keep=keep)).chosen
    with tempfile.TemporaryDirectory(prefix="batchmill-") as folder:
        path = Path(folder, "sample").with_suffix(".txt" if source.name.lower().endswith(".txt") else ".jsonl")
        path.write_bytes(_lines_of(source.path, chosen))
        drawn = Source(path, f"sample of {Path(source.name).stem}{path.suffix}", None)
        return await _run(store, settings, drawn, msgspec.structs.replace(wishes, limit=None), chosen)


async def _run(store: Store, settings: Settings, drawn: Source, wishes: Wishes, chosen: Sequence[Chosen]) -> Sampled:
    async with policy_in_force(store.redis, settings):
        batch = await hand_over(store.redis, settings, drawn, wishes)
        before = await batch.status()
        announce(batch, before)
        out, errors = (LineFile(drawn.path.with_suffix(suffix), ordered=False) for suffix in (".out", ".errors"))
        files = ResultFiles(batch.id, out, errors, simple=False)
        await files.open(batch.results)
        try:
            collector = Collector(store.redis, batch.id, files)
            ended = await work(batch, before, settings, store, collector, shown=True)
        finally:
            files.close()
    results = [result async for result in batch.results()]
    points = [Point(chosen[result.index].model, chosen[result.index].guess, result) for result in results]
    code = exit_codes.OK if ended.ending is Ending.FINISHED else exit_code_of(ended, await batch.status())
    cost = sum(result.cost or 0 for result in results)
    return Sampled(batch.id, len(results), cost, measure(points), code)


def _lines_of(path: Path, chosen: Sequence[Chosen]) -> bytes:
    """Return the chosen lines as they stand in the file."""
    numbers = {each.number for each in chosen}
    with path.open("rb") as file:
        found = [line.rstrip(b"\r\n") for number, line in enumerate(file, 1) if number in numbers]
    return b"".join(line.removeprefix(_BOM) + b"\n" for line in found)
