"""The answer cache: what was answered once is there for lines that are the same, byte for byte, until it expires.

    nobody asked ──seek──► led by one line, under a lease ──keep, with an answer──► kept ──ttl──► gone
         ▲                          │
         └── landed without one ────┤        (the next line that seeks it leads)
         └── lease over ◄───────────┘

A lead keeps lines that are alike from being paid for twice, and no more than that: when a lease ran out in spite of a
living leader, two lead, both are answered, and either answer is as good as the other.
"""

import secrets
from collections.abc import Mapping, Sequence

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import NoScriptError

from batchmill.store import keys
from batchmill.store.scripts import Argument, Script

_seek = Script("seek")
_keep = Script("keep")
_lead = Script("lead")
_encode = msgspec.msgpack.Encoder().encode

_SECRET_BYTES = 32
_LEADS = 1
_PAGE = 1000


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it came. `model` is the one that was asked, `served` the one that says to have answered."""

    body: bytes
    model: str
    served: str | None = None
    provider: str | None = None
    generation: str | None = None
    finish_reason: str | None = None


_decode = msgspec.msgpack.Decoder(Kept).decode


class Lead(msgspec.Struct, frozen=True):
    """Who goes first of lines that are alike: the name that they share, and the token of the one that leads."""

    name: str
    token: str


class Landing(msgspec.Struct, frozen=True):
    """The end of a lead; without an answer, the next line may lead."""

    lead: Lead
    project: str
    batch: str
    kept: Kept | None = None


class Sought(msgspec.Struct, frozen=True):
    """What there is for a line: an answer, the lead, or neither, when another line leads."""

    kept: Kept | None = None
    leads: bool = False


class Look(msgspec.Struct, frozen=True):
    """What there is for lines that wait: an answer, somebody who leads, or neither."""

    kept: bool
    led: bool


class Answers:
    """The cache of one upstream. Times in ms; `most` is how many answers are kept of a project."""

    def __init__(self, redis: Redis, upstream: str, *, lease: int, life: int, most: int) -> None:
        self._redis = redis
        self._upstream = upstream
        self._lease = lease
        self._life = life
        self._most = most

    async def secret(self) -> bytes:
        """Return the bytes by which lines are named: random, and the same for the whole fleet."""
        name = keys.answer_secret(self._upstream)
        await self._redis.execute_command("SET", name, secrets.token_bytes(_SECRET_BYTES), "NX")
        return bytes(await self._redis.execute_command("GET", name))

    async def seek(self, leads: Sequence[Lead]) -> list[Sought]:
        """Return what there is for each line. Safe to repeat: who leads by its token leads."""
        names = [key for lead in leads for key in self._pair(lead.name)]
        found = await _seek(self._redis, names, [self._lease, *(lead.token for lead in leads)])
        return [_sought(one) for one in found]

    async def keep(self, landings: Sequence[Landing]) -> None:
        """End leads, and keep the answers that they brought. Safe to repeat."""
        calls = [self._keep_call(landing) for landing in landings]
        async with self._redis.pipeline(transaction=False) as pipe:
            for call in calls:
                _keep.queue(pipe, *call)
            replies = await pipe.execute(raise_on_error=False)
        counts: dict[str, int] = {}
        for landing, call, reply in zip(landings, calls, replies, strict=True):
            count = await _keep(self._redis, *call) if isinstance(reply, NoScriptError) else reply
            if isinstance(count, Exception):
                raise count
            counts[landing.project] = max(int(count), counts.get(landing.project, 0))
        for project, count in counts.items():
            if count > self._most:
                await self._drop_oldest(project, count - self._most)

    async def renew(self, leads: Sequence[Lead]) -> int:
        """Go on leading for another lease; return how many leads are still ours."""
        names = [keys.answer_lead(self._upstream, lead.name) for lead in leads]
        return int(await _lead(self._redis, names, [self._lease, *(lead.token for lead in leads)]))

    async def look(self, names: Sequence[str]) -> dict[str, Look]:
        """Return what there is for lines that wait, without taking a lead."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                for key in self._pair(name):
                    pipe.execute_command("EXISTS", key)
            there = await pipe.execute()
        return {
            name: Look(bool(kept), bool(led)) for name, kept, led in zip(names, there[::2], there[1::2], strict=True)
        }

    def _keep_call(self, landing: Landing) -> tuple[list[str], list[Argument]]:
        name = landing.lead.name
        kept = b"" if landing.kept is None else _encode(landing.kept)
        arguments: list[Argument] = [landing.lead.token, kept, self._life, _entry(landing.batch, name)]
        return [*self._pair(name), keys.project_answers(self._upstream, landing.project)], arguments

    def _pair(self, name: str) -> tuple[str, str]:
        return keys.answer(self._upstream, name), keys.answer_lead(self._upstream, name)

    async def _drop_oldest(self, project: str, count: int) -> None:
        """Drop what expires first. Should we die in between, the rest expires by itself."""
        popped = await self._redis.execute_command("ZPOPMIN", keys.project_answers(self._upstream, project), count)
        entries = [part for one in popped for part in (one if isinstance(one, list | tuple) else (one,))][::2]
        await _forget(self._redis, self._upstream, entries)


async def purge(redis: Redis, upstream: str, project: str, batch_id: str | None = None) -> int:
    """Drop the answers that lines of a project, or of one batch of it, brought; return how many."""
    index = keys.project_answers(upstream, project)
    dropped, cursor = 0, b"0"
    match: Mapping[str, str] = {} if batch_id is None else {"MATCH": _entry(batch_id, "*")}
    while True:
        options = [part for pair in match.items() for part in pair]
        cursor, found = await redis.execute_command("ZSCAN", index, cursor, *options, "COUNT", _PAGE)
        entries = [one[0] if isinstance(one, list | tuple) else one for one in found]
        entries = entries if not found or isinstance(found[0], list | tuple) else entries[::2]
        if entries:
            await _forget(redis, upstream, entries)
            await redis.execute_command("ZREM", index, *entries)
            dropped += len(entries)
        if int(cursor) == 0:
            return dropped


async def _forget(redis: Redis, upstream: str, entries: Sequence[bytes]) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        _delete(pipe, upstream, entries)
        await pipe.execute()


def _delete(pipe: Pipeline, upstream: str, entries: Sequence[bytes]) -> None:
    for start in range(0, len(entries), _PAGE):
        names = [entry.decode().rpartition(".")[2] for entry in entries[start : start + _PAGE]]
        pipe.execute_command("DEL", *(keys.answer(upstream, name) for name in names))


def _entry(batch_id: str, name: str) -> str:
    return f"{batch_id}.{name}"


def _sought(found: bytes | int) -> Sought:
    if isinstance(found, int):
        return Sought(leads=found == _LEADS)
    try:
        return Sought(kept=_decode(found))
    except msgspec.DecodeError:
        return Sought(leads=True)  # of another version of ours: its line is sent, and replaces it
