"""A lane's shards: claimed for one run each, leased, renewed, finished or given back.

    queued ──claim──► leased ──finish──► gone
      ▲                 │
      └── give back ────┤
      └── lease over ◄──┘   (taken back by any worker's heartbeat; the holder's again if it renews before a claim)

A run's id fences everything: a worker that slept through its lease can neither finish nor give back what is
another's by now.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from batchmill.store import keys
from batchmill.store.scripts import Argument, Script

_claim = Script("claim")
_finish = Script("finish")
_renew = Script("renew")
_take = Script("take")

_HEAD = "1"
"""The score before all others, as in `renew.lua`."""


class Claim(msgspec.Struct, frozen=True):
    """One shard that is ours for one run. `score` is its place in the lane, for giving it back."""

    upstream: str
    model: str
    reference: str
    run: str
    score: str

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


async def claim(redis: Redis, upstream: str, model: str, run: str, *, lease: float, room: int) -> list[Claim]:
    """Claim shards of up to `room` lines (at least one shard), for `lease` seconds."""
    reply = await _claim(redis, _lane_keys(upstream, model), [run, _milliseconds(lease), room])
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return [Claim(upstream, model, reference.decode(), run, score.decode()) for reference, score in pairs]


async def take(redis: Redis, upstream: str, model: str, reference: str, run: str, *, lease: float) -> Claim | None:
    """Claim one certain shard; None when a run has it, or when it is finished."""
    names = [*_lane_keys(upstream, model), keys.open_shards(keys.batch_of(reference))]
    ours = await _take(redis, names, [reference, run, _milliseconds(lease)])
    return Claim(upstream, model, reference, run, _HEAD) if ours else None


class Ending(StrEnum):
    """How a run leaves its shard."""

    DONE = "done"  # every line has a result: the shard goes
    GIVE_BACK = "give_back"  # to its old place in the lane
    LET_GO = "let_go"  # its job is unreadable: maintenance makes it anew


async def finish(redis: Redis, claim: Claim, ending: Ending, *, delay: float = 0) -> bool:
    """End the run; with `delay` seconds the shard is given back for later. False when the run had been lost."""
    score = claim.score
    if delay:
        seconds, _ = await redis.execute_command("TIME")
        score = str(_milliseconds(int(seconds) + delay))
    word = {Ending.DONE: "", Ending.GIVE_BACK: score, Ending.LET_GO: "-"}[ending]
    reference = claim.reference
    names = [
        *_lane_keys(claim.upstream, claim.model),
        keys.job(reference),
        keys.tries(reference),
        keys.shard(reference),
        keys.open_shards(claim.batch_id),
    ]
    ours = bool(await _finish(redis, names, [reference, claim.run, word]))
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
    return [*_lane_keys(upstream, model), keys.pulse(upstream)], arguments


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


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
