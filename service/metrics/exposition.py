"""`GET /metrics`: everything that Prometheus reads, of the fleet and of this gateway."""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.asyncio import Redis

from batchmill.service.metrics.gauges import Value, standing, usd
from batchmill.store import metrics
from batchmill.store.metrics import COST, FLEET, HTTP, HTTP_SECONDS, Kind, Series, counted

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]  # a family more for each, which nobody declared
_own = CollectorRegistry()
_requests = Counter(HTTP.name, HTTP.says, HTTP.labels, registry=_own)
_seconds = Histogram(
    HTTP_SECONDS.name, HTTP_SECONDS.says, HTTP_SECONDS.labels, registry=_own, buckets=HTTP_SECONDS.buckets
)


def answered(operation: str, status: int, seconds: float) -> None:
    """Count a request that this gateway answered."""
    _requests.labels(operation, str(status)).inc()
    _seconds.labels(operation).observe(seconds)


async def exposition(redis: Redis, upstream: str) -> bytes:
    """Return all metrics in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Fleet(await counted(redis, upstream), await standing(redis, upstream)))
    return generate_latest(registry) + generate_latest(_own)


class _Fleet(Collector):
    """What was read from Redis for one scrape."""

    def __init__(self, series: Sequence[Series], values: Sequence[Value]) -> None:
        self._series = series
        self._values = values

    def collect(self) -> Iterable[Metric]:
        """Yield the families in the order of their declarations."""
        for metric in metrics.METRICS:
            if metric in FLEET:
                yield _family_of_series(metric, [each for each in self._series if each.metric == metric.name])
            elif metric not in (HTTP, HTTP_SECONDS):
                yield _family_of_values(metric, [each for each in self._values if each.metric is metric])


def _family_of_values(metric: metrics.Metric, values: Iterable[Value]) -> Metric:
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.says, labels=metric.labels)
    for each in values:
        family.add_metric(each.labels, each.value)
    return family


def _family_of_series(metric: metrics.Metric, series: Sequence[Series]) -> Metric:
    if metric.kind is Kind.COUNTER:
        counter = CounterMetricFamily(metric.name, metric.says, labels=metric.labels)
        for each in series:
            counter.add_metric(each.labels, usd(each.value) if metric is COST else each.value)
        return counter
    histogram = HistogramMetricFamily(metric.name, metric.says, labels=metric.labels)
    parts: dict[tuple[str, ...], dict[str, int]] = {}
    for each in series:
        parts.setdefault(each.labels, {})[each.part] = each.value
    for labels, found in parts.items():
        histogram.add_metric(labels, list(_buckets(metric, found)), found.get("sum", 0) / 1000)
    return histogram


def _buckets(metric: metrics.Metric, found: dict[str, int]) -> Iterator[tuple[str, float]]:
    """Yield how many observations each bucket has with those below it."""
    total = 0
    for place, end in enumerate((*metric.buckets, float("inf"))):
        total += found.get(f"b{place}", 0)
        yield ("+Inf" if end == float("inf") else str(end)), total
