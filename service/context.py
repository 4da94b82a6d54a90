"""What every handler and every background task is given."""

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

    @property
    def upstream(self) -> str:
        """The upstream whose lanes and books this gateway looks at."""
        return self.settings.upstream_name
