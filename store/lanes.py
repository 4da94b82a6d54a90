"""A lane's shards: claimed for one run each, leased, renewed, finished or given back.

    queued ──claim──► leased ──finish──► gone
      ▲                 │
      └── give back ────┤
      └── lease over ◄──┘   (taken back by any worker's heartbeat; the holder's again if it renews before a claim)

A run's id fences everything: a worker that slept through its lease can neither finish nor give back what is
another's by now.

Whose shard is claimed next is start-time fair queueing on two levels, as in `workers/turns.py`: the project with the
least tag, and in it the batch with the least tag. A shard moves the project's tag on by lines / weight, the batch's by
lines x 64 / share. Who comes, or comes back, starts at the tag of who was served last. Each takes O(log n), because
scores are numbers in two parts:

    lane    slot of the batch x 2^20 + number of the shard;  slot 0: taken back from silent workers, goes first;
            from 10^12 on: a time (ms), not before which the shard may be claimed
    flows   number of the project x 2^39 + tag of the batch within it

A batch whose shards are all leased loses its flow, and gets it back with the first shard that is given back.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from batchmill.store import keys
from batchmill.store.model import Priority
from batchmill.store.scripts import Argument, Script

_claim = Script("claim")
_finish = Script("finish")
_park = Script("park")
_renew = Script("renew")
_take = Script("take")

_HEAD = "0"
"""The score before all others."""

_FACTS = 5  # values that `claim.lua` returns of a shard


class Claim(msgspec.Struct, frozen=True):
    """One shard that is ours for one run. `score` was its place in the lane, `tag` its project's (0: begun before)."""

    upstream: str
    model: str
    reference: str
    run: str
    score: str
    project: str = "default"
    priority: Priority = Priority.NORMAL
    tag: float = 0.0

    @property
    def batch_id(self) -> str:
        """The batch that the shard belongs to."""
        return keys.batch_of(self.reference)

    @property
    def lines(self) -> int:
        """How many lines the shard had when it was made."""
        return int(self.reference.rsplit(".", 1)[1])


class Renewal(msgspec.Struct, frozen=True):
    """What a heartbeat learnt: which of our runs we lost, and which shards of silent workers are queued again."""

    lost: tuple[str, ...]
    recovered: tuple[str, ...]


async def claim(
    redis: Redis, upstream: str, model: str, run: str, *, lease: float, room: int, without: Sequence[str] = ()
) -> list[Claim]:
    """Claim shards of up to `room` lines (at least one shard), for `lease` seconds, in the order of turns.

    With batches to leave out, at most one shard of another batch: so that a newcomer gets into a worker whose places
    all wait for something.
    """
    names = [*_lane_keys(upstream, model), *_turn_keys(upstream, model)]
    reply = await _claim(redis, names, [run, _milliseconds(lease), room, *without])
    claims = []
    for start in range(0, len(reply), _FACTS):
        reference, score, project, priority, tag = (value.decode() for value in reply[start : start + _FACTS])
        claims.append(Claim(upstream, model, reference, run, score, project, Priority(priority), float(tag)))
    return claims


async def park(redis: Redis, upstream: str, model: str, batch_id: str, seconds: float) -> None:
    """Have nothing of a batch claimed in a lane for so long; after that it comes back by itself at the next claim."""
    names = [
        keys.lane(upstream, model),
        keys.flows(upstream, model),
        keys.flow_facts(upstream, model),
        keys.parked(upstream, model),
    ]
    await _park(redis, names, [batch_id, _milliseconds(seconds)])


async def unpark(redis: Redis, upstream: str, model: str, batch_id: str | None) -> None:
    """Have a batch, or all of a lane, come back at the next claim, which is now."""
    parked = keys.parked(upstream, model)
    if batch_id is None:
        await redis.execute_command("ZUNIONSTORE", parked, 1, parked, "WEIGHTS", 0)
    else:
        await redis.execute_command("ZADD", parked, "XX", 0, batch_id)
    await redis.execute_command("PUBLISH", keys.wake(upstream), model)


async def unpark_all(redis: Redis, upstream: str) -> None:
    """Have what waits for a budget come back in every lane: there may be room now."""
    for model in await redis.execute_command("SMEMBERS", keys.lanes(upstream)):
        await unpark(redis, upstream, model.decode(), None)


async def take(redis: Redis, upstream: str, model: str, reference: str, run: str, *, lease: float) -> Claim | None:
    """Claim one certain shard; None when a run has it, or when it is finished."""
    open_shards = keys.open_shards(keys.batch_of(reference))
    names = [*_lane_keys(upstream, model), keys.flow_facts(upstream, model), open_shards]
    ours = await _take(redis, names, [reference, run, _milliseconds(lease)])
    return Claim(upstream, model, reference, run, _HEAD) if ours else None


class Ending(StrEnum):
    """How a run leaves its shard."""

    DONE = "done"  # every line has a result: the shard goes
    GIVE_BACK = "give_back"  # to its old place in the lane
    LET_GO = "let_go"  # its job is unreadable: maintenance makes it anew


async def finish(redis: Redis, claim: Claim, ending: Ending, *, delay: float = 0) -> bool:
    """End the run; with `delay` seconds the shard is given back for later. False when the run had been lost."""
    reference = claim.reference
    names = [
        *_lane_keys(claim.upstream, claim.model),
        *_turn_keys(claim.upstream, claim.model),
        keys.job(reference),
        keys.tries(reference),
        keys.shard(reference),
        keys.open_shards(claim.batch_id),
    ]
    ours = bool(await _finish(redis, names, [reference, claim.run, ending.value, _milliseconds(delay)]))
    if ours and ending is Ending.GIVE_BACK and not delay:
        await redis.execute_command("PUBLISH", keys.wake(claim.upstream), claim.model)
    return ours


async def renew(
    redis: Redis, upstream: str, held: Mapping[str, Sequence[Claim]], *, lease: float
) -> dict[str, Renewal]:
    """Renew what we hold, by model, and take back what silent workers hold in these lanes; one round trip."""
    calls = [(model, _renew_call(upstream, model, claims, lease)) for model, claims in held.items()]
    async with redis.pipeline(transaction=False) as pipe:
        for _, call in calls:
            _renew.queue(pipe, *call)
        replies = await pipe.execute(raise_on_error=False)
    renewals: dict[str, Renewal] = {}
    for (model, call), answer in zip(calls, replies, strict=True):
        reply = await _renew(redis, *call) if isinstance(answer, NoScriptError) else answer
        if isinstance(reply, Exception):
            raise reply
        names = [reference.decode() for reference in reply]
        split = names.index("")
        renewals[model] = Renewal(lost=tuple(names[:split]), recovered=tuple(names[split + 1 :]))
    for model, renewal in renewals.items():
        if renewal.recovered:
            await redis.execute_command("PUBLISH", keys.wake(upstream), model)
    return renewals


def _renew_call(upstream: str, model: str, claims: Sequence[Claim], lease: float) -> tuple[list[str], list[Argument]]:
    arguments: list[Argument] = [_milliseconds(lease)]
    for claim in claims:
        arguments += [claim.reference, claim.run]
    names = [*_lane_keys(upstream, model), keys.flow_facts(upstream, model), keys.parked(upstream, model)]
    return [*names, keys.pulse(upstream)], arguments


async def waiting(redis: Redis, upstream: str) -> dict[str, int]:
    """Return how many shards wait or run in each lane that has any."""
    models = sorted(model.decode() for model in await redis.execute_command("SMEMBERS", keys.lanes(upstream)))
    async with redis.pipeline(transaction=False) as pipe:
        for model in models:
            pipe.execute_command("ZCARD", keys.lane(upstream, model))
            pipe.execute_command("ZCARD", keys.leases(upstream, model))
        counts = await pipe.execute()
    sums = (queued + leased for queued, leased in zip(counts[::2], counts[1::2], strict=True))
    return {model: count for model, count in zip(models, sums, strict=True) if count}


def _lane_keys(upstream: str, model: str) -> list[str]:
    return [keys.lane(upstream, model), keys.leases(upstream, model), keys.runs(upstream, model)]


def _turn_keys(upstream: str, model: str) -> list[str]:
    return [
        keys.flows(upstream, model),
        keys.flow_facts(upstream, model),
        keys.projects(upstream, model),
        keys.turns(upstream, model),
        keys.parked(upstream, model),
        keys.weights(upstream),
    ]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
