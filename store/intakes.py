"""A batch over HTTP before it is one: created at once, looked at by whichever gateway takes it, then let go.

    validating ──► releasing ──► (gone: it is a batch)
      │  │  │          │  └─ the user cancels ─► cancelling ──► (gone: it is a batch, that is cancelled)
      │  │  │          │                              │
      │  │  └──────────┴── its lines can't run ─► failed, or cancelled
      │  └─ its window is over ─► expired
      └─ the user cancels ─► cancelled

From `releasing` on its lines may be let go at any moment; so who cancels it then asks for it, and who lets them go does
it. A run holds an intake under a lease; when its gateway dies, another one begins anew, under the same batch id.
"""

from enum import StrEnum

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from batchmill.config.strategy import Strategy
from batchmill.store import events, keys, service_keys
from batchmill.store.clock import now_ms
from batchmill.store.events import Ended, Event
from batchmill.store.handed import Handed
from batchmill.store.model import Priority
from batchmill.store.scripts import Argument, Script
from batchmill.store.transactions import transact

_create = Script("create_intake")
_take = Script("take_intake")
_move = Script("move_intake")

_LEASE_MS = 15_000
RENEW = 4.0
"""Seconds between two renewals of a lease."""

_LOST = "-"
_CANDIDATES = 16
_DAY = 86_400


class IntakeState(StrEnum):
    """Where an intake is; all but the first three are for ever."""

    VALIDATING = "validating"
    RELEASING = "releasing"
    CANCELLING = "cancelling"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self in (IntakeState.FAILED, IntakeState.CANCELLED, IntakeState.EXPIRED)


_ENDED: dict[IntakeState | None, Ended] = {
    IntakeState.FAILED: "failed",
    IntakeState.CANCELLED: "cancelled",
    IntakeState.EXPIRED: "expired",
}


class Fault(msgspec.Struct, frozen=True):
    """Why a batch can't run, as OpenAI has it in `errors.data[]`; `line` counts from 1, None: the whole file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch was created with. `expires_at` in unix seconds of the Redis clock, `max_cost` in nano-dollars."""

    handed: Handed
    expires_at: int
    project: str
    priority: Priority = Priority.NORMAL
    max_cost: int | None = None
    fallbacks: tuple[str, ...] = ()
    strategy: Strategy | None = None
    tags: tuple[str, ...] = ()  # "key=value"
    cache: bool = False
    skip_invalid: bool = False
    any_project: bool = False  # who asked sees files of every project


class Intake(msgspec.Struct, frozen=True, kw_only=True):
    """An intake at one moment. Times in unix seconds; `trouble` is why it could not be looked at, the last time."""

    id: str
    state: IntakeState
    asked: Asked
    tries: int = 0
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    faults: tuple[Fault, ...] = ()
    trouble: str | None = None


class Name(msgspec.Struct, frozen=True):
    """By what a request that creates a batch is known again, and for how many seconds.

    `once`: whoever comes under a known name gets what it stands for; else the name stands for the newest request.
    """

    name: str
    digest: str
    seconds: int
    once: bool


class Known(msgspec.Struct, frozen=True):
    """The batch that a request of this name created before, and whether it had the same body."""

    batch_id: str
    same: bool


async def create(
    redis: Redis, upstream: str, batch_id: str, asked: Asked, *, retention_days: int, name: Name | None = None
) -> Known | None:
    """Create a batch, or return the one that the same request created before. At once, or not at all."""
    names = [service_keys.intake(batch_id), service_keys.intakes(upstream)]
    names += [service_keys.index(None), service_keys.index(asked.project)]
    listed = service_keys.in_index(batch_id, asked.project)
    arguments: list[Argument] = [batch_id, listed, _retention(asked, retention_days)]
    arguments.append(msgspec.json.encode(asked))
    if name is not None:
        names.append(service_keys.request_name(name.name))
        arguments += [name.digest, name.seconds, int(name.once)]
    else:
        arguments += ["", 0, "0"]
    return _known((await _create(redis, names, arguments)).decode(), name)


async def known(redis: Redis, name: Name) -> Known | None:
    """Return what a request of this name would get that was there before."""
    found = await redis.execute_command("GET", service_keys.request_name(name.name)) if name.once else None
    return _known(found.decode() if found else "", name)


async def find(redis: Redis, batch_id: str) -> Intake | None:
    """Return the intake; None when there is none (any more): then it is a batch, or never was."""
    facts = await redis.execute_command("HGETALL", service_keys.intake(batch_id))
    if b"state" not in facts:
        return None
    times = {
        name: int(facts[name.encode()])
        for name in ("cancelling_at", "cancelled_at", "failed_at", "expired_at")
        if name.encode() in facts
    }
    return Intake(
        id=batch_id,
        state=IntakeState(facts[b"state"].decode()),
        asked=msgspec.json.decode(facts[b"asked"], type=Asked),
        tries=int(facts.get(b"tries", 0)),
        faults=msgspec.json.decode(facts.get(b"faults", b"[]"), type=tuple[Fault, ...]),
        trouble=facts[b"trouble"].decode() if facts.get(b"trouble") else None,
        **times,
    )


async def take(redis: Redis, upstream: str, run: str) -> str | None:
    """Return a batch whose intake this run holds from now on; None when there is none to be looked at."""
    queue = service_keys.intakes(upstream)
    if not await redis.execute_command("EXISTS", queue):
        return None
    now = await now_ms(redis)
    for found in await redis.execute_command("ZRANGEBYSCORE", queue, "-inf", now, "LIMIT", 0, _CANDIDATES):
        batch_id: str = found.decode()
        if await hold(redis, upstream, batch_id, run):
            return batch_id
    return None


async def hold(redis: Redis, upstream: str, batch_id: str, run: str) -> bool:
    """Begin, or go on, to hold an intake for a lease's time. Returns whether the run holds it."""
    names = [service_keys.intakes(upstream), service_keys.intake(batch_id)]
    return bool(await _take(redis, names, [batch_id, run, _LEASE_MS]))


class Holder:
    """What a run may do with the intake that it holds. Each step returns the state that the intake is in after it.

    None: it is gone, or another run holds it.
    """

    def __init__(self, redis: Redis, upstream: str, intake: Intake, run: str, *, retention_days: int) -> None:
        self._redis = redis
        self._upstream = upstream
        self._id = intake.id
        self._intake = intake
        self._run = run
        self._retention = _retention(intake.asked, retention_days)
        self._state = intake.state  # as far as we know

    async def renew(self) -> bool:
        """Go on holding it. Returns whether we do."""
        return await hold(self._redis, self._upstream, self._id, self._run)

    async def note_lines(self, key_id: str, lines: int) -> IntakeState | None:
        """Say how many lines it has, and whose they are."""
        return await self._go(self._state, self._state, "-", "key", key_id, "lines", str(lines))

    async def begin_release(self) -> IntakeState | None:
        """Say that its lines may be let go from now on."""
        return await self._go(IntakeState.VALIDATING, IntakeState.RELEASING, "-")

    async def let_go(self) -> IntakeState | None:
        """Forget it, for it is a batch now. CANCELLING: nothing was done, for the batch is to be cancelled first."""
        return await self._go(IntakeState.RELEASING, None, "")

    async def cancelled(self) -> IntakeState | None:
        """Forget it, for it is a batch now, which was cancelled."""
        return await self._go(IntakeState.CANCELLING, None, "")

    async def fail(self, faults: tuple[Fault, ...]) -> IntakeState | None:
        """End it, for its lines can't run."""
        told = msgspec.json.encode(faults)
        now = await self._go(self._state, IntakeState.FAILED, "", "failed_at", "@", "faults", told)
        if now is not IntakeState.CANCELLING:
            return now
        return await self._go(IntakeState.CANCELLING, IntakeState.CANCELLED, "", "cancelled_at", "@")

    async def expire(self) -> IntakeState | None:
        """End it, for its window is over."""
        return await self._go(IntakeState.VALIDATING, IntakeState.EXPIRED, "", "expired_at", "@")

    async def give_back(self, trouble: str, delay_ms: int) -> IntakeState | None:
        """Let somebody look at it again later, for it can't be done now."""
        now = await self._go(self._state, self._state, str(delay_ms), "trouble", trouble)
        if now is not IntakeState.CANCELLING or now is self._state:
            return now
        return await self._go(now, now, str(delay_ms), "trouble", trouble)

    async def _go(
        self, before: IntakeState, after: IntakeState | None, delay: str, *fields: str | bytes
    ) -> IntakeState | None:
        if before.terminal:
            return before
        event = await _event(self._redis, self._intake, after)
        arguments = [self._id, self._run, before.value, after.value if after else "", delay, self._retention, event]
        state = (await _move(self._redis, _names(self._upstream, self._id), [*arguments, *fields])).decode()
        if not state or state == _LOST:
            return None
        self._state = IntakeState(state)
        return self._state


async def cancel(redis: Redis, upstream: str, intake: Intake, *, retention_days: int) -> IntakeState | None:
    """Cancel what nobody lets go of yet, or ask whoever does. Returns the state it is in now; None: it is a batch."""
    ways = (
        (IntakeState.VALIDATING, IntakeState.CANCELLED, "", ("cancelling_at", "@", "cancelled_at", "@")),
        (IntakeState.RELEASING, IntakeState.CANCELLING, "-", ("cancelling_at", "@")),
    )
    state = ""
    for before, after, delay, fields in ways:
        end = _retention(intake.asked, retention_days)
        event = await _event(redis, intake, after)
        arguments = [intake.id, "", before.value, after.value, delay, end, event, *fields]
        state = (await _move(redis, _names(upstream, intake.id), arguments)).decode()
        if state == after.value:
            break
    return IntakeState(state) if state else None


def _names(upstream: str, batch_id: str) -> list[str]:
    names = [service_keys.intakes(upstream), service_keys.intake(batch_id), service_keys.event_deliveries()]
    return [*names, keys.batch(batch_id)]


async def _event(redis: Redis, intake: Intake, after: IntakeState | None) -> bytes:
    """Return whom to tell that the intake ended so, as it is queued; nothing when it does not end, or nobody asked."""
    url = intake.asked.handed.webhook_url
    if after not in _ENDED or url is None:
        return b""
    return events.message(Event(intake.id, _ENDED[after], await now_ms(redis) // 1000, url))


async def note_estimate(redis: Redis, batch_id: str, cost: int) -> None:
    """Say what a batch is likely to cost (nano-dollars), if it is still there."""
    name = keys.batch(batch_id)

    async def note(pipe: Pipeline) -> bool:
        pipe.execute_command("HSET", name, "estimate", cost)
        return bool(await redis.execute_command("HEXISTS", name, "state"))

    await transact(redis, name, note)


def _known(value: str, name: Name | None) -> Known | None:
    if not value:
        return None
    digest, _, batch_id = value.partition("|")
    return Known(batch_id, digest == (name.digest if name else ""))


def _retention(asked: Asked, retention_days: int) -> int:
    """Return seconds: an intake that waits lasts longer than its window."""
    return retention_days * _DAY + max(0, asked.expires_at - asked.handed.created_at)
