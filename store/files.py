"""What is known of files: their records, lists of them by page, and which bytes may go.

    announce (before any byte) ──► bytes ──► put ──► the file exists ──► expires, or is deleted ──► doomed ──► forget
         └── who dies here leaves an entry in `file_ends`: the bytes go a day later

A record never changes. The bytes are in storage, under a name that follows from the file's id.
"""

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from batchmill.store import service_keys as keys
from batchmill.store.scripts import Argument, Script

_put = Script("put_file")

UPLOADED = "batch"
"""The purpose of a file that batches are made of, in OpenAI's words."""

OUTPUT = "batch_output"
"""The purpose of what a batch made."""

_GRACE = 86_400  # seconds that an upload may take before its bytes count as left behind
_CONTENT_SECONDS = 600  # that a client's silent retry finds the file which its first try made
_KEY_SECONDS = 86_400  # the same for a retry that names an Idempotency-Key
_PLACE_SECONDS = 3600
_PAGE = 500


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A file. `bytes` is its size, times are unix seconds of the Redis clock, `blob` is its name in storage."""

    id: str
    project: str
    bytes: int
    created_at: int
    expires_at: int | None  # None: as long as the results of its batch
    filename: str
    purpose: str
    blob: str
    sha256: str = ""


class Try(msgspec.Struct, frozen=True):
    """By what a repeated upload is known. `key` is its Idempotency-Key, if it has one; `again`: it is a repetition."""

    fingerprint: str
    key: str | None = None
    again: bool = False


class Reused(msgspec.Struct, frozen=True):
    """An earlier try of an upload made this file already; `fingerprint` says of which content."""

    fingerprint: str
    record: FileRecord


class Doomed(msgspec.Struct, frozen=True):
    """A file whose bytes may go."""

    id: str
    project: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(FileRecord).decode


async def announce(redis: Redis, file_id: str, project: str) -> None:
    """Say that bytes are about to be written: whatever becomes of us, they won't stay for ever without a file."""
    now, _ = await redis.execute_command("TIME")
    await redis.execute_command("ZADD", keys.file_ends(), int(now) + _GRACE, _member(file_id, project))


async def put(redis: Redis, record: FileRecord, upload: Try | None = None) -> Reused | None:
    """Let a file exist; or return the file that an earlier try of the same upload made, and leave ours doomed."""
    if record.expires_at is None:
        raise ValueError("a file in storage has an end")
    now, _ = await redis.execute_command("TIME")
    life = max(1, record.expires_at - int(now))
    told = (upload.key and f"key {upload.key}") or upload.fingerprint if upload else ""
    names = [keys.file(record.id), keys.files(), keys.project_files(record.project), keys.file_ends()]
    names.append(keys.upload(record.project, told))
    remember = 0 if upload is None else _KEY_SECONDS if upload.key else _CONTENT_SECONDS
    counts = int(upload is not None and (upload.again or upload.key is not None))
    fingerprint = upload.fingerprint if upload else ""
    arguments: list[Argument] = [record.id, _encode(record), life, record.expires_at]
    arguments += [_member(record.id, record.project), fingerprint, min(remember, life)]
    earlier = await _put(redis, names, [*arguments, counts])
    if not earlier:
        return None
    seen, _, file_id = earlier.decode().partition(" ")
    found = await get(redis, file_id)
    if found is None:  # it was deleted since
        await _put(redis, names, [*arguments, 0])
        return None
    await doom(redis, record)
    return Reused(seen, found)


async def get(redis: Redis, file_id: str) -> FileRecord | None:
    """Return a file, None when there is none (any more)."""
    found = await redis.execute_command("GET", keys.file(file_id))
    return _decode(found) if found else None


async def delete(redis: Redis, record: FileRecord) -> bool:
    """Let a file be gone; its bytes are doomed. False when somebody else deleted it."""
    place = await redis.execute_command("ZSCORE", keys.files(), record.id)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("DEL", keys.file(record.id))
        _unlist(pipe, record.id, record.project, place)
        pipe.execute_command("ZADD", keys.file_ends(), 0, _member(record.id, record.project))
        done = await pipe.execute()
    return bool(done[0])


async def purge(redis: Redis, project: str) -> int:
    """Delete all files of a project; return how many. Their bytes are doomed."""
    removed = 0
    while ids := await redis.execute_command("ZRANGE", keys.project_files(project), 0, _PAGE - 1):
        for file_id in ids:
            record = await get(redis, file_id.decode())
            if record is not None:
                removed += await delete(redis, record)
            else:  # it has expired
                await redis.execute_command("ZREM", keys.project_files(project), file_id)
                await redis.execute_command("ZREM", keys.files(), file_id)
    return removed


async def doom(redis: Redis, record: FileRecord) -> None:
    """Have bytes removed that belong to no file."""
    await redis.execute_command("ZADD", keys.file_ends(), 0, _member(record.id, record.project))


async def doomed(redis: Redis) -> list[Doomed]:
    """Return files whose bytes may go now, a page at most. A file that exists again, or still, is none of them."""
    now, _ = await redis.execute_command("TIME")
    found = await redis.execute_command("ZRANGEBYSCORE", keys.file_ends(), "-inf", int(now), "LIMIT", 0, _PAGE)
    ends = [Doomed(*member.decode().split(" ", 1)) for member in found]
    if not ends:
        return []
    kept = await redis.execute_command("MGET", *(keys.file(each.id) for each in ends))
    return [each for each, record in zip(ends, kept, strict=True) if record is None]


async def forget(redis: Redis, gone: Doomed) -> None:
    """Forget a file whose bytes are gone."""
    place = await redis.execute_command("ZSCORE", keys.files(), gone.id)
    async with redis.pipeline(transaction=True) as pipe:
        _unlist(pipe, gone.id, gone.project, place)
        pipe.execute_command("ZREM", keys.file_ends(), _member(gone.id, gone.project))
        await pipe.execute()


async def take_turn(redis: Redis, interval: float) -> bool:
    """Whether it is ours to look for bytes that may go: one gateway does in each interval (seconds)."""
    return bool(await redis.execute_command("SET", keys.files_turn(), 1, "NX", "PX", round(interval * 1000)))


async def page(
    redis: Redis,
    project: str | None,
    *,
    after: str | None = None,
    limit: int,
    newest_first: bool = True,
    purpose: str | None = None,
) -> tuple[list[FileRecord], bool] | None:
    """Return files of a project (None: of all) and whether there are more; None when none of theirs is `after`.

    What is made or removed meanwhile moves nobody to another page.
    """
    name = keys.files() if project is None else keys.project_files(project)
    place = None if after is None else await _place(redis, name, after, project)
    if after is not None and place is None:
        return None
    found: list[FileRecord] = []
    while True:
        first, last = (place, "-inf") if newest_first else (place, "+inf")
        begin = f"({first}" if first else "+inf" if newest_first else "-inf"
        command = "ZREVRANGEBYSCORE" if newest_first else "ZRANGEBYSCORE"
        reply = await redis.execute_command(command, name, begin, last, "WITHSCORES", "LIMIT", 0, _PAGE)
        ids, places = reply[::2], reply[1::2]
        records = await redis.execute_command("MGET", *(keys.file(each.decode()) for each in ids)) if ids else []
        there = [_decode(record) for record in records if record is not None]  # the others have expired
        found += [record for record in there if purpose in (None, record.purpose)]
        if len(found) > limit or len(ids) < _PAGE:
            return found[:limit], len(found) > limit
        place = int(float(places[-1]))


async def _place(redis: Redis, name: str, file_id: str, project: str | None) -> int | None:
    """Return a file's place in a list, also that of one that was removed from it lately."""
    found = await redis.execute_command("ZSCORE", name, file_id)
    if found is not None:
        return int(float(found))
    place, _, whose = (await redis.execute_command("GET", keys.file_place(file_id)) or b"").partition(b" ")
    return int(place) if place and project in (None, whose.decode()) else None


def _unlist(pipe: Pipeline, file_id: str, project: str, place: bytes | float | None) -> None:
    pipe.execute_command("ZREM", keys.files(), file_id)
    pipe.execute_command("ZREM", keys.project_files(project), file_id)
    if place is not None:
        pipe.execute_command("SET", keys.file_place(file_id), f"{int(float(place))} {project}", "EX", _PLACE_SECONDS)


def _member(file_id: str, project: str) -> str:
    return f"{file_id} {project}"
