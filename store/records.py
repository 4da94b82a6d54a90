"""Results: recorded once a line, first writer wins, readable from the moment they are there.

A batch's results are a stream: read from a cursor, or block for more. `record` writes many results of many batches
in one round trip.
"""

from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from batchmill.openrouter.outcomes import Usage
from batchmill.store import keys, service_keys, settlement
from batchmill.store.connection import OUTAGE
from batchmill.store.gate import Caller
from batchmill.store.model import Result
from batchmill.store.scripts import Argument, Script

_record = Script("record")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Result).decode

START = "0-0"
"""The cursor before the first result."""

BATCH_GONE = -1
"""What `record` returns for a batch that has expired or was removed."""

_MOST = 2**50  # a line's tokens or nano-dollars; thousands of such lines add up exactly in the 63 bits of a counter
_NO_USAGE = Usage()
_PAGE = 500
_BLOCK_MS = 1000
_PAYLOAD, _END = b"r", b"end"


class Recording(msgspec.Struct, frozen=True):
    """What one flush says about one batch: new results, and the lines that the worker now has in the air."""

    batch_id: str
    results: tuple[Result, ...]
    in_air: int = 0


class Entry(msgspec.Struct, frozen=True):
    """One entry of the stream; `result` is None for the entry that says that the batch is finished."""

    cursor: str
    result: Result | None


class Flush(msgspec.Struct, frozen=True):
    """What goes out in one round trip: results first, then generation ids that are worth knowing, then the money."""

    recordings: Sequence[Recording]
    settlings: Sequence[settlement.Settling] = ()
    generations: Mapping[str, str] = {}  # hold -> generation id of a call that is still in the air


async def record(redis: Redis, recordings: Sequence[Recording], worker: str, retention: int) -> list[int]:
    """Record in one round trip; return how many results of each batch were new, or `BATCH_GONE`.

    Safe to repeat after an error, which is raised when all that can be recorded is. `retention` in seconds.
    """
    return (await flush(redis, Caller("", worker, 0), Flush(recordings), retention))[0]


async def flush(redis: Redis, caller: Caller, what: Flush, retention: int) -> tuple[list[int], list[settlement.Booked]]:
    """Record, then settle, in one round trip; as `record`, and for each settling what it did.

    Safe to repeat as a whole: results know who was first, and settlings are numbered.
    """
    async with redis.pipeline(transaction=False) as pipe:
        for recording in what.recordings:
            _record.queue(pipe, *_call(recording, caller.owner, retention))
        if what.generations:
            noted = [part for hold, generation in what.generations.items() for part in (f"g{hold}", generation)]
            pipe.execute_command("HSET", keys.holds(caller.upstream, caller.owner), *noted)
        for settling in what.settlings:
            settlement.queue(pipe, caller, settling)
        replies = await pipe.execute(raise_on_error=False)
    count = len(what.recordings)
    recorded = [
        await _settle_reply(redis, recording, caller.owner, retention, reply)
        for recording, reply in zip(what.recordings, replies[:count], strict=True)
    ]
    for reply in recorded:
        if isinstance(reply, Exception):
            raise reply
    money = replies[len(replies) - len(what.settlings) :]
    booked = [await settlement.answer(redis, caller, *pair) for pair in zip(what.settlings, money, strict=True)]
    return [int(reply) for reply in recorded], booked  # type: ignore[call-overload]  # integer replies of the script


async def _settle_reply(redis: Redis, recording: Recording, worker: str, retention: int, reply: object) -> object:
    if not isinstance(reply, NoScriptError):
        return reply
    try:
        return await _record(redis, *_call(recording, worker, retention))
    except ResponseError as error:
        return error


def _call(recording: Recording, worker: str, retention: int) -> tuple[list[str], list[Argument]]:
    batch_id = recording.batch_id
    names = [keys.batch(batch_id), keys.done(batch_id), keys.results(batch_id), keys.air(batch_id), keys.live()]
    names += [service_keys.deadlines(), service_keys.to_finalize()]
    arguments: list[Argument] = [batch_id, retention, worker, recording.in_air]
    for told in recording.results:
        result = _countable(told)
        usage = result.usage or _NO_USAGE
        arguments += [
            result.index,
            result.state.value,
            "" if result.cost is None else result.cost,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens,
            int(result.cached),
            _encode(result),
        ]
    return names, arguments


def _countable(result: Result) -> Result:
    """Return the result with numbers that counters can hold: one that overflows in mid-script would part the books."""
    numbers = [result.cost or 0, *msgspec.structs.astuple(result.usage or _NO_USAGE)]
    if min(numbers) >= 0 and max(numbers) <= _MOST:
        return result
    cost, *tokens = (min(max(number, 0), _MOST) for number in numbers)
    return msgspec.structs.replace(
        result,
        cost=None if result.cost is None else cost,
        usage=None if result.usage is None else Usage(*tokens),
    )


async def read(redis: Redis, batch_id: str, cursor: str = START, *, block: bool = False) -> list[Entry]:
    """Return the entries after the cursor, a page at most; with `block`, wait about a second for one."""
    options: list[Argument] = ["COUNT", _PAGE]
    if block:
        options += ["BLOCK", _BLOCK_MS]
    reply = await redis.execute_command("XREAD", *options, "STREAMS", keys.results(batch_id), cursor)
    return [_entry(entry_id, fields) for _, entries in reply or () for entry_id, fields in entries]


async def follow(redis: Redis, batch_id: str, cursor: str = START, *, wait: bool = True) -> AsyncIterator[Entry]:
    """Yield entries as they land until the batch is finished, over outages of the server; else those that are there."""
    while True:
        try:
            entries = await read(redis, batch_id, cursor, block=wait)
            if not entries and (not wait or not await redis.execute_command("EXISTS", keys.batch(batch_id))):
                return
        except OUTAGE:
            if not wait:
                raise
            continue
        for entry in entries:
            yield entry
            if entry.result is None:
                return
            cursor = entry.cursor


def _entry(entry_id: bytes, fields: dict[bytes, bytes] | list[bytes]) -> Entry:
    pairs = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    payload = pairs.get(_PAYLOAD)
    return Entry(entry_id.decode(), None if payload is None else _decode(payload))
