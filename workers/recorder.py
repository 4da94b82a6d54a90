"""Group commit: one recorder a process gathers results while the last flush is on the wire, and sends them as one.

A flush records results first and settles money after them, so that a crash in between costs nothing but a lookup:
what was recorded never runs again, and what was held stays held.

After an idle moment a result goes out at once. Under load flushes keep a distance of `PACE`, so that many lines
share a round trip while a result still waits a hundredth of a second at most.
While Redis is away nothing is lost: results wait here, and `healthy` tells the dispatcher to send nothing new.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from batchmill.store import ledger
from batchmill.store.connection import OUTAGE, outlive
from batchmill.store.gate import Caller
from batchmill.store.model import LineState, Result
from batchmill.store.records import BATCH_GONE, Flush, Recording, flush
from batchmill.store.rules import Rules
from batchmill.store.settlement import Booked, Settlement, Settling
from batchmill.workers.line import ShardRun

PACE = 0.02
"""Seconds between flushes under load."""

_OUTAGE_PAUSE = 0.2
_SLOW_FLUSH = 1.0  # seconds; a flush that takes longer counts as an outage until it is through
_MOST_RESULTS = 2000  # a flush; the rest goes with the next
_MOST_SETTLEMENTS = 500  # a call of the script
_MOST_BYTES = 16 << 20  # a flush, about: far below what a server takes from one client (1 GB)

log = structlog.get_logger()


class Recorder:
    """Takes results from the dispatcher and makes them visible. `run()` is its one task."""

    def __init__(self, redis: Redis, caller: Caller, *, retention: int) -> None:
        self._redis = redis
        self._caller = caller
        self._retention = retention
        self._settlements: dict[int, tuple[Rules, list[Settlement]]] = {}  # by number of the rules
        self._generations: dict[str, str] = {}
        self._settled = 0  # number of the last flush that settled
        self._waiting: list[tuple[ShardRun, Result]] = []
        self._in_air: dict[str, int] = defaultdict(int)  # batch id -> lines sent and not yet recorded
        self._touched: set[str] = set()
        self._on_the_wire = 0
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.flushes = 0
        self.healthy = True
        self.user_key: bytes | None = None  # for the users of requests in the ledger; read before the first flush
        self.on_healthy: Callable[[], None] = lambda: None  # set by the dispatcher
        self.on_settled: Callable[[set[str]], None] = lambda _: None  # told the models; set by the dispatcher
        self.on_result: Callable[[str, Result], None] = lambda _batch, _result: None  # set by who counts
        self.on_booking: Callable[[str, int | None], None] = lambda _model, _cost: None  # likewise

    @property
    def unrecorded(self) -> int:
        """Results that are not in Redis, as far as we know."""
        return len(self._waiting) + self._on_the_wire

    def sent(self, batch_id: str) -> None:
        """Note that a line went into the air."""
        self._in_air[batch_id] += 1
        self._touch(batch_id)

    def back(self, batch_id: str) -> None:
        """Note that a line came back without a result (it will be tried again)."""
        self._in_air[batch_id] -= 1
        self._touch(batch_id)

    def put(self, shard: ShardRun, result: Result, *, was_sent: bool = True) -> None:
        """Hand over a line's terminal result. The shard hears of it when it is in Redis."""
        shard.unrecorded += 1
        if was_sent:
            self._in_air[shard.claim.batch_id] -= 1
        self._waiting.append((shard, result))
        self.on_result(shard.claim.batch_id, result)
        self._touch(shard.claim.batch_id)

    def settle(self, rules: Rules, settlement: Settlement) -> None:
        """Hand over how a call ended, for the money. Goes out after the results that are here by now."""
        self._generations.pop(settlement.hold, None)
        self.on_booking(rules.model, settlement.cost)
        self._settlements.setdefault(rules.number, (rules, []))[1].append(settlement)
        self._stir()

    def note(self, hold: str, generation: str) -> None:
        """Keep the generation id of a call that is still in the air: should we die, its cost can be looked up."""
        self._generations[hold] = generation
        self._stir()

    def _touch(self, batch_id: str) -> None:
        self._touched.add(batch_id)
        self._stir()

    def _stir(self) -> None:
        self._idle.clear()
        self._work.set()

    async def drained(self) -> None:
        """Wait until everything handed over is in Redis."""
        await self._idle.wait()

    async def run(self) -> None:
        """Flush for ever; cancel it after `drained()`."""
        last = 0.0
        while True:
            await self._work.wait()
            wait = last + PACE - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            last = time.monotonic()
            self._work.clear()
            if self.user_key is None:
                self.user_key = await outlive(self._read_user_key)
            await self._flush()
            if not self._work.is_set():
                self._idle.set()

    async def _read_user_key(self) -> bytes:
        return await ledger.user_key(self._redis, self._caller.upstream)

    async def _flush(self) -> None:
        cut = _cut(self._waiting)
        batch, self._waiting = self._waiting[:cut], self._waiting[cut:]
        self._on_the_wire = len(batch)
        touched, self._touched = self._touched, set()
        if self._waiting:
            self._touch(self._waiting[0][0].claim.batch_id)
        results: dict[str, list[Result]] = {batch_id: [] for batch_id in touched}
        for shard, result in batch:
            results.setdefault(shard.claim.batch_id, []).append(result)
        still_waiting: dict[str, int] = defaultdict(int)
        for shard, _ in self._waiting:
            still_waiting[shard.claim.batch_id] += 1
        recordings = [
            Recording(batch_id, tuple(lines), self._in_air[batch_id] + still_waiting[batch_id])
            for batch_id, lines in results.items()
        ]
        settlings = [] if self._waiting else self._settlings()  # never before the result that they go with
        generations, self._generations = self._generations, {}
        await self._send(Flush(recordings, settlings, generations))
        self._on_the_wire = 0
        for batch_id in touched:
            if not self._in_air[batch_id]:
                del self._in_air[batch_id]
        for shard, result in batch:
            shard.recorded(result.index)
        if settlings:
            self.on_settled({settling.rules.model for settling in settlings})

    def _settlings(self) -> list[Settling]:
        gathered, self._settlements = self._settlements, {}
        parts = [
            (rules, tuple(settlements[start : start + _MOST_SETTLEMENTS]))
            for rules, settlements in gathered.values()
            for start in range(0, len(settlements), _MOST_SETTLEMENTS)
        ]
        self._settled += 1
        return [Settling(self._settled, rules, part, place) for place, (rules, part) in enumerate(parts)]

    async def _send(self, what: Flush) -> None:
        slow = asyncio.get_running_loop().call_later(_SLOW_FLUSH, self._ail, "slow")
        try:
            while True:
                try:
                    new, booked = await flush(self._redis, self._caller, what, self._retention)
                except (*OUTAGE, RedisError) as error:  # whatever it is, paid results wait for better times
                    self._ail(type(error).__name__)
                    await asyncio.sleep(_OUTAGE_PAUSE)
                    continue
                except Exception:
                    log.exception("result.unwritable")
                    what = msgspec.structs.replace(what, recordings=[_writable(one) for one in what.recordings])
                    continue
                break
        finally:
            slow.cancel()
        self.flushes += 1
        for recording, count in zip(what.recordings, new, strict=True):
            if count == BATCH_GONE and recording.results:
                log.error("batch.gone", batch=recording.batch_id, results_lost=len(recording.results))
        _tell_trips(what.settlings, booked)
        if not self.healthy:
            self.healthy = True
            log.info("redis.back")
            self.on_healthy()

    def _ail(self, reason: str) -> None:
        if self.healthy:
            log.warning("redis.away", reason=reason, waiting=self.unrecorded)
        self.healthy = False


def _tell_trips(settlings: Sequence[Settling], booked: Sequence[Booked]) -> None:
    for settling, done in zip(settlings, booked, strict=True):
        if done.tripped:
            log.warning("breaker.opens", model=settling.rules.model)


def _cut(waiting: list[tuple[ShardRun, Result]]) -> int:
    """Return how many results go with this flush: one at least."""
    size = 0
    for count, (_, result) in enumerate(waiting):
        size += len(result.response or b"") + len(result.request or b"")
        if count >= _MOST_RESULTS or (size > _MOST_BYTES and count):
            return count
    return len(waiting)


def _writable(recording: Recording) -> Recording:
    """Put a failure in the place of each result that can't be encoded."""
    return msgspec.structs.replace(recording, results=tuple(_or_failure(result) for result in recording.results))


def _or_failure(result: Result) -> Result:
    try:
        msgspec.msgpack.encode(result)
    except Exception as error:  # noqa: BLE001 - that it fails is all that matters
        return Result(
            index=result.index,
            custom_id=result.custom_id,
            model=result.model,
            state=LineState.FAILED,
            error_code="internal_error",
            error_message=f"batchmill could not keep the result ({type(error).__name__}); please report it",
            request=result.request,
        )
    return result
