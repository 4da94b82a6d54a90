"""Live tokens when a worker is killed: the reader is told to begin anew, and gets the whole answer."""

import asyncio
import os
import signal
from pathlib import Path

from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.producer import Restarted, Started, Text
from batchmill.store.model import LineState

from .fleet_helpers import scene
from .test_live import Reader, line
from .waiting import wait_until


async def test_a_killed_worker_s_line_begins_anew_before_the_reader_s_eyes(tmp_path: Path) -> None:
    options = SimulatorOptions(latency="3000", mean_output_tokens=200)
    async with scene(tmp_path, options, processes=2, concurrency=5, heartbeat=0.2, lease=1.0) as at:
        reader = Reader()
        reading = asyncio.create_task(reader.read(at.producer.stream(line())))
        await wait_until(lambda: bool(reader.of(Text)), "the first words")
        for pid in at.fleet.pids:
            os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: bool(reader.of(Restarted)), "the restart", patience=30.0)
        result = await reading
    assert result.state is LineState.SUCCEEDED
    assert len(reader.of(Started)) == 2
    assert reader.of(Restarted) == [Restarted(None)]
    assert reader.text == result.content
