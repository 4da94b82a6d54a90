"""The body of a chat completion: what is for us is taken out, the rest is the line that is handed over, byte for byte.

stream, stream_options                    how the answer comes to the client
max_cost_usd, cache, priority             on what conditions the line runs
fallback_models, strategy, requirements   who may answer: read with the line, as in any batch
"""

from decimal import Decimal
from typing import Annotated, Any

import msgspec

from batchmill.config.policy import MAX_LIMIT_USD
from batchmill.config.strategy import Strategy
from batchmill.producer.lines import MAX_FALLBACKS, MAX_MODEL_BYTES
from batchmill.producer.render import URL
from batchmill.service import problems
from batchmill.store.model import Priority

_OURS = frozenset({"stream", "stream_options", "stream_to", "max_cost_usd", "cache", "priority"})

# what the line's own checks refuse, with better words, is in the schema alone
Named = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": r"\S", "maxLength": MAX_MODEL_BYTES // 4})]
Fallbacks = Annotated[list[Named], msgspec.Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_FALLBACKS})]
Cap = Annotated[
    Decimal, msgspec.Meta(extra_json_schema={"exclusiveMinimum": 0, "maximum": MAX_LIMIT_USD, "multipleOf": 1e-9})
]

_encode = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Message(msgspec.Struct, frozen=True):
    """One message. All but its role is the model's to judge."""

    role: str


Messages = Annotated[list[Message], msgspec.Meta(extra_json_schema={"minItems": 1})]


class StreamOptions(msgspec.Struct, frozen=True):
    """How an answer is streamed. With `include_usage`, a last chunk without choices tells tokens and cost."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A chat completion as OpenAI's clients ask for it; whatever else is in it goes to the model as it is.

    `model` is a model, an alias, or "auto". What OpenAI does not have: `max_cost_usd` is the most that it may cost,
    `cache` whether an earlier answer to the same question will do (a stream is always asked anew), `priority` its turn
    among the project's other work (high unless it says otherwise), `fallback_models` who is asked when the model can't
    answer, `strategy` in which order.
    """

    model: Named
    messages: Messages
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_cost_usd: Cap | None = None
    cache: bool | None = None
    priority: Priority | None = None
    fallback_models: Fallbacks | None = None
    strategy: Strategy | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream is to end with what it used."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The model's answer, as the upstream gave it; `usage.cost` is in USD where the upstream tells it."""

    id: str = ""
    object: str = "chat.completion"
    created: int = 0
    model: str = ""
    choices: list[dict[str, Any]] = []
    usage: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(ChatRequest).decode


def read_chat(data: bytes) -> tuple[ChatRequest, bytes]:
    """Return what was asked for, and the body for the model. Raises ApiError."""
    try:
        return _decode(data), _body(data)
    except msgspec.ValidationError as error:
        raise problems.of_validation(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.invalid(
            "We could not parse the JSON body of your request. The API expects a JSON object.", code="invalid_json"
        ) from error


def line_of(custom_id: str, body: bytes, *, live: bool) -> bytes:
    """Return the line of a batch that asks for it; `live`: its tokens are to be seen while they come."""
    if live:
        body = body[:-1] + b',"stream_to":true}'
    head = {"custom_id": custom_id, "method": "POST", "url": URL}
    return _encode({**head, "body": msgspec.Raw(body)})


def _body(data: bytes) -> bytes:
    members = _decode_members(data)
    kept = [_encode(name) + b":" + bytes(value) for name, value in members.items() if name not in _OURS]
    return msgspec.json.format(b"{" + b",".join(kept) + b"}", indent=-1)  # a line has no line breaks
