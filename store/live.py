"""Live tokens: what the upstream says of a line while it says it, in a Redis stream a line.

    start ──► chunks ──► chunks ──► end       all entries of a call carry its hold's id; its chunks are numbered from 0
      ▲                              │
      └── tried again, another worker, another model: the start drops what was there

They are for watching. The result is recorded as that of any line, and is what counts: chunks may be lost (the numbers
show it) or come twice, and an end may be missing.
"""

from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from batchmill.openrouter.outcomes import Usage
from batchmill.store import keys
from batchmill.store.model import Result
from batchmill.store.records import START
from batchmill.store.scripts import Argument, Script

_tokens = Script("tokens")
_PAGE = 200
_BLOCK_MS = 1000
_SAID, _RESULT = b"s", b"r"


class Start(msgspec.Struct, frozen=True, array_like=True, tag="start"):
    """A call begins; `attempt` counts the calls of the line from 1, `model` is the one that is asked."""

    call: str
    attempt: int
    model: str


class Chunks(msgspec.Struct, frozen=True, array_like=True, tag="chunks"):
    """What came of a call's stream: the JSON of each chunk as it came; `first` is the number of the first one."""

    call: str
    first: int
    chunks: tuple[bytes, ...]


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """A call is over, after so many chunks. `outcome` as in `model.Attempt`, `cost` in nano-dollars."""

    call: str
    total: int
    outcome: str
    usage: Usage | None = None
    cost: int | None = None


Said = Start | Chunks | End


class Post(msgspec.Struct, frozen=True):
    """What is to be said of one line."""

    batch_id: str
    index: int
    said: tuple[Said, ...]


class Heard(msgspec.Struct, frozen=True):
    """What a look at a line brought: what was said and the cursor after it, and the result if it was seen."""

    said: tuple[Said, ...]
    cursor: str
    result: Result | None = None


class _Head(msgspec.Struct, array_like=True):
    """The front of a Result: whose it is, without decoding the rest."""

    index: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Said).decode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_result = msgspec.msgpack.Decoder(Result).decode


async def post(redis: Redis, posts: Sequence[Post], *, life: int, keep: int) -> None:
    """Say all of it in one round trip.

    What nobody ends is kept for `life` seconds from its start, the rest for `keep` seconds after the end.
    """
    calls = [_call(one, life, keep) for one in posts]
    async with redis.pipeline(transaction=False) as pipe:
        for call in calls:
            _tokens.queue(pipe, *call)
        replies = await pipe.execute(raise_on_error=False)
    for call, reply in zip(calls, replies, strict=True):
        answer = await _tokens(redis, *call) if isinstance(reply, NoScriptError) else reply
        if isinstance(answer, Exception):
            raise answer


def _call(one: Post, life: int, keep: int) -> tuple[list[str], list[Argument]]:
    arguments: list[Argument] = [life, keep]
    for said in one.said:
        arguments += [said.__struct_config__.tag, _encode(said)]  # type: ignore[list-item]  # the tags are strings
    return [keys.live_tokens(one.batch_id, one.index)], arguments


async def index_of(redis: Redis, batch_id: str, custom_id: str) -> int | None:
    """Return where in its batch a line is that has live tokens; None for any other."""
    found = await redis.execute_command("HGET", keys.live_lines(batch_id), custom_id)
    return None if found is None else int(found)


async def lines(redis: Redis, batch_id: str) -> list[str]:
    """Return the custom ids of a batch's lines with live tokens, in their order."""
    found = await redis.execute_command("HGETALL", keys.live_lines(batch_id))
    return [custom_id.decode() for custom_id in sorted(found, key=lambda custom_id: int(found[custom_id]))]


async def listen(redis: Redis, batch_id: str, index: int, cursor: str, *, ended: str | None = None) -> Heard:
    """Return what was said after the cursor, a page at most; wait about a second for it.

    `ended` is the cursor of a call's end: then the line's result is looked for, too, among those that came since.
    """
    names, cursors = [keys.live_tokens(batch_id, index)], [cursor]
    if ended is not None:
        names.append(keys.results(batch_id))
        cursors.append(_before(ended))
    reply = await redis.execute_command("XREAD", "COUNT", _PAGE, "BLOCK", _BLOCK_MS, "STREAMS", *names, *cursors)
    said: list[Said] = []
    result = None
    for name, entries in reply or ():
        if name == names[0].encode():
            said = [_decode(_field(fields, _SAID)) for _, fields in entries]
            cursor = entries[-1][0].decode()
        else:
            result = await _among(redis, batch_id, index, entries)
    return Heard(tuple(said), cursor, result)


async def result_of(redis: Redis, batch_id: str, index: int) -> Result | None:
    """Return the line's result, None while it has none."""
    if not await redis.execute_command("GETBIT", keys.done(batch_id), index):
        return None
    return await _among(redis, batch_id, index, await _page(redis, batch_id, START))


async def _among(redis: Redis, batch_id: str, index: int, entries: "list[_Entry]") -> Result | None:
    """Return the line's result out of a page of results, or of those after it."""
    while entries:
        for _, fields in entries:
            payload = _field(fields, _RESULT)
            if payload and _decode_head(payload).index == index:
                return _decode_result(payload)
        entries = await _page(redis, batch_id, entries[-1][0].decode())
    return None


async def _page(redis: Redis, batch_id: str, cursor: str) -> "list[_Entry]":
    reply = await redis.execute_command("XREAD", "COUNT", _PAGE, "STREAMS", keys.results(batch_id), cursor)
    return reply[0][1] if reply else []


_Fields = dict[bytes, bytes] | list[bytes]
_Entry = tuple[bytes, _Fields]


def _field(fields: _Fields, name: bytes) -> bytes:
    pairs = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    return pairs.get(name, b"")


def _before(cursor: str) -> str:
    """Return a cursor before all that came later: both streams are stamped by the clock of one server."""
    return f"{max(0, int(cursor.partition('-')[0]) - 1)}-0"
