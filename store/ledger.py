"""The ledger: what every call that may have cost money cost, and whose it was. No prompt, no answer, no key.

settled call ──► a usage record, and the roll-ups of its day    (in the same step as the money, so that nothing
late bill, look-up, release ──► a record that corrects           is ever there twice or missing)

Records lie in a stream, those that were settled together in one entry. A day has two roll-ups, by group and by batch:
hashes with a field a group, whose value is all its sums, so that years of them are read at once. What is corrected
later is corrected in the day of the call, so that a day's roll-ups tell what its calls cost.
"""

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import date, timedelta
from operator import add

import msgspec
from redis.asyncio import Redis

from batchmill.spend.ledger import CHATS, Day, Group, Rollup, Source, Sums, UsageRecord
from batchmill.store import keys
from batchmill.store.scripts import Script

OK = "ok"

_PAGE = 100  # entries, of up to 500 records
_MOST_DAYS = 4000  # roll-ups are kept for ten years at most
_DAYS = 10  # read in one round trip; of a day with 10,000 batches it is some 15 MB
_SUMS = 8
_BY_GROUP, _BY_BATCH = 1, 2  # the roll-ups of a day, as the scripts know them
DAY_MS = 86_400_000
_KEY_BYTES = 32
_EPOCH = date(1970, 1, 1)

_trim = Script("trim")

_encode_json = msgspec.json.Encoder().encode
_encode_chunk = msgspec.msgpack.Encoder().encode
_decode_group = msgspec.json.Decoder(Group).decode
_decode_chunk = msgspec.msgpack.Decoder(list[UsageRecord]).decode
_decode_one = msgspec.json.Decoder(UsageRecord).decode


def day_of(at_ms: int) -> str:
    """Return the UTC day (YYYY-MM-DD) of a time of the Redis clock."""
    return name_of(at_ms // DAY_MS)


def name_of(day: int) -> str:
    """Return the name (YYYY-MM-DD) of the UTC day that is so many days after 1970-01-01."""
    return (_EPOCH + timedelta(days=day)).isoformat()


def rollup_keys(upstream: str, day: int) -> list[str]:
    """Return the keys of a day's roll-ups as the scripts want them; `day` since 1970."""
    return [keys.rollup(upstream, name_of(day)), keys.batch_rollup(upstream, name_of(day))]


async def records(
    redis: Redis, upstream: str, *, since_ms: int = 0, until_ms: int | None = None, project: str | None = None
) -> AsyncIterator[UsageRecord]:
    """Yield the records from `since_ms` on and before `until_ms` (Redis clock), oldest first, a page at a time.

    A suspect that was corrected comes as it was, and its correction, with the same hold, when it was made.
    """
    async for _, found in entries(redis, upstream, start=f"{since_ms}-0"):
        for record in found:
            early = until_ms is None or record.at < until_ms
            if early and record.at >= since_ms and project in (None, record.project):
                yield record


async def entries(redis: Redis, upstream: str, start: str = "-") -> AsyncIterator[tuple[str, list[UsageRecord]]]:
    """Yield the stream's entries with their ids, oldest first, from an id on ("(" before it: after that one)."""
    while True:
        page = await redis.execute_command("XRANGE", keys.usage(upstream), start, "+", "COUNT", _PAGE)
        for name, fields in page:
            yield name.decode(), read(fields)
        if len(page) < _PAGE:
            return
        start = f"({page[-1][0].decode()}"


def read(fields: dict[bytes, bytes]) -> list[UsageRecord]:
    """Return the records of one entry of the stream."""
    at = int(fields[b"at"])
    if b"m" in fields:
        return [msgspec.structs.replace(record, at=at) for record in _decode_chunk(fields[b"m"])]
    source = Source(fields[b"s"].decode())
    return [msgspec.structs.replace(_decode_one(fields[b"b"]), at=at, cost=int(fields[b"c"]), source=source)]


async def rollups(redis: Redis, upstream: str, first_day: str, last_day: str) -> list[Rollup]:
    """Return the roll-ups of these UTC days (YYYY-MM-DD, inclusive), by day. Raises ValueError for no such day."""
    found = []
    async for day in days(redis, upstream, first_day, last_day):
        for group, (requests, answered, prompt, cached, completion, reasoning, cost, suspect) in day.sums:
            rollup = Rollup(
                day=day.name,
                project=group.project,
                model=group.model,
                provider=group.provider,
                tags=group.tags,
                requests=requests,
                answered=answered,
                prompt_tokens=prompt,
                cached_tokens=cached,
                completion_tokens=completion,
                reasoning_tokens=reasoning,
                cost=cost,
                suspect=suspect,
            )
            found.append(rollup)
    return sorted(found, key=lambda one: (one.day, one.project, one.model, one.provider, one.tags))


async def days(
    redis: Redis, upstream: str, first_day: str, last_day: str, *, by_batch: bool = False
) -> AsyncIterator[Day]:
    """Yield the roll-up of each of these UTC days (YYYY-MM-DD, inclusive), by group or by batch, a page at a time.

    Raises ValueError for no such day.
    """
    first, last = date.fromisoformat(first_day), date.fromisoformat(last_day)
    first = max(first, last - timedelta(days=_MOST_DAYS))
    names = [(first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1)]
    key = keys.batch_rollup if by_batch else keys.rollup
    for start in range(0, len(names), _DAYS):
        page = names[start : start + _DAYS]
        async with redis.pipeline(transaction=False) as pipe:
            for name in page:
                pipe.execute_command("HGETALL", key(upstream, name))
            found = await pipe.execute()
        known: dict[bytes, Group] = {}  # of a page: years of batches would fill it, and groups come every day
        for name, fields in zip(page, found, strict=True):
            yield Day(name, list(_sums(fields, known)))


def _sums(fields: dict[bytes, bytes], known: dict[bytes, Group]) -> Iterable[tuple[Group, Sums]]:
    """Read a roll-up; groups that are `known` are not decoded again."""
    numbers = map(int, b" ".join(fields.values()).split())  # all at once: a split for each value takes longer
    for field, *sums in zip(fields, *[numbers] * _SUMS, strict=True):
        if any(sums):  # else all that was there went elsewhere
            group = known.get(field)
            if group is None:
                group = known[field] = _decode_group(field)
            yield group, tuple(sums)


def chunk(told: Sequence[UsageRecord]) -> bytes:
    """Return what an entry of the stream holds of calls that were settled together."""
    return _encode_chunk(told)


def changes(told: Sequence[UsageRecord]) -> list[tuple[int, bytes, str]]:
    """Return what these calls, whose costs are known, add to the roll-ups of their day: which, field, eight sums."""
    found: dict[tuple[int, Group], list[int]] = {}
    for record in told:
        more = (*_counts(record), record.cost, 0)
        for name in ((_BY_GROUP, _group(record)), (_BY_BATCH, _batch(record))):
            sums = found.get(name)
            found[name] = [*more] if sums is None else [*map(add, sums, more)]
    return [(which, _encode_json(group), " ".join(map(str, sums))) for (which, group), sums in found.items()]


def story(record: UsageRecord) -> bytes:
    """Return what the scripts are told of one call, see `usage.lua`."""
    told = {
        "record": _encode_json(record).decode(),
        "group": _encode_json(_group(record)).decode(),
        "batch": _encode_json(_batch(record)).decode(),
        "counts": _counts(record),
        "source": record.source.value,
    }
    return _encode_json(told)


def _group(record: UsageRecord) -> Group:
    return Group(record.project, record.model, record.provider or "", record.tags)


def _batch(record: UsageRecord) -> Group:
    """Return the batch of a call; chats, of which there may be millions a day, are one for each project."""
    return Group(record.project, batch=CHATS if record.is_chat else record.batch)


def _counts(record: UsageRecord) -> Sums:
    """Return the sums of one call without its money."""
    return (
        1,
        1 if record.outcome == OK else 0,
        record.prompt_tokens,
        record.cached_tokens,
        record.completion_tokens,
        record.reasoning_tokens,
    )


async def user_key(redis: Redis, upstream: str) -> bytes:
    """Return the key under which users of requests are hashed: whoever comes first makes it."""
    name = keys.user_key(upstream)
    await redis.execute_command("SET", name, secrets.token_bytes(_KEY_BYTES), "NX")
    found: bytes = await redis.execute_command("GET", name)
    return found


async def trim(redis: Redis, upstream: str, *, keep_records: int, keep_days: int) -> int:
    """Drop the oldest records until no more than these are left, by whole entries; return how many went."""
    dropped, names = 0, [keys.usage(upstream), keys.books(upstream)]
    while True:
        told: tuple[int, int] = await _trim(redis, names, [keep_records, keep_days * DAY_MS, _PAGE])
        gone, more = told
        dropped += gone
        if not more:
            return dropped


async def drop_rollups(redis: Redis, upstream: str, today: int, keep_days: int) -> None:
    """Drop the roll-ups that are older than so many days; `today` in days since 1970."""
    gone = [name_of(today - age) for age in range(keep_days + 1, _MOST_DAYS)]
    names = [key(upstream, day) for key in (keys.rollup, keys.batch_rollup) for day in gone]
    for start in range(0, len(names), _PAGE):
        await redis.execute_command("UNLINK", *names[start : start + _PAGE])
