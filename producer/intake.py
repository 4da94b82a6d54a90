"""From lines to a batch: a first pass checks, prices, counts and recognises; a second stages shards; then it is let go.

Two passes, because a batch is all or nothing: a bad line found at the end must not have cost anything, and the
same content must be found again before any of it is enqueued twice. What can't be read twice (standard input, an
iterable) is spooled to a temporary file first.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from batchmill.producer.buffers import Buffers
from batchmill.producer.errors import InputError
from batchmill.producer.input import BadLine, InputOptions, Request, read
from batchmill.producer.lines import Conditions, Priced
from batchmill.producer.pricing import Pricer
from batchmill.store import batches
from batchmill.store.handed import Handed
from batchmill.store.model import LineState, Result
from batchmill.store.staging import BatchFacts, Staging

_SHOWN_BAD_LINES = 20  # as OpenAI's own batch errors
_CHUNK = 500  # lines between two looks at the event loop
_CHUNK_BYTES = 1 << 20  # fewer of them when they are long, for a chunk is in memory as a whole
_encode = msgspec.msgpack.Encoder().encode


class Survey(msgspec.Struct, frozen=True):
    """What the first pass saw. `digest` names the content: lines, options and upstream."""

    models: dict[str, int]
    bad: tuple[BadLine, ...]  # the first few
    bad_count: int
    digest: str
    fatal: bool = False  # what is wrong with the file as a whole can't be skipped

    def usable(self, *, skip_invalid: bool) -> bool:
        """Whether a batch can be made of it."""
        return not self.fatal and (not self.bad_count or (skip_invalid and self.good > 0))

    @property
    def good(self) -> int:
        """How many lines can run."""
        return sum(self.models.values())

    @property
    def total(self) -> int:
        """How many lines the batch has, those that never can run included."""
        return self.good + self.bad_count


class Submission(msgspec.Struct, frozen=True):
    """What became of lines handed over. `reused`: the same content was there already.

    `max_cost` (nano-dollars) was asked for; a batch that was there keeps its own.
    """

    batch_id: str
    reused: bool
    survey: Survey
    max_cost: int | None = None


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a batch before its lines are read.

    With a `batch_id`, the batch has nothing to do with others of the same lines; asked again under that id, after a
    crash or by two at once, it is the same batch.
    """

    batch_id: str | None = None
    handed: Handed | None = None  # over HTTP
    expires_at: int | None = None  # unix seconds; what was not sent by then never is
    listed: bool = True  # False: it is in no list of batches


PLAIN = Birth()

_Judged = TypeVar("_Judged")

Consent = Callable[[], Awaitable[None]]
"""Asked when all lines are known to be good and new, before any of them is enqueued; raises to stop it."""


async def survey(path: Path, options: InputOptions, upstream: str, pricer: Pricer, *, skip_invalid: bool) -> Survey:
    """Look at every line, good or bad."""
    content = _Content(upstream, options, skip_invalid=skip_invalid)
    models: Counter[str] = Counter()
    bad: list[BadLine] = []
    bad_count = 0
    fatal = False
    with path.open("rb") as file:
        lines = read(file, options)
        while chunk := await asyncio.to_thread(_take, lines, content, pricer.check):
            for line in chunk:
                if isinstance(line, Request):
                    models[line.model] += 1
                else:
                    fatal = fatal or line.number is None
                    bad_count += 1
                    if len(bad) < _SHOWN_BAD_LINES or line.number is None:
                        bad.append(line)
    return Survey(dict(models), tuple(bad), bad_count, content.digest(), fatal)


class _Content:
    """What makes a batch the same batch: its lines, the options that complete them, and for whom they are."""

    def __init__(self, upstream: str, options: InputOptions, *, skip_invalid: bool) -> None:
        self._hash = blake2b(digest_size=16, person=b"batchmill")
        self._hash.update(msgspec.json.encode([upstream, options.model, options.max_tokens, skip_invalid]))

    def take(self, lines: list[Request | BadLine]) -> None:
        self._hash.update(b"".join([_encode(line) for line in lines]))

    def digest(self) -> str:
        return self._hash.hexdigest()


class BadLinesError(InputError):
    """Lines that can't run. `survey` has the first of them, and how many there are."""

    def __init__(self, source: str, survey: Survey) -> None:
        self.survey = survey
        if survey.bad and survey.bad[0].number is None:
            super().__init__(f"{source}: {survey.bad[0].message}")
            return
        lines = [describe(line) for line in survey.bad]
        more = survey.bad_count - len(lines)
        if more > 0:
            lines.append(f"... and {more:,} more")
        hint = "" if not survey.good else "; correct them, or run the others with --skip-invalid"
        noun = "line" if survey.bad_count == 1 else "lines"
        head = f"{survey.bad_count:,} bad {noun}, nothing was enqueued{hint}"
        super().__init__("\n".join([f"{source}: {head}", *("  " + line for line in lines)]))


def describe(bad: BadLine) -> str:
    """Return a bad line in words: where, which field, why."""
    where = f"line {bad.number}" if bad.number else "file"
    field = f", {bad.param}" if bad.param else ""
    return f"{where}{field}: {bad.message}"


async def submit(
    redis: Redis,
    path: Path,
    options: InputOptions,
    upstream: str,
    pricer: Pricer,
    *,
    source: str,
    retention_days: int,
    skip_invalid: bool = False,
    anew: bool = False,
    consent: Consent | None = None,
    birth: Birth = PLAIN,
) -> Submission:
    """Enqueue the lines of a file, or find the batch that has them already. Raises InputError, and what `consent` does.

    `anew` forgets that other batch first. `source` is the name that people know the file by. `birth` is what
    is known of the batch whatever its lines are.
    """
    if birth.batch_id and await batches.exists(redis, birth.batch_id):
        return await _let_go_before(redis, birth.batch_id)
    try:
        found = await survey(path, options, upstream, pricer, skip_invalid=skip_invalid)
    except OSError as error:
        raise InputError(f"{source} can't be read: {error.strerror}") from error
    content_name = f"batch:{birth.batch_id}" if birth.batch_id else found.digest
    if not anew and (existing := await batches.by_content(redis, content_name)):
        # even if prices or budgets have changed so that it could not be enqueued now
        return Submission(existing, reused=True, survey=found, max_cost=pricer.conditions.max_cost)
    if not found.usable(skip_invalid=skip_invalid):
        raise BadLinesError(source, found)
    if consent is not None:
        await consent()
    if anew:
        await batches.forget_content(redis, content_name)
    staging = Staging(redis, upstream, retention_days=retention_days, batch_id=birth.batch_id)
    if birth.batch_id and not await staging.take_over():
        return await _let_go_before(redis, birth.batch_id)
    try:
        content = _Content(upstream, options, skip_invalid=skip_invalid)
        refused = await _stage(staging, path, options, found, content, pricer)
        if content.digest() != found.digest:
            raise InputError(f"{source} changed while it was read; hand it in again when it is complete")
        facts = facts_of(birth, pricer.conditions, found.models, content_name, found.total, source)
        batch_id = await staging.release(facts, refused)
    except BaseException:
        with contextlib.suppress(RedisError, OSError):  # what is staged expires by itself
            await asyncio.shield(staging.discard())
        raise
    return Submission(batch_id, batch_id != staging.batch_id, found, pricer.conditions.max_cost)


def facts_of(
    birth: Birth, conditions: Conditions, models: dict[str, int], content: str, total: int, source: str | None
) -> BatchFacts:
    """Return what is said of a batch of these lines, born so, on these conditions."""
    return BatchFacts(
        total=total,
        models=models,
        content=content,
        source=source,
        project=conditions.project,
        priority=conditions.priority,
        max_cost=conditions.max_cost,
        tags=conditions.tags,
        cache=conditions.cache,
        handed=birth.handed,
        expires_at=birth.expires_at,
        key=conditions.key,
        listed=birth.listed,
    )


async def _let_go_before(redis: Redis, batch_id: str) -> Submission:
    """Return the batch that an earlier try under the same id has let go."""
    status = await batches.status(redis, batch_id)
    return Submission(batch_id, reused=True, survey=Survey(status.models, (), 0, ""), max_cost=status.max_cost)


async def _stage(
    staging: Staging, path: Path, options: InputOptions, found: Survey, content: _Content, pricer: Pricer
) -> list[Result]:
    buffers = Buffers(staging, pricer, found.models)
    refused: list[Result] = []
    index = 0
    with path.open("rb") as file:
        lines = read(file, options)
        while chunk := await asyncio.to_thread(_take, lines, content, pricer.price):
            for line in chunk:
                if isinstance(line, Priced):
                    await buffers.add(line, index)
                else:
                    refused.append(_refused(line, index))
                index += 1
    await buffers.flush()
    return refused


def _take(
    lines: Iterable[Request | BadLine], content: _Content, judge: Callable[[Request], _Judged | BadLine]
) -> list[_Judged | BadLine]:
    """Return the next lines as they are judged. The content is what was handed in, whatever becomes of it."""
    taken: list[Request | BadLine] = []
    size = 0
    for line in islice(lines, _CHUNK):
        taken.append(line)
        size += len(line.body) if isinstance(line, Request) else 0
        if size >= _CHUNK_BYTES:
            break
    content.take(taken)
    return [judge(line) if isinstance(line, Request) else line for line in taken]


def _refused(bad: BadLine, index: int) -> Result:
    return Result(
        index=index,
        custom_id=bad.custom_id or f"line-{bad.number}",
        model="",
        state=LineState.FAILED,
        error_code=bad.code,
        error_message=describe(bad),
    )
