"""The ledger: what every call that may have cost money cost, and whose it was. No prompt, no answer, no key.

settled call ──► a usage record, and the roll-up of its day     (in the same step as the money, so that nothing
late bill, look-up, release ──► a record that corrects           is ever there twice or missing)

Records lie in a stream, those that were settled together in one entry. A roll-up is a few counters of a day's hash.
What is corrected later is corrected in the day of the call, so that a day's roll-ups tell what its calls cost.
"""

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import date, timedelta
from enum import StrEnum

import msgspec
from redis.asyncio import Redis

from batchmill.store import keys
from batchmill.store.scripts import Script

OK = "ok"


class Source(StrEnum):
    """How the cost of a call is known."""

    TOLD = "told"  # `usage.cost`
    COMPUTED = "computed"  # from its tokens, by the price we know
    SUSPECT = "suspect"  # it is not: the bound counts until somebody knows
    RECONCILED = "reconciled"  # by the upstream's own books, a late answer, or an operator's word


class UsageRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One call. `at` in ms of the Redis clock; `cost` in nano-dollars, of a suspect its bound.

    A record with the source "reconciled" stands beside the suspect that it corrects, which has the same `hold`.
    """

    at: int
    hold: str
    project: str
    batch: str
    index: int
    custom_id: str = ""
    asked: str = ""  # what the line asked for: a model, an alias, "auto"
    model: str = ""  # what the upstream was asked for
    served: str | None = None  # the model that says to have answered
    provider: str | None = None
    generation: str | None = None
    attempt: int = 1  # which call of its line
    outcome: str = OK  # or the failure's code
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0
    source: Source = Source.TOLD
    latency_ms: int = 0
    first_token_ms: int | None = None
    user: str | None = None  # a keyed hash of the body's `user`
    tags: tuple[str, ...] = ()  # of its batch, "key=value"


class Rollup(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """All calls of one UTC day (YYYY-MM-DD) that have the rest in common. Money in nano-dollars.

    `cost` is what is known, `suspect` what nobody knows yet.
    """

    day: str
    project: str
    model: str
    provider: str = ""
    tags: tuple[str, ...] = ()
    requests: int = 0
    answered: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0
    suspect: int = 0


_PAGE = 100  # entries, of up to 500 records
_MOST_DAYS = 4000  # roll-ups are kept for ten years at most
_LETTERS = {
    "requests": "r",
    "answered": "a",
    "prompt_tokens": "p",
    "cached_tokens": "k",
    "completion_tokens": "c",
    "reasoning_tokens": "t",
    "cost": "$",
    "suspect": "?",
}
_COUNTED = "rapkct"
_NAMES = {letter.encode(): name for name, letter in _LETTERS.items()}
DAY_MS = 86_400_000
_KEY_BYTES = 32
_EPOCH = date(1970, 1, 1)

_trim = Script("trim")

Group = tuple[str, str, str, tuple[str, ...]]
"""Project, model, provider and tags: what calls of a day have in common that are rolled up together."""

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
    first, last = date.fromisoformat(first_day), date.fromisoformat(last_day)
    first = max(first, last - timedelta(days=_MOST_DAYS))
    days = [(first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1)]
    async with redis.pipeline(transaction=False) as pipe:
        for day in days:
            pipe.execute_command("HGETALL", keys.rollup(upstream, day))
        found = await pipe.execute()
    return [rollup for day, fields in zip(days, found, strict=True) for rollup in _rollups(day, fields)]


def _rollups(day: str, fields: dict[bytes, bytes]) -> Iterable[Rollup]:
    groups: dict[bytes, dict[str, int]] = {}
    for field, value in fields.items():
        name = _NAMES.get(field[-1:])
        if name is not None:
            groups.setdefault(field[:-1], {})[name] = int(value)
    for group, counts in sorted(groups.items()):
        if any(counts.values()):  # else all that was there went elsewhere
            project, model, provider, tags = _decode_group(group)
            yield Rollup(day=day, project=project, model=model, provider=provider, tags=tags, **counts)


def chunk(told: Sequence[UsageRecord]) -> bytes:
    """Return what an entry of the stream holds of calls that were settled together."""
    return _encode_chunk(told)


def changes(told: Sequence[UsageRecord]) -> list[str | bytes | int]:
    """Return what these calls, whose costs are known, add to the roll-up of their day: field, number, field ..."""
    groups: dict[Group, list[int]] = {}
    for record in told:
        sums = groups.setdefault(_group(record), [0] * (len(_COUNTED) + 1))
        for place, count in enumerate(_counts(record)):
            sums[place] += count
        sums[-1] += record.cost
    letters = (*_COUNTED, _LETTERS["cost"])
    found: list[str | bytes | int] = []
    for group, sums in groups.items():
        prefix = _encode_json(group)
        for letter, count in zip(letters, sums, strict=True):
            if count:
                found += (prefix + letter.encode(), count)
    return found


def story(record: UsageRecord) -> bytes:
    """Return what the scripts are told of one call, see `usage.lua`."""
    counts = {letter: count for letter, count in zip(_COUNTED, _counts(record), strict=True) if count}
    told = {
        "record": _encode_json(record).decode(),
        "group": _encode_json(_group(record)).decode(),
        "counts": counts,
        "source": record.source.value,
    }
    return _encode_json(told)


def _group(record: UsageRecord) -> Group:
    return record.project, record.model, record.provider or "", record.tags


def _counts(record: UsageRecord) -> tuple[int, ...]:
    """Return the numbers in the order of `_COUNTED`."""
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
        gone, more = await _trim(redis, names, [keep_records, keep_days * DAY_MS, _PAGE])
        dropped += gone
        if not more:
            return dropped


async def drop_rollups(redis: Redis, upstream: str, today: int, keep_days: int) -> None:
    """Drop the roll-ups that are older than so many days; `today` in days since 1970."""
    names = [keys.rollup(upstream, name_of(today - age)) for age in range(keep_days + 1, _MOST_DAYS)]
    for start in range(0, len(names), _PAGE):
        await redis.execute_command("UNLINK", *names[start : start + _PAGE])
