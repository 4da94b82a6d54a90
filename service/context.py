"""What every handler and every background task is given."""

from collections import Counter
from dataclasses import dataclass, field

from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.producer import Producer
from batchmill.service.access.keyring import Keyring
from batchmill.service.moments import Moments
from batchmill.storage.blobs import Blobs


@dataclass(frozen=True, slots=True)
class Service:
    """One gateway: any number of them share a Redis and a storage, and none knows of another."""

    redis: Redis
    settings: Settings
    producer: Producer
    blobs: Blobs
    keyring: Keyring = field(default_factory=Keyring)
    moments: Moments = field(default_factory=Moments, compare=False, repr=False)
    under_way: Counter[str] = field(default_factory=Counter, compare=False, repr=False)
    """Requests that are not answered to their end, by whose they are; see `access/gate.py`."""

    @property
    def upstream(self) -> str:
        """The upstream whose lanes and books this gateway looks at."""
        return self.settings.upstream_name
