"""Takes batches in that were created over HTTP: fetch the input, look at every line, and let the batch go, or fail it.

Any number of gateways do this at once; each intake is held by one, under a lease. See `store.intakes` for its states.
"""

import asyncio
import contextlib
import secrets
from pathlib import Path

import structlog
from redis.exceptions import RedisError

from batchmill.config.errors import BatchmillError
from batchmill.producer import intake
from batchmill.producer.conditions import pricer_for, wish_of_batch
from batchmill.producer.errors import InputError, PricesUnknownError
from batchmill.producer.estimate import estimate
from batchmill.producer.intake import BadLinesError, Birth
from batchmill.producer.lines import Conditions, InputOptions
from batchmill.producer.pricing import Pricer
from batchmill.service.access.queued import queued_lines
from batchmill.service.compat import faults
from batchmill.service.compat.files import local_copy
from batchmill.service.context import Service
from batchmill.storage.blobs import MissingBlobError, StorageError
from batchmill.store import api_keys, batches, endings, files, intakes
from batchmill.store.clock import now_ms
from batchmill.store.errors import StoreError
from batchmill.store.files import FileRecord
from batchmill.store.intakes import Asked, Fault, Holder, Intake, IntakeState

log = structlog.get_logger()

_AT_ONCE = 4
_LOOK_EVERY = 0.1  # seconds
_LATER_MS = 2000
_MOST_TRIES = 10  # of what fails in a way that nobody foresaw; outages end with the batch's window

_OUTAGES: tuple[tuple[type[Exception], str], ...] = (
    (StorageError, "the storage of files can't be reached"),
    (StoreError, "Redis can't be reached"),
    (RedisError, "Redis can't be reached"),
    (PricesUnknownError, "what models cost can't be read from the upstream"),
)
"""What passes, and what people are told meanwhile: no more, for what these errors say is for operators."""


class _StoppedError(Exception):
    """The intake was cancelled, or another run holds it."""


async def take_intakes(service: Service) -> None:
    """Take in what there is, a few batches at once, for ever."""
    free = asyncio.Semaphore(_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        while True:
            await free.acquire()
            run = secrets.token_hex(8)
            batch_id = await _next(service, run)
            task = group.create_task(_hold(service, batch_id, run))
            task.add_done_callback(lambda _: free.release())


async def _next(service: Service, run: str) -> str:
    while True:
        with contextlib.suppress(RedisError):  # what is in work must not end for it
            if batch_id := await intakes.take(service.redis, service.upstream, run):
                return batch_id
        await asyncio.sleep(_LOOK_EVERY)


async def _hold(service: Service, batch_id: str, run: str) -> None:
    """Do the work of an intake, and hold it meanwhile. Who loses it stops; nothing of that is lost."""
    with structlog.contextvars.bound_contextvars(batch=batch_id):
        try:
            found = await intakes.find(service.redis, batch_id)
            if found is None:
                return
            holder = Holder(service.redis, service.upstream, found, run, retention_days=_days(service))
            work = asyncio.create_task(_work(service, found, holder))
            try:
                while not (await asyncio.wait({work}, timeout=intakes.RENEW))[0]:
                    if not await holder.renew():
                        log.warning("intake.lost")
                        break
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
        except RedisError as error:  # the lease runs out, and somebody begins anew
            log.warning("intake.cannot", error=str(error))
        except Exception as error:
            log.error("intake.defect", exc_info=error)


async def _work(service: Service, found: Intake, holder: Holder) -> None:
    try:
        await _take_in(service, found, holder)
    except _StoppedError:
        return
    except asyncio.CancelledError:
        with contextlib.suppress(RedisError):  # so that another gateway need not wait for the end of our lease
            await asyncio.shield(holder.give_back("", 0))
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not hold up the other batches
        await _give_up(found, holder, error)


async def _take_in(service: Service, found: Intake, holder: Holder) -> None:
    if await batches.exists(service.redis, found.id):
        await _finish(service, found.id, holder)
        return
    if found.state is IntakeState.VALIDATING and await now_ms(service.redis) >= found.asked.expires_at * 1000:
        await holder.expire()
        return
    wrong = await _enqueue(service, found, holder)
    if not wrong:
        return
    if await holder.fail(wrong) in (IntakeState.RELEASING, IntakeState.CANCELLING):
        await _finish(service, found.id, holder)  # a run that had lost it let its lines go meanwhile
        return
    log.info("intake.failed", faults=len(wrong), code=wrong[0].code)


async def _finish(service: Service, batch_id: str, holder: Holder) -> None:
    """Forget the intake, for the batch is there; if it is not to be, cancel the batch first."""
    await holder.let_go()
    left = await intakes.find(service.redis, batch_id)
    if left is not None and (left.state is IntakeState.CANCELLING or left.state.terminal):
        await endings.cancel(service.redis, batch_id, retention_days=_days(service))
        await holder.cancelled()
    log.info("intake.done", cancelled=left is not None)


async def _give_up(found: Intake, holder: Holder, error: Exception) -> None:
    """Let somebody try again later, unless nobody ever could."""
    for kind, words in _OUTAGES:
        if isinstance(error, kind):
            log.warning("intake.cannot", error=str(error))
            await holder.give_back(words, _LATER_MS)
            return
    log.error("intake.defect", exc_info=error)
    if found.tries < _MOST_TRIES:
        await holder.give_back("the input file could not be looked at; it is tried again", _LATER_MS)
    else:
        await holder.fail((faults.defect(),))


async def _enqueue(service: Service, found: Intake, holder: Holder) -> tuple[Fault, ...]:
    """Let the lines go and finish, or return why they can't run. Raises _StoppedError, and what passes."""
    asked = found.asked
    file_id = asked.handed.input_file_id
    record = await files.get(service.redis, file_id)
    if record is None or not (asked.any_project or record.project == asked.project):
        return (faults.cant_find(file_id),)
    allowed = service.settings.service.max_batch_bytes
    if record.bytes > allowed:
        return (faults.too_large(record.bytes, allowed),)
    try:
        async with local_copy(service, record) as path:
            return await _over_the_queue(service, found, holder, path) or await _submit(
                service, found, holder, record, path
            )
    except MissingBlobError:
        return (faults.cant_find(file_id),)


async def _over_the_queue(service: Service, found: Intake, holder: Holder, path: Path) -> tuple[Fault, ...]:
    """Return why the lines are too many for who handed them over; nothing when they are not.

    They are noted before it is looked, so of two batches that are looked at together the later one sees the other.
    """
    key_id = found.asked.handed.key_id
    key = None if key_id is None else await api_keys.by_id(service.redis, service.upstream, key_id)
    if key_id is None or key is None or key.max_queued_lines is None:
        return ()
    lines = await asyncio.to_thread(_count, path)
    await holder.note_lines(key_id, lines)
    waiting = await queued_lines(service.redis, service.upstream, key_id, before=found.id)
    if waiting + lines <= key.max_queued_lines:
        return ()
    return (faults.too_many_queued(lines, waiting, key.max_queued_lines),)


async def _submit(service: Service, found: Intake, holder: Holder, record: FileRecord, path: Path) -> tuple[Fault, ...]:
    asked, options = found.asked, _options(service, found.asked)
    pricer = await pricer_for(service.redis, service.settings, _conditions(asked))

    async def consent() -> None:
        if await holder.begin_release() not in (IntakeState.RELEASING, IntakeState.CANCELLING):
            raise _StoppedError

    try:
        await intake.submit(
            service.redis,
            path,
            options,
            service.upstream,
            pricer,
            source=record.filename,
            retention_days=_days(service),
            skip_invalid=asked.skip_invalid,
            consent=consent,
            birth=Birth(batch_id=found.id, handed=asked.handed, expires_at=asked.expires_at),
        )
    except BadLinesError as error:
        return faults.faults_of(error.survey)
    except InputError as error:
        return (Fault("invalid_request", str(error)),)
    await _finish(service, found.id, holder)
    await _guess(service, found.id, path, options, pricer)
    return ()


async def _guess(service: Service, batch_id: str, path: Path, options: InputOptions, pricer: Pricer) -> None:
    """Say what the batch is likely to cost: for people, so it keeps no line waiting, and may be missing."""
    try:
        guessed = await estimate(service.redis, service.settings, path, options, pricer, source=batch_id)
        if guessed.likely is not None:
            await intakes.note_estimate(service.redis, batch_id, guessed.likely)
    except (BatchmillError, RedisError) as error:
        log.warning("intake.not_estimated", error=str(error))


def _conditions(asked: Asked) -> Conditions:
    return Conditions(
        project=asked.project,
        priority=asked.priority,
        max_cost=asked.max_cost,
        tags=asked.tags,
        cache=asked.cache,
        key=asked.handed.key_id,
    )


def _options(service: Service, asked: Asked) -> InputOptions:
    read, limits = service.settings.input, service.settings.service
    return InputOptions(
        form="jsonl",
        model=read.default_model or None,
        max_tokens=read.default_max_tokens or None,
        wish=wish_of_batch(asked.fallbacks, asked.strategy),
        speaks_openrouter=service.settings.speaks_openrouter,
        max_lines=min(read.max_lines, limits.max_batch_lines),
        max_line_bytes=read.max_line_bytes,
    )


def _count(path: Path) -> int:
    """Return how many lines a file has."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _days(service: Service) -> int:
    return service.settings.results.retention_days
