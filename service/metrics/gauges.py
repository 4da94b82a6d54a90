"""What stands in Redis now, as values of the metrics that `store/metrics.py` declares.

A scrape costs a bounded number of round trips, whatever the number of models and batches.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal

import msgspec
from redis.asyncio import Redis

from batchmill.config.windows import OF_BATCH
from batchmill.openrouter.money import to_usd
from batchmill.store import backlog, batches, epoch, gauges, keys, metrics, presence
from batchmill.store.clock import now_ms
from batchmill.store.gauges import BudgetGauge, ModelGauge
from batchmill.store.ids import born_ms
from batchmill.store.metrics import Metric

_LOOKED_AT = 500  # shards of a lane: beyond that its lines are reckoned from these
_STATES = ("closed", "open", "half")
_THOUSAND = 1000
_HOUR = 3600.0  # seconds: who is silent for longer is no worker any more


class Value(msgspec.Struct, frozen=True):
    """One number under its labels."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


async def standing(redis: Redis, upstream: str) -> list[Value]:
    """Return every gauge, and the counters that Redis keeps for others than Prometheus."""
    return [
        *_money(await gauges.budgets(redis, upstream)),
        *await _suspects(redis, upstream),
        *_models(await gauges.models(redis, upstream)),
        *[Value(metrics.PAUSES, 1, (pause.scope,)) for pause in await gauges.pauses(redis, upstream)],
        *await _lanes(redis, upstream),
        *await _batches(redis, upstream),
        *await _workers(redis, upstream),
        Value(metrics.ALARM, 0 if await epoch.alarm(redis, upstream) is None else 1),
        *await _server(redis),
    ]


def usd(nano: int) -> float:
    """Return nano-dollars as Prometheus counts, which knows floats only: for looking at, not for books."""
    return float(to_usd(nano))


def _money(budgets: Iterable[BudgetGauge]) -> list[Value]:
    found = []
    for budget in budgets:
        if budget.window == OF_BATCH:  # they are too many to be labels
            continue
        over = max(0, budget.spent + budget.held + budget.suspect - budget.limit)
        for metric, nano in (
            (metrics.SPENT, budget.spent),
            (metrics.HELD, budget.held),
            (metrics.SUSPECT, budget.suspect),
            (metrics.DEBT, budget.debt),
            (metrics.LIMIT, budget.limit),
            (metrics.OVERSHOOT, over),
        ):
            found.append(Value(metric, usd(nano), (budget.name,)))
    return found


async def _suspects(redis: Redis, upstream: str) -> list[Value]:
    found = await gauges.suspects(redis, upstream)
    breaches = await redis.execute_command("HGET", keys.books(upstream), "bound_breaches")
    return [
        Value(metrics.SUSPECTS, len(found)),
        Value(metrics.SUSPECT_USD, usd(sum(suspect.amount for suspect in found))),
        Value(metrics.BREACHES, int(breaches or 0)),
    ]


def _models(models: Iterable[ModelGauge]) -> list[Value]:
    found = []
    for gauge in models:
        found += [Value(metrics.BREAKER, int(gauge.state == state), (gauge.model, state)) for state in _STATES]
        found.append(Value(metrics.IN_AIR, gauge.in_air, (gauge.model,)))
    return found


async def _lanes(redis: Redis, upstream: str) -> list[Value]:
    names = sorted(name.decode() for name in await redis.execute_command("SMEMBERS", keys.lanes(upstream)))
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.execute_command("ZCARD", keys.lane(upstream, name))
            pipe.execute_command("ZRANGE", keys.lane(upstream, name), 0, _LOOKED_AT - 1)
        replies = await pipe.execute()
    now = await now_ms(redis)
    found = []
    for name, count, shards in zip(names, replies[::2], replies[1::2], strict=True):
        lines, oldest = _depth(count, [shard.decode() for shard in shards], now)
        found += [Value(metrics.LANE_LINES, lines, (name,)), Value(metrics.LANE_AGE, oldest, (name,))]
    return found


def _depth(count: int, shards: Sequence[str], now: int) -> tuple[int, float]:
    """Return how many lines a lane holds, about, and how old (seconds) the oldest batch in it is."""
    if not shards:
        return 0, 0.0
    lines = sum(int(shard.rsplit(".", 1)[1]) for shard in shards)
    born = min(born_ms(keys.batch_of(shard)) for shard in shards)
    return lines * count // len(shards), max(0, now - born) / _THOUSAND


async def _batches(redis: Redis, upstream: str) -> list[Value]:
    left = [lines for _, name, lines in await backlog.lines_left(redis, "upstream") if name == upstream]
    return [Value(metrics.BATCHES, len(left)), Value(metrics.PENDING, sum(left))]


async def _workers(redis: Redis, upstream: str) -> list[Value]:
    now = await now_ms(redis)
    beats = {name: now - beat for name, beat in await presence.beats(redis, upstream, _HOUR)}
    alive = sum(silence <= batches.WORKER_SILENCE_MS for silence in beats.values())
    silences = [Value(metrics.BEAT, max(0, silence) / _THOUSAND, (name,)) for name, silence in beats.items()]
    return [Value(metrics.WORKERS, alive), *silences]


async def _server(redis: Redis) -> list[Value]:
    info = await redis.info("everything")
    found = [
        (metrics.COMMANDS, info.get("total_commands_processed")),
        (metrics.TRIPS, info.get("total_reads_processed")),
        (metrics.MEMORY, info.get("used_memory")),
    ]
    return [Value(metric, float(Decimal(number))) for metric, number in found if number is not None]
