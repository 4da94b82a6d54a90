"""The fleet over HTTP: which workers there are, and what each has in the air."""

from batchmill.openrouter.money import to_usd
from batchmill.service.context import Service
from batchmill.service.control.common import MS
from batchmill.service.control.overview import lanes
from batchmill.service.control.shapes import Fleet, Worker
from batchmill.service.identity import Identity
from batchmill.store import batches, presence
from batchmill.store.clock import now_ms
from batchmill.store.presence import Present

_SINCE = 3600.0  # seconds for which workers that went silent are shown


async def fleet(service: Service, identity: Identity) -> Fleet:
    """Return the workers of the last hour. A project's key is not told of what they do for others, nor of the account.

    Workers say goodbye when they end, so one that is silent died, or can't reach Redis.
    """
    found = await service.moments.get(("workers",), lambda: presence.workers(service.redis, service.upstream, _SINCE))
    now = await now_ms(service.redis)
    whole = identity.project is None
    alive = [one for one in found if one.alive]
    concurrency = service.settings.worker.concurrency
    return Fleet(
        at=now // MS,
        upstream=service.upstream,
        workers=tuple(_worker(one, now, whole=whole) for one in found),
        alive=len(alive),
        in_air=sum(sum(one.in_air.values()) for one in alive) if whole else None,
        concurrency=concurrency,
        room=concurrency * len(alive),
        lanes=await lanes(service, identity.project),
        refused=await batches.account_refusal(service.redis, service.upstream) if whole else None,
    )


def _worker(one: Present, now: int, *, whole: bool) -> Worker:
    return Worker(
        id=one.id,
        alive=one.alive,
        last_heartbeat_at=one.beat_ms // MS,
        silent_seconds=max(0, now - one.beat_ms) / MS,
        in_air=sum(one.in_air.values()) if whole else None,
        held_usd=to_usd(one.held) if whole else None,
        models=dict(sorted(one.in_air.items())) if whole else None,
    )
