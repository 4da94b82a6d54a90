"""What the lines without a result will ask for, for people: how many of each batch and lane, and what one may cost.

Counts what is written of batches and shards anyway; of each batch and lane one shard is opened, for its lines' prices.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction

import msgspec
from redis.asyncio import Redis

from batchmill.config.strategy import Strategy
from batchmill.routing.automatic import likely_cost
from batchmill.routing.health import Window
from batchmill.routing.needs import needs_of
from batchmill.spend.queue import QueuedLines
from batchmill.store import batches, keys, statistics
from batchmill.store.errors import UnknownBatchError
from batchmill.store.model import BatchState, BatchStatus, Line, LineState, Route, Terms
from batchmill.store.staging import Shard, ShardPayload

_WINDOW = Window.FIVE_MINUTES
_SECOND_MS = 1000
_ENOUGH = 10  # lines of a batch with a cost, before they tell what the others will cost

_decode_payload = msgspec.msgpack.Decoder(ShardPayload).decode


async def queued_lines(redis: Redis, upstream: str, project: str | None = None) -> list[QueuedLines]:
    """Return the lines of live batches (of one project) that have no result yet, those in the air included.

    How many of a batch are left is exact; how they are spread over its lanes follows from its unfinished shards.
    """
    found: list[QueuedLines] = []
    for status in await unfinished(redis, upstream, project):
        for queued, reference in await _of_batch(redis, status):
            found.append(await _with_prices(redis, queued, reference))
    return await _timed(redis, upstream, found)


async def unfinished(redis: Redis, upstream: str, project: str | None = None) -> list[BatchStatus]:
    """Return the batches (of one project) that are not terminal."""
    ids = await batches.live(redis)
    async with redis.pipeline(transaction=False) as pipe:
        for batch_id in ids:
            pipe.execute_command("HMGET", keys.batch(batch_id), "upstream", "project")
        owners = await pipe.execute()
    found = []
    for batch_id, (whose, owner) in zip(ids, owners, strict=True):
        if whose != upstream.encode() or (project is not None and owner != project.encode()):
            continue
        try:
            found.append(await batches.status(redis, batch_id))
        except UnknownBatchError:
            continue
    return found


async def lines_left(redis: Redis, fact: str) -> list[tuple[str, str, int]]:
    """Return each live batch with one of its facts (`upstream`, `key` ...), and how many lines have no result yet."""
    ids = await batches.live(redis)
    async with redis.pipeline(transaction=False) as pipe:
        for batch_id in ids:
            pipe.execute_command("HMGET", keys.batch(batch_id), fact, "total", *LineState)
        found = await pipe.execute()
    return [
        (batch_id, (value or b"").decode(), int(total) - sum(int(count or 0) for count in done))
        for batch_id, (value, total, *done) in zip(ids, found, strict=True)
        if total is not None  # it is gone
    ]


async def waiting_lines(redis: Redis, status: BatchStatus) -> list[QueuedLines]:
    """Return the lines of a batch without a result by lane, and of each nothing but how many."""
    return [queued for queued, _ in await _of_batch(redis, status)]


def _goes_on(status: BatchStatus) -> bool:
    return status.state is BatchState.IN_PROGRESS and status.done < status.total


async def _of_batch(redis: Redis, status: BatchStatus) -> list[tuple[QueuedLines, str]]:
    """Return what waits of a batch in each lane, and a shard of it."""
    if not _goes_on(status):
        return []
    lanes: dict[str, list[Shard]] = {}
    for shard in await batches.open_shards(redis, status.id):
        lanes.setdefault(shard.model, []).append(shard)
    staged = {lane: sum(map(_lines_of, shards)) for lane, shards in lanes.items()}
    left, whole = status.total - status.done, sum(staged.values())
    found = []
    for lane, shards in sorted(lanes.items()):
        lines = left * staged[lane] // whole
        left, whole = left - lines, whole - staged[lane]  # so that no line is lost by rounding
        if lines:
            queued = QueuedLines(batch=status.id, project=status.project, lane=lane, lines=lines)
            found.append((msgspec.structs.replace(queued, observed=_observed(status)), shards[-1].reference))
    return found


def _lines_of(shard: Shard) -> int:
    """Return how many lines a shard has, which its reference tells."""
    return int(shard.reference.rsplit(".", 1)[1])


def _observed(status: BatchStatus) -> Fraction | None:
    """Return what a line of the batch cost so far, where all its lines are in one lane."""
    costed = status.succeeded - status.uncosted
    return Fraction(status.cost, costed) if len(status.models) == 1 and costed >= _ENOUGH else None


async def _with_prices(redis: Redis, queued: QueuedLines, reference: str) -> QueuedLines:
    payload = await redis.execute_command("GET", keys.shard(reference))
    if payload is None:  # it was finished meanwhile
        return msgspec.structs.replace(queued, models=(queued.lane,))
    shard = _decode_payload(payload)
    route = shard.terms.route
    models = (queued.lane,) if route is None else tuple(road.model for road in route.roads)
    known = [cost for line in shard.lines if (cost := _estimate(line, shard.terms)) is not None]
    estimate = sum(known, Fraction(0)) / len(known) if known else None
    return msgspec.structs.replace(queued, models=models, estimate=estimate)


def _estimate(line: Line, terms: Terms) -> Fraction | None:
    """Return what a line is likely to cost by its prices (nano-dollars), None when nobody knows."""
    if terms.route is not None:
        return _of_fares(line, terms.route)
    cost = None if terms.pricing is None else likely_cost(terms.pricing, needs_of(line.body))
    return None if cost is None else Fraction(cost)


def _of_fares(line: Line, route: Route) -> Fraction | None:
    """Return the first road's fare, the cheapest, or their mean: as the strategy goes."""
    known = [fare.estimate for fare in line.fares if fare.estimate is not None]
    if not known:
        return None
    if route.strategy is Strategy.ORDER:
        return Fraction(known[0])
    return Fraction(min(known)) if route.strategy is Strategy.COST else Fraction(sum(known), len(known))


async def _timed(redis: Redis, upstream: str, found: Sequence[QueuedLines]) -> list[QueuedLines]:
    """Say how long lines take at the speed of the last minutes; lines that may go to the same models share it."""
    models = sorted({model for queued in found for model in queued.models})
    if not models:
        return list(found)
    seen = await statistics.traffic(redis, upstream, models, _WINDOW)
    sharing = {model: sum(queued.lines for queued in found if model in queued.models) for model in models}
    return [
        msgspec.structs.replace(
            queued, lasts_ms=_lasts_ms((seen[model].calls, sharing[model]) for model in queued.models)
        )
        for queued in found
    ]


def _lasts_ms(models: Iterable[tuple[int, int]]) -> int | None:
    """Return how long lines take that may go to models with so many calls lately, and so many lines for them."""
    share = sum((Fraction(calls, lines) for calls, lines in models if lines), Fraction(0))  # of the lines, a window
    return round(_WINDOW * _SECOND_MS / share) if share else None
