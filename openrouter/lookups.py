"""What is asked of the upstream beside completions: its models, who serves them, the key, and calls that are over.

Each look-up costs no money. None means that there is no such thing, or that the endpoint has no such call.
"""

from abc import ABC, abstractmethod
from urllib.parse import quote, urlencode

from batchmill.openrouter.endpoints import Endpoint, decode_endpoints
from batchmill.openrouter.models import ModelFacts, decode_model, decode_models
from batchmill.openrouter.replies import Reply
from batchmill.openrouter.wire import GenerationInfo, KeyEnvelope, KeyInfo, decode_generation, salvage

_IN_A_SEGMENT = ":~@"  # legal in a path as they are, and in ids: `a/b:free`, `~a/latest`
_NO_SEGMENT = ("", ".", "..")  # would lead to another path


class Lookups(ABC):
    """The GET calls of an upstream.

    Each raises UpstreamRefusedError when the key is refused, UpstreamUnavailableError when there is no usable answer.
    """

    @abstractmethod
    async def _look_up(self, path: str) -> Reply | None:
        """Return the answer to a GET of what follows the base URL; None when there is no such thing or call."""

    async def key(self) -> KeyInfo | None:
        """Return what the key may spend (`GET /key`); None when the endpoint has no such call, as most have not."""
        reply = await self._look_up("/key")
        envelope = salvage(reply.body, KeyEnvelope) if reply else None
        return envelope.data if envelope else None

    async def generation(self, generation_id: str) -> GenerationInfo | None:
        """Return what became of a call (`GET /generation`); None while the upstream does not know it.

        OpenRouter tells of a call only some seconds after its end.
        """
        reply = await self._look_up(f"/generation?{urlencode({'id': generation_id})}")
        return decode_generation(reply.body, generation_id) if reply else None

    async def listing(self, *, usable: bool = False) -> bytes | None:
        """Return the list of models as it came (`GET /models`); None when the endpoint has no such call.

        `usable` asks for those that the account's own settings leave (`GET /models/user`), and for all where that
        call does not exist.
        """
        reply = await self._look_up("/models/user") if usable else None
        reply = reply or await self._look_up("/models")
        return reply.body if reply else None

    async def models(self, *, usable: bool = False) -> dict[str, ModelFacts]:
        """Return the models by id, see `listing`; none when the endpoint lists none."""
        listing = await self.listing(usable=usable)
        return decode_models(listing) if listing else {}

    async def model(self, model_id: str) -> ModelFacts | None:
        """Return one model, also by an alias such as `~author/family-latest` (`GET /model/{author}/{slug}`)."""
        path = _path(model_id)
        reply = await self._look_up(f"/model/{path}") if path else None
        return decode_model(reply.body) if reply else None

    async def endpoints(self, model_id: str) -> tuple[Endpoint, ...] | None:
        """Return who serves a model (`GET /models/{author}/{slug}/endpoints`); None also for an unknown model."""
        path = _path(model_id)
        reply = await self._look_up(f"/models/{path}/endpoints") if path else None
        return decode_endpoints(reply.body) if reply else None


def _path(model_id: str) -> str | None:
    """Return an id as a path, each segment encoded; None for one that no model has: it would ask for something else."""
    segments = model_id.split("/")
    if any(segment in _NO_SEGMENT for segment in segments):
        return None
    return "/".join(quote(segment, safe=_IN_A_SEGMENT) for segment in segments)
