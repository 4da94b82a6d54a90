"""Suspects: money of calls whose outcome nobody knows. It counts as spent until it is settled, looked up or released.

owner silent ──► abandon ──► suspect ──late settlement──► spent
                               ├── reconcile (the upstream's own books, by generation id) ──► spent
                               └── release (an operator's word) ──► free
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import msgspec
from redis.asyncio import Redis

from batchmill.spend.ledger import Source, UsageRecord
from batchmill.store import audit, keys, ledger
from batchmill.store.batches import line_names, open_shards
from batchmill.store.clock import now_ms
from batchmill.store.model import Terms
from batchmill.store.scripts import Argument, Script
from batchmill.store.staging import Shard

_abandon = Script("abandon", "usage")
_close = Script("close", "usage")

_CHUNK = 500
_OTHER_DAY = -2
_PROJECT = Terms().project  # of a batch that is no more
_decode_tags = msgspec.json.Decoder(tuple[str, ...]).decode


class Suspect(msgspec.Struct, frozen=True):
    """One call whose outcome is unknown. `amount` in nano-dollars, `at` in ms, `budgets` the windows that count it."""

    hold: str
    amount: int
    batch: str
    index: int
    model: str
    generation: str
    at: int
    budgets: list[str]


class _Entry(msgspec.Struct):
    amount: int
    batch: str = ""
    index: int = 0
    model: str = ""
    generation: str = ""
    at: int = 0
    budgets: list[str] | dict[str, str] = []  # cjson writes an empty list as an object


_decode = msgspec.json.Decoder(_Entry, strict=False).decode


async def suspects(redis: Redis, upstream: str) -> list[Suspect]:
    """Return all suspects, oldest first."""
    entries = await redis.execute_command("HGETALL", keys.suspects(upstream))
    found = [_suspect(hold.decode(), value) for hold, value in entries.items()]
    return sorted(found, key=lambda suspect: (suspect.at, suspect.hold))


def _suspect(hold: str, value: bytes) -> Suspect:
    entry = _decode(value)
    budgets = entry.budgets if isinstance(entry.budgets, list) else []
    return Suspect(hold, entry.amount, entry.batch, entry.index, entry.model, entry.generation, entry.at, budgets)


async def close(redis: Redis, upstream: str, suspect: Suspect, cost: int) -> bool:
    """Book what a suspect really cost (nano-dollars); False when somebody else closed or settled it first."""
    day = suspect.at // ledger.DAY_MS
    names = [keys.suspects(upstream), keys.closed(upstream), keys.usage(upstream)]
    names += [*ledger.rollup_keys(upstream, day), keys.books(upstream)]
    return bool(await _close(redis, [*names, *suspect.budgets], [suspect.hold, cost, day]))


async def release(redis: Redis, upstream: str, holds: Sequence[str], who: str) -> list[str]:
    """Free suspects because an operator says that they cost nothing; return those that were freed. Audited."""
    known = {suspect.hold: suspect for suspect in await suspects(redis, upstream)}
    freed = [hold for hold in holds if hold in known and await close(redis, upstream, known[hold], 0)]
    now = await now_ms(redis)
    async with redis.pipeline(transaction=True) as pipe:
        for hold in freed:
            suspect = known[hold]
            detail = {"hold": hold, "amount": suspect.amount, "batch": suspect.batch, "model": suspect.model}
            audit.note(pipe, upstream, audit.Entry(who=who, what="release", at=now, detail=detail))
        await pipe.execute()
    return freed


async def silent_owners(redis: Redis, upstream: str) -> list[str]:
    """Return owners whose lease is over."""
    owners = await redis.execute_command("ZRANGEBYSCORE", keys.owners(upstream), "-inf", await now_ms(redis))
    return [owner.decode() for owner in owners]


async def abandon(redis: Redis, upstream: str, owner: str) -> int:
    """Make suspects of what a silent owner holds; return how many. Nothing happens when it lives after all."""
    fields = await redis.execute_command("HGETALL", keys.holds(upstream, owner))
    by_rules: dict[bytes, list[bytes]] = {}
    for name, value in fields.items():
        rules, colon, _ = value.partition(b":")
        if colon and rules.isdigit() and not name.startswith((b"rules", b"ask", b"g")):
            by_rules.setdefault(rules, []).append(name)
    tell = _Stories(redis, fields)
    moved = 0
    for rules, holds in by_rules.items():
        text = fields.get(b"rules" + rules)
        if text is None:
            continue  # cannot be: the text is written in the same step as the first hold
        model, count, *names = text.decode().split("\n")
        for start in range(0, len(holds), _CHUNK):
            wanted: list[Argument] = []
            for hold in holds[start : start + _CHUNK]:
                wanted += (hold, await tell.of(hold, model))
            done = await _abandon_some(redis, upstream, owner, (model, int(count), names), [rules, *wanted])
            if done < 0:
                return moved
            moved += done
    await _abandon_some(redis, upstream, owner, ("", 0, []), [b"0"])
    return moved


class _Stories:
    """What the ledger is told of calls whose owner can't tell any more: whose they were, as their batches know.

    A hold names batch and line only. What the line is called stands in its shard, which is there unless others have
    finished it meanwhile; then nobody is asked any further, and the `custom_id` stays empty.
    """

    def __init__(self, redis: Redis, holds: Mapping[bytes, bytes]) -> None:
        self._redis = redis
        self._holds = holds
        self._owners: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._lanes: dict[str, list[list[Shard]]] = {}
        self._named: dict[str, dict[int, tuple[str, str]]] = {}

    async def of(self, name: bytes, model: str) -> bytes:
        """Return the story of a hold."""
        hold = name.decode()
        batch_id, _, rest = hold.partition(".")
        number = rest.partition(".")[0]
        index = int(number) if number.isdigit() else 0
        if batch_id not in self._owners:
            told = await self._redis.execute_command("HMGET", keys.batch(batch_id), "project", "tags")
            project, tags = told[0], _decode_tags(told[1] or b"[]")
            self._owners[batch_id] = project.decode() if project else _PROJECT, tags
        project, tags = self._owners[batch_id]
        custom_id, asked = await self._line(batch_id, index)
        generation = self._holds.get(b"g" + name)
        record = UsageRecord(
            at=0,
            hold=hold,
            project=project,
            batch=batch_id,
            index=index,
            custom_id=custom_id,
            asked=asked,
            model=model,
            generation=generation.decode() if generation else None,
            outcome="abandoned",
            source=Source.SUSPECT,
            tags=tags,
        )
        return ledger.story(record)

    async def _line(self, batch_id: str, index: int) -> tuple[str, str]:
        """Return a line's custom_id and what it asked for; a shard is read once for all its lines."""
        if batch_id not in self._lanes:
            lanes: dict[str, list[Shard]] = {}
            for shard in sorted(await open_shards(self._redis, batch_id), key=_first):
                lanes.setdefault(shard.model, []).append(shard)
            self._lanes[batch_id] = list(lanes.values())
        for shards in self._lanes[batch_id]:  # lines of several lanes may lie between each other
            place = bisect_right(shards, index, key=_first) - 1
            if place >= 0 and index <= shards[place].last:
                shard = shards[place]
                if shard.reference not in self._named:
                    self._named[shard.reference] = await line_names(self._redis, shard)
                if found := self._named[shard.reference].get(index):
                    return found
        return "", ""


def _first(shard: Shard) -> int:
    return shard.first


async def _abandon_some(
    redis: Redis, upstream: str, owner: str, rules: tuple[str, int, list[str]], wanted: list[Argument]
) -> int:
    model, budgets, names = rules
    number, *holds = wanted
    places = [keys.owners(upstream), keys.holds(upstream, owner), keys.model(upstream, model), keys.suspects(upstream)]
    done = _OTHER_DAY
    while done == _OTHER_DAY:  # at midnight, once
        day = await now_ms(redis) // ledger.DAY_MS
        ends = [keys.books(upstream), keys.usage(upstream), *ledger.rollup_keys(upstream, day)]
        arguments: list[Argument] = [owner, number, budgets, len(names) - budgets, model, day, *holds]
        done = int(await _abandon(redis, [*places, *names, *ends], arguments))
    return done


async def leave(redis: Redis, upstream: str, owner: str) -> int:
    """End an owner's lease in order; what it holds all the same becomes suspect. Returns how many that were."""
    await redis.execute_command("ZADD", keys.owners(upstream), "XX", 0, owner)
    return await abandon(redis, upstream, owner)
