"""Trying the lines of a batch again that got no completion."""

from collections import Counter

import msgspec
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.producer.buffers import Buffers
from batchmill.producer.conditions import pricer_for
from batchmill.producer.errors import InputError
from batchmill.producer.forms import request_of
from batchmill.producer.intake import PLAIN, Birth, facts_of
from batchmill.producer.lines import BadLine, Conditions, InputOptions, Request
from batchmill.producer.pricing import Pricer
from batchmill.store import batches
from batchmill.store.model import BatchStatus, LineState, Result
from batchmill.store.records import follow
from batchmill.store.staging import Staging

_AGAIN = (LineState.FAILED, LineState.EXPIRED)


async def retried(redis: Redis, batch_id: str) -> str | None:
    """Return the batch in which the lines of this one are tried again, if there is one."""
    return await batches.by_content(redis, _content(batch_id))


async def retry(
    redis: Redis, batch_id: str, settings: Settings, *, birth: Birth = PLAIN, key: str | None = None
) -> tuple[str, int]:
    """Enqueue the failed and expired lines of a finished batch as a new batch; return its id and how many it has.

    It has the same project, priority and tags, and a budget of its own of the same limit; `key` is as in Conditions.
    Asked again, it returns the same batch. Raises InputError when there is nothing to try again, or a line can't be
    run for what it may cost today.
    """
    status = await batches.status(redis, batch_id)
    if not status.state.terminal:
        raise InputError(f"{batch_id} is still {status.state.value}; `batchmill retry` is for finished batches")
    content = _content(batch_id)
    if existing := await retried(redis, batch_id):
        return existing, (await batches.status(redis, existing)).total
    conditions = Conditions(
        project=status.project,
        priority=status.priority,
        max_cost=status.max_cost,
        tags=status.tags,
        cache=status.cache,
        key=key or status.key,
    )
    pricer = await pricer_for(redis, settings, conditions)
    staging = Staging(redis, status.upstream, retention_days=settings.results.retention_days, batch_id=birth.batch_id)
    if birth.batch_id and not await staging.take_over():
        return birth.batch_id, (await batches.status(redis, birth.batch_id)).total
    try:
        counts = await _stage_failed(redis, status, staging, pricer)
    except InputError:
        await staging.discard()
        raise
    if not counts:
        raise InputError(f"{batch_id} has no failed line that could be sent again")
    facts = facts_of(birth, conditions, dict(counts), content, counts.total(), status.source)
    return await staging.release(msgspec.structs.replace(facts, retry_of=batch_id)), counts.total()


async def _stage_failed(redis: Redis, status: BatchStatus, staging: Staging, pricer: Pricer) -> Counter[str]:
    """Stage the failed lines that can be sent again, in shards; return how many there are, by the model they name."""
    counts: Counter[str] = Counter()
    buffers = Buffers(staging, pricer, status.models)
    async for entry in follow(redis, status.id, wait=False):
        failed = entry.result
        if failed is None or failed.state not in _AGAIN or failed.request is None:
            continue
        request = _handed_in(failed, counts.total())
        priced = pricer.price(request)
        if isinstance(priced, BadLine):
            raise _unable(priced)
        await buffers.add(priced, counts.total())
        counts[request.model] += 1
    await buffers.flush()
    return counts


def _content(batch_id: str) -> str:
    return f"retry:{batch_id}"


def _handed_in(failed: Result, index: int) -> Request:
    """Return the request of a failed line; a routed one says in its body what it said of its models, and goes anew."""
    body = failed.request or b""
    if failed.state is LineState.FAILED and failed.routed is None:
        return Request(index, failed.custom_id, failed.model, body)
    request = request_of(failed.custom_id, body, index, InputOptions())
    if isinstance(request, BadLine):
        raise _unable(request)
    return request


def _unable(line: BadLine) -> InputError:
    return InputError(f"{line.custom_id} can't be run again: {line.message}")
