"""One lane's arq worker: arq runs the jobs; which jobs, and what becomes of them, is decided by leases.

Differences from a stock `arq.Worker`, each for a reason that `docs/architecture.md` gives:
- claiming is one atomic script that takes shards out of the queue under a lease, not a race for the queue's head;
- a run that lost its lease can't finish its job (fencing);
- it outlives an outage of Redis, and wakes by a notification as well as by polling.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker, func

from batchmill.config.settings import WorkerSettings
from batchmill.store import batches, keys, lanes
from batchmill.store.connection import outlive
from batchmill.store.lanes import Claim, Ending
from batchmill.store.staging import JOB
from batchmill.workers.dispatcher import Dispatcher
from batchmill.workers.gatekeeper import Gatekeeper
from batchmill.workers.line import ShardRun

log = structlog.get_logger()

_UNLIMITED = 2**31  # arq counts waiting and deploys as tries; we count attempts of lines
_LONGEST_PAUSE = 1.0  # seconds between polls of a lane that has nothing, while no notification comes
_FAULT_DELAY = 5.0  # seconds until a shard whose run broke (a bug of ours) is tried again

_run_numbers = itertools.count(1)


class LaneWorker(Worker):
    """Pulls the shards of one model. Cancel the task of `main()` to stop pulling; runs go on until they end."""

    def __init__(
        self,
        redis: ArqRedis,
        dispatcher: Dispatcher,
        gatekeeper: Gatekeeper,
        settings: WorkerSettings,
        *,
        upstream: str,
        model: str,
        worker_id: str,
    ) -> None:
        super().__init__(
            [func(self._run_shard, name=JOB, max_tries=_UNLIMITED)],  # type: ignore[arg-type]  # arq types *args only
            queue_name=keys.lane(upstream, model),
            redis_pool=redis,
            handle_signals=False,
            max_jobs=_UNLIMITED,
            job_timeout=None,  # type: ignore[arg-type]  # a shard waits as long as its limits say
            keep_result=0,
            log_results=False,
            job_serializer=redis.job_serializer,
            job_deserializer=redis.job_deserializer,
        )
        self.model = model
        self.upstream = upstream
        self._wake = asyncio.Event()
        self._dry = False  # the last poll found nothing
        self._pause = settings.poll
        self.claiming = False
        self.closing = False  # the process ends; leases say what it can't say any more
        self.held: dict[str, Claim] = {}
        self.running: dict[str, ShardRun] = {}
        self._dispatcher = dispatcher
        self._gatekeeper = gatekeeper
        self._settings = settings
        self._worker_id = worker_id
        self._endings: dict[str, Ending] = {}

    def notify(self) -> None:
        """Poll now: something was enqueued."""
        self._dry = False
        self._wake.set()

    def hungry(self) -> None:
        """Poll now, if the last poll gives hope: places are about to be free."""
        if not self._dry:
            self._wake.set()

    async def main(self) -> None:
        """Pull until cancelled."""
        while True:
            self._wake.clear()
            await outlive(self._poll_iteration)
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause) if self._dry else self._settings.poll
            try:
                async with asyncio.timeout(self._pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _poll_iteration(self) -> None:
        room, without = self._dispatcher.room(self.model), tuple[str, ...]()
        if room <= 0:
            here = self._dispatcher.known(self.model)
            if here is None:
                return
            room, without = 1, tuple(here)  # a newcomer must not wait until what is here is through
        self._dry = False
        run = f"{self._worker_id}.{next(_run_numbers)}"
        self.claiming = True
        try:
            claims = await lanes.claim(
                self.pool, self.upstream, self.model, run, lease=self._settings.lease, room=room, without=without
            )
        finally:
            self.claiming = False
        self._dry = not claims
        for claim in claims:
            begun = claim.reference in self.held
            self.held[claim.reference] = claim
            if begun:  # we slept through a lease, and what we began then is not over yet: it goes on under the new one
                if claim.reference in self.running:
                    self.running[claim.reference].claim = claim
                continue
            task = asyncio.create_task(self.run_job(claim.reference, int(float(claim.score))))
            self.tasks[claim.reference] = task
            task.add_done_callback(partial(self._ran, claim.reference))

    def _ran(self, reference: str, task: "asyncio.Task[None]") -> None:
        self.tasks.pop(reference, None)
        self.held.pop(reference, None)  # unless it ended in order, its lease runs out
        if not task.cancelled() and (error := task.exception()):
            log.warning("shard.broke", shard=reference, error=repr(error))

    async def _run_shard(self, _ctx: dict[str, Any], reference: str, first: int, last: int) -> None:
        """arq's job: see one shard through. How it ended decides what `finish_job` does."""
        work = await outlive(lambda: batches.load(self.pool, reference, first, last))
        if work is None:
            log.error("shard.gone", shard=reference)  # its batch has expired, or somebody removed keys
        if work is None or not work.lines:
            self._endings[reference] = Ending.DONE
            return
        shard = ShardRun(
            self.held[reference],
            work.lines,
            unsent=work.unsent,
            tried=work.tried,
            terms=work.terms,
            weight=self._gatekeeper.rulebook.policy.policy.weight_of(work.terms.project),
        )
        self.running[reference] = shard
        try:
            self._dispatcher.add(shard)
            ending = await shard.ended
        finally:
            del self.running[reference]
        tried = shard.tried()
        if ending is Ending.GIVE_BACK and tried:
            await self._while_open(lambda: batches.keep_tried(self.pool, shard.claim.batch_id, tried))
        if ending is Ending.GIVE_BACK and shard.parked is not None:
            seconds, batch_id = shard.parked, shard.claim.batch_id
            await self._while_open(lambda: lanes.park(self.pool, self.upstream, self.model, batch_id, seconds))
        self._endings[reference] = ending

    async def finish_job(self, job_id: str, *_args: Any, **_kwargs: Any) -> None:
        """End the run in Redis, if it is still ours. arq calls this after a job, however it went."""
        claim = self.held[job_id]
        ending = self._endings.pop(job_id, None)
        if ending is None:
            await self._while_open(lambda: lanes.finish(self.pool, claim, Ending.GIVE_BACK, delay=_FAULT_DELAY))
        else:
            await self._while_open(lambda: lanes.finish(self.pool, claim, ending))

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:  # noqa: ARG002 - arq's signature
        """Let go of a job that arq could not read; maintenance makes it anew from the batch."""
        await self._while_open(lambda: lanes.finish(self.pool, self.held[job_id], Ending.LET_GO))

    async def _while_open(self, step: Callable[[], Awaitable[object]]) -> None:
        """Outlive outages with a step of a run's end, but not the process's own end: arq shields these steps."""

        async def attempt() -> None:
            if not self.closing:
                await step()

        await outlive(attempt)
