"""The promises that only several processes and a kill can show: lines, paid work, crash (DESIGN promises 2, 3, 4)."""

import os
import signal
import time
from hashlib import sha256
from pathlib import Path

import msgspec

from batchmill.openrouter.simulator import SimulatorOptions
from batchmill.store.model import BatchState
from batchmill.store.records import read

from .fleet_helpers import Scene, gather, lines, scene, when_done

LINES = 2000
OPTIONS = SimulatorOptions(latency="uniform:80:160", record=True, mean_output_tokens=10)


async def recorded_ids(at: Scene, batch_id: str) -> set[str]:
    """Return the ids of all lines that have a result now."""
    found: set[str] = set()
    cursor = "0-0"
    while entries := await read(at.store.redis, batch_id, cursor):
        cursor = entries[-1].cursor
        found |= {entry.result.custom_id for entry in entries if entry.result}
    return found


def digests() -> dict[str, str]:
    """Return the digest of each line's body, as the simulator counts them, by custom id."""
    return {line["custom_id"]: sha256(msgspec.json.encode(line["body"])).hexdigest() for line in lines(LINES)}


async def test_a_killed_worker_costs_only_what_it_had_in_the_air(tmp_path: Path) -> None:
    """SIGKILL: every line ends with one result, none that was recorded runs again, all are back within 15 s."""
    async with scene(tmp_path, OPTIONS) as at:
        batch = await at.producer.submit(lines(LINES))
        await when_done(batch, LINES // 4)
        killed = time.time()
        os.kill(at.fleet.pids[0], signal.SIGKILL)
        safe = await recorded_ids(at, batch.id)
        results = await gather(batch)
        calls = await at.calls()
        status = await batch.status()

    assert len(results) == LINES
    assert (status.state, status.succeeded, status.pending) == (BatchState.COMPLETED, LINES, 0)
    twice = {body for body, made in calls.items() if len(made) > 1}
    assert twice, "the kill came too late to show anything"
    bodies = digests()
    assert set(calls) == set(bodies.values())
    assert not twice & {bodies[custom_id] for custom_id in safe}, "a recorded line ran again"
    assert min(calls[body][0].t for body in twice) > killed - 1, "a line ran again that was over long before the kill"
    assert len(twice) < 2 * at.settings.worker.concurrency
    assert max(calls[body][-1].t for body in twice) - killed < 15


async def test_a_drained_worker_sends_nothing_twice_and_loses_nothing(tmp_path: Path) -> None:
    """SIGTERM in the middle: what is in the air lands, the rest goes back to the queue."""
    async with scene(tmp_path, OPTIONS) as at:
        batch = await at.producer.submit(lines(LINES))
        await when_done(batch, LINES // 4)
        worker = at.fleet._workers[0]
        worker.terminate()
        results = await gather(batch)
        calls = await at.calls()
        assert await worker.wait() == 0

    assert len(results) == LINES
    assert [body for body, made in calls.items() if len(made) > 1] == []


async def test_workers_wait_for_a_killed_server_and_go_on(tmp_path: Path) -> None:
    """SIGKILL of the server: its log brings everything back, and nothing is sent twice."""
    async with scene(tmp_path, OPTIONS) as at:
        batch = await at.producer.submit(lines(LINES))
        await when_done(batch, LINES // 4)
        assert at.store.server is not None
        os.kill(int(at.store.server.pid_path.read_text()), signal.SIGKILL)
        results = await gather(batch)
        calls = await at.calls()

    assert len(results) == LINES
    assert all(result.succeeded for result in results.values())
    assert [body for body, made in calls.items() if len(made) > 1] == []
