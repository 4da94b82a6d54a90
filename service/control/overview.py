"""Everything at one moment: how fast, at what cost, what waits, who works, and what stands still and why."""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

from batchmill.openrouter.money import to_usd
from batchmill.routing.health import Window
from batchmill.service.compat.batch_objects import shown_status
from batchmill.service.context import Service
from batchmill.service.control.common import MS
from batchmill.service.control.notices import alerts
from batchmill.service.control.shapes import Blocked, CostNow, Lane, Overview, Slice, Throughput
from batchmill.service.control.switches import model_gauges
from batchmill.service.identity import Identity
from batchmill.spend.ledger import Rollup
from batchmill.store import backlog, epoch, ledger, presence
from batchmill.store.clock import now_ms
from batchmill.store.model import BatchStatus
from batchmill.store.statistics import Seen, SlotReader, models_seen

_WINDOWS = (Window.MINUTE, Window.FIVE_MINUTES, Window.HOUR)
_SLOT_SECONDS = {Window.MINUTE: 10, Window.HOUR: 300}
_HOUR = 3600
_NAMED = 20  # blocked batches


async def overview(service: Service, identity: Identity) -> Overview:
    """Return everything at one moment; for a project's key, of its own work."""
    project = identity.project
    return await service.moments.get(("overview", project), lambda: _look(service, identity))


async def live_batches(service: Service, project: str | None) -> list[BatchStatus]:
    """Return the batches (of one project) that are not terminal, as of a moment ago."""
    return await service.moments.get(
        ("live", project), lambda: backlog.unfinished(service.redis, service.upstream, project)
    )


async def lanes(service: Service, project: str | None) -> tuple[Lane, ...]:
    """Return what waits (of one project) in each lane, the longest first; lines in the air are among it."""
    return await service.moments.get(("lanes", project), lambda: _lanes(service, project))


async def _look(service: Service, identity: Identity) -> Overview:
    redis, upstream, project = service.redis, service.upstream, identity.project
    found = await live_batches(service, project)
    now = await now_ms(redis)
    seen = await _traffic(service)
    day = ledger.day_of(now)
    rollups = [each for each in await ledger.rollups(redis, upstream, day, day) if identity.sees(each.project)]
    blocked = sorted(map(_blocked, (each for each in found if each.blocked_on)), key=lambda each: -each.pending)
    alarm = await epoch.alarm(redis, upstream)
    return Overview(
        at=now // MS,
        project=project,
        cost=_cost(rollups, day, seen if project is None else None),
        workers=await presence.workers_alive(redis, upstream),
        batches=_by_status(found),
        lines_pending=sum(each.pending for each in found),
        lines_running=sum(each.running for each in found),
        lanes=await lanes(service, project),
        blocked=tuple(blocked[:_NAMED]),
        blocked_more=max(0, len(blocked) - _NAMED),
        alerts=len((await alerts(service, identity)).data),
        breakers_open=sum(gauge.state != "closed" for gauge in await model_gauges(service)),
        throughput=_throughput(seen) if project is None else None,
        alarm="the books in Redis are older than what workers have seen; accept them to go on" if alarm else None,
    )


async def _traffic(service: Service) -> Seen:
    reader = service.moments.keep("traffic", lambda: SlotReader(service.redis, service.upstream))

    async def look() -> Seen:
        seen, _ = await reader.read(await models_seen(service.redis, service.upstream), _WINDOWS)
        return seen

    return await service.moments.get(("traffic",), look)


async def _lanes(service: Service, project: str | None) -> tuple[Lane, ...]:
    found: dict[str, tuple[int, int]] = {}
    for status in await live_batches(service, project):
        for queued in await backlog.waiting_lines(service.redis, status):
            lines, batches = found.get(queued.lane, (0, 0))
            found[queued.lane] = lines + queued.lines, batches + 1
    told = (Lane(lane=lane, lines=lines, batches=batches) for lane, (lines, batches) in found.items())
    return tuple(sorted(told, key=lambda lane: (-lane.lines, lane.lane)))


def _by_status(found: Iterable[BatchStatus]) -> dict[str, int]:
    return dict(Counter(shown_status(status) for status in found))


def _blocked(status: BatchStatus) -> Blocked:
    return Blocked(
        batch_id=status.id,
        project=status.project,
        reason=status.blocked_on or "",
        kinds=status.blocked_by,
        pending=status.pending,
    )


def _throughput(seen: Seen) -> Throughput:
    return Throughput(
        per_second=_answers(seen, Window.MINUTE) / Window.MINUTE,
        per_second_5m=_answers(seen, Window.FIVE_MINUTES) / Window.FIVE_MINUTES,
        minute=_course(seen, Window.MINUTE),
        hour=_course(seen, Window.HOUR),
    )


def _models(seen: Seen) -> Sequence[str]:
    return sorted({model for model, _ in seen.slots})


def _answers(seen: Seen, window: Window) -> int:
    return sum(_answers_of(seen, model, window) for model in _models(seen))


def _answers_of(seen: Seen, model: str, window: Window) -> int:
    traffic = seen.whole(model, window)
    return traffic.calls - traffic.failures


def _course(seen: Seen, window: Window) -> tuple[Slice, ...]:
    """Return the slots of a window over all models, the oldest first; the last one is not over."""
    size = _SLOT_SECONDS[window]
    count = window // size
    first = seen.now // MS // size - count + 1
    sums = [[0, 0] for _ in range(count)]
    for model in _models(seen):
        for place, slot in enumerate(seen.slots[model, window]):
            for tally in slot.providers.values():
                sums[place][0] += tally.calls
                sums[place][1] += tally.failures
    return tuple(
        Slice(at=(first + place) * size, seconds=size, calls=calls, failures=failures)
        for place, (calls, failures) in enumerate(sums)
    )


def _cost(rollups: Sequence[Rollup], day: str, seen: Seen | None) -> CostNow:
    suspect = sum(rollup.suspect for rollup in rollups)
    return CostNow(
        today_usd=to_usd(sum(rollup.cost for rollup in rollups) + suspect),
        suspect_usd=to_usd(suspect),
        usd_per_hour=None if seen is None or not rollups else to_usd(_hourly(rollups, seen)),
        day=day,
    )


def _hourly(rollups: Sequence[Rollup], seen: Seen) -> int:
    """Return nano-dollars an hour: the answers of the last minute, each at what one of its model cost today."""
    sums: dict[str, tuple[int, int]] = {}
    for rollup in rollups:
        cost, answered = sums.get(rollup.model, (0, 0))
        sums[rollup.model] = cost + rollup.cost, answered + rollup.answered
    means = {model: Fraction(cost, answered) for model, (cost, answered) in sums.items() if answered}
    known = (means[model] * _answers_of(seen, model, Window.MINUTE) for model in _models(seen) if model in means)
    return round(sum(known, Fraction(0)) * _HOUR / Window.MINUTE)
