"""Every metric that batchmill shows to Prometheus, in a sentence each; and the counters of the fleet.

A counter is a field of one hash. Each worker adds what it counted with its heartbeat, so nothing is counted a line, and
every gateway shows the same numbers, which only grow. It is no money: what a killed worker had not added is lost, and a
heartbeat whose answer was lost may add twice. The ledger has the exact sums.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec
from redis.asyncio import Redis

from batchmill.store import keys

_MONTH = 30 * 86_400
_PART = "\x1f"  # between a metric and the values of its labels: no name has it in it


class Kind(StrEnum):
    """How a metric goes: up only, up and down, or as a distribution."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(msgspec.Struct, frozen=True):
    """One metric as Prometheus sees it. A histogram's `buckets` are upper ends, in its unit."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    says: str
    buckets: tuple[float, ...] = ()


_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_WAITS = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)

LINES = Metric(
    "batchmill_lines", Kind.COUNTER, ("state", "model"), "Lines that got their one result, by how they ended."
)
CALLS = Metric("batchmill_calls", Kind.COUNTER, ("outcome", "model"), "Calls to the upstream: ok, or whose fault not.")
CALL_SECONDS = Metric(
    "batchmill_call_seconds", Kind.HISTOGRAM, ("model",), "How long calls that were answered took.", _SECONDS
)
QUEUE_SECONDS = Metric(
    "batchmill_queue_wait_seconds",
    Kind.HISTOGRAM,
    (),
    "From a batch's birth to the first call of each of its lines.",
    _WAITS,
)
TOKENS = Metric(
    "batchmill_tokens", Kind.COUNTER, ("kind", "model"), "Tokens of answers: prompt, cached, completion ..."
)
COST = Metric(
    "batchmill_cost_usd", Kind.COUNTER, ("model",), "Dollars of calls, as first booked; the ledger has corrections."
)
CACHED = Metric(
    "batchmill_cached_lines", Kind.COUNTER, (), "Lines that were answered from earlier results, at no cost."
)
REFUSALS = Metric(
    "batchmill_gate_refusals", Kind.COUNTER, ("why",), "Times that the gate held lines back: limit, budget, breaker ..."
)
SPENT = Metric("batchmill_budget_spent_usd", Kind.GAUGE, ("budget",), "What was spent in a budget's present window.")
HELD = Metric("batchmill_budget_held_usd", Kind.GAUGE, ("budget",), "What lines in the air hold of it, at most.")
SUSPECT = Metric("batchmill_budget_suspect_usd", Kind.GAUGE, ("budget",), "Of calls of which nobody knows the outcome.")
DEBT = Metric(
    "batchmill_budget_debt_usd", Kind.GAUGE, ("budget",), "Billed beyond a bound, or after the room was given."
)
LIMIT = Metric("batchmill_budget_limit_usd", Kind.GAUGE, ("budget",), "The cap itself.")
OVERSHOOT = Metric(
    "batchmill_budget_overshoot_usd", Kind.GAUGE, ("budget",), "spent + held + suspect beyond the cap. It stays 0."
)
BREACHES = Metric("batchmill_bound_breaches", Kind.COUNTER, (), "Calls that cost more than their proven bound.")
SUSPECTS = Metric("batchmill_suspects", Kind.GAUGE, (), "Calls of which nobody knows the outcome.")
SUSPECT_USD = Metric("batchmill_suspect_usd", Kind.GAUGE, (), "What those calls cost at most, together.")
BREAKER = Metric(
    "batchmill_breaker_state", Kind.GAUGE, ("model", "state"), "1 for the state that a model's breaker is in."
)
IN_AIR = Metric("batchmill_model_in_air", Kind.GAUGE, ("model",), "Lines of a model that are in the air.")
PAUSES = Metric("batchmill_paused", Kind.GAUGE, ("scope",), "1 for each scope of which nothing is sent just now.")
LANE_LINES = Metric("batchmill_lane_lines", Kind.GAUGE, ("lane",), "Lines in a lane that no worker has taken up.")
LANE_AGE = Metric(
    "batchmill_lane_oldest_seconds", Kind.GAUGE, ("lane",), "Since when the oldest batch in a lane exists."
)
PENDING = Metric("batchmill_unfinished_lines", Kind.GAUGE, (), "Lines of live batches that have no result yet.")
BATCHES = Metric("batchmill_live_batches", Kind.GAUGE, (), "Batches that are not over.")
WORKERS = Metric("batchmill_workers", Kind.GAUGE, (), "Workers that gave a sign of life in the last ten seconds.")
BEAT = Metric("batchmill_worker_silence_seconds", Kind.GAUGE, ("worker",), "Since a worker's last sign of life.")
ALARM = Metric("batchmill_books_alarm", Kind.GAUGE, (), "1 while the books were restored or emptied: nothing is sent.")
COMMANDS = Metric("batchmill_redis_commands", Kind.COUNTER, (), "Commands that Redis has processed since it started.")
TRIPS = Metric("batchmill_redis_round_trips", Kind.COUNTER, (), "Reads from its clients, each about a round trip.")
MEMORY = Metric("batchmill_redis_memory_bytes", Kind.GAUGE, (), "What the data in Redis takes.")
HTTP = Metric("batchmill_http_requests", Kind.COUNTER, ("operation", "status"), "Requests that this gateway answered.")
HTTP_SECONDS = Metric(
    "batchmill_http_request_seconds",
    Kind.HISTOGRAM,
    ("operation",),
    "How long this gateway took to answer.",
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0),
)

METRICS = (
    LINES, CALLS, CALL_SECONDS, QUEUE_SECONDS, TOKENS, COST, CACHED, REFUSALS, SPENT, HELD, SUSPECT, DEBT, LIMIT,
    OVERSHOOT, BREACHES, SUSPECTS, SUSPECT_USD, BREAKER, IN_AIR, PAUSES, LANE_LINES, LANE_AGE, PENDING, BATCHES,
    WORKERS, BEAT, ALARM, COMMANDS, TRIPS, MEMORY, HTTP, HTTP_SECONDS,
)  # fmt: skip
"""All of them, in the order in which they are shown."""

FLEET = (LINES, CALLS, CALL_SECONDS, QUEUE_SECONDS, TOKENS, COST, CACHED, REFUSALS)
"""Those that workers count. Money in nano-dollars and times in milliseconds, until they are shown."""


class Tally:
    """What one worker has counted since it last told."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, metric: Metric, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        name = _PART.join((metric.name, *labels))
        self.counts[name] = self.counts.get(name, 0) + by

    def observe(self, metric: Metric, milliseconds: int, *labels: str) -> None:
        """Add a time to a histogram."""
        place = next((i for i, end in enumerate(metric.buckets) if milliseconds <= end * 1000), len(metric.buckets))
        for part, by in ((f"b{place}", 1), ("sum", milliseconds)):
            name = _PART.join((metric.name, *labels, part))
            self.counts[name] = self.counts.get(name, 0) + by

    def take(self) -> dict[str, int]:
        """Return what was counted, and begin anew."""
        taken, self.counts = self.counts, {}
        return taken

    def put_back(self, taken: Mapping[str, int]) -> None:
        """Count again what could not be told."""
        for name, by in taken.items():
            self.counts[name] = self.counts.get(name, 0) + by


async def add(redis: Redis, upstream: str, counts: Mapping[str, int]) -> None:
    """Add to the counters of the fleet, in one round trip."""
    if not counts:
        return
    name = keys.counted(upstream)
    async with redis.pipeline(transaction=False) as pipe:
        for field, by in counts.items():
            pipe.execute_command("HINCRBY", name, field, by)
        pipe.execute_command("EXPIRE", name, _MONTH)
        await pipe.execute()


class Series(msgspec.Struct, frozen=True):
    """One counter of the fleet, or one part of a histogram (`b` and the place of a bucket, or `sum`)."""

    metric: str
    labels: tuple[str, ...]
    part: str
    value: int


async def counted(redis: Redis, upstream: str) -> list[Series]:
    """Return the counters of the fleet, those of another version left out."""
    found = await redis.execute_command("HGETALL", keys.counted(upstream))
    known = {metric.name: metric for metric in FLEET}
    series = []
    for field, value in sorted(found.items()):
        name, *labels = field.decode(errors="replace").split(_PART)
        metric = known.get(name)
        if metric is None:
            continue
        part = labels.pop() if metric.kind is Kind.HISTOGRAM and labels else ""
        if len(labels) == len(metric.labels):
            series.append(Series(name, tuple(labels), part, int(value)))
    return series
