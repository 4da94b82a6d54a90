"""What a completion request and its answers look like on the wire, field by field as in OpenRouter's reference."""

from decimal import Decimal
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

encoder = msgspec.json.Encoder(decimal_format="number")


class ContentPart(msgspec.Struct):
    """One part of a message that is not plain text alone."""

    type: str = "text"
    text: str = ""


class Message(msgspec.Struct):
    """One message of the conversation."""

    role: str
    content: str | list[ContentPart] | None = None


class MaxPrice(msgspec.Struct):
    """The dearest acceptable endpoint: USD per *million* tokens, and per request."""

    prompt: Decimal | None = None
    completion: Decimal | None = None
    request: Decimal | None = None


class SortPreference(msgspec.Struct):
    """What endpoints are sorted by."""

    by: str | None = None


class ProviderPreferences(msgspec.Struct):
    """The `provider` object: which endpoints may serve, and which first."""

    max_price: MaxPrice | None = None
    only: list[str] | None = None
    ignore: list[str] | None = None
    allow_fallbacks: bool | None = None
    order: list[str] | None = None
    sort: str | SortPreference | None = None
    require_parameters: bool | None = None


class ResponseFormat(msgspec.Struct):
    """Whether the answer is to be JSON."""

    type: str = "text"


class FunctionName(msgspec.Struct, frozen=True):
    """A function, of which only the name matters."""

    name: str = ""


class Tool(msgspec.Struct):
    """One of `tools`, or what `tool_choice` demands."""

    function: FunctionName = FunctionName()


class ReasoningPreferences(msgspec.Struct):
    """Whether the model thinks first."""

    effort: str | None = None
    enabled: bool | None = None


class CompletionRequest(msgspec.Struct):
    """The fields that the simulator looks at; every other one is tolerated."""

    messages: list[Message] = []
    model: str | None = None
    models: list[str] | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    provider: ProviderPreferences | None = None
    response_format: ResponseFormat | None = None
    reasoning: ReasoningPreferences | None = None
    reasoning_effort: str | None = None
    tools: msgspec.Raw = msgspec.Raw()
    tool_choice: str | Tool | None = None

    @property
    def output_limit(self) -> int | None:
        """How many tokens the answer may have, by either of the two names."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class PromptTokensDetails(msgspec.Struct):
    """What the prompt's tokens were."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0
    audio_tokens: int = 0
    video_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct):
    """What the completion's tokens were."""

    reasoning_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0


class CostDetails(msgspec.Struct):
    """The cost by side, USD."""

    upstream_inference_cost: Decimal
    upstream_inference_prompt_cost: Decimal
    upstream_inference_completions_cost: Decimal


class WireUsage(msgspec.Struct):
    """Tokens and the amount charged, USD."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost: Decimal
    is_byok: bool
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    cost_details: CostDetails


class FunctionCall(msgspec.Struct):
    """What a model wants to be called; `arguments` is JSON in a string. In a stream's event: a part of it."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCall(msgspec.Struct):
    """A call of a tool, or in a stream's event what is added to it; `index` in streams only, the ids in the first."""

    function: FunctionCall
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    index: int | UnsetType = UNSET


class AnswerMessage(msgspec.Struct):
    """The assistant's message."""

    role: str
    content: str | None
    refusal: None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Choice(msgspec.Struct):
    """The one choice of a whole answer; `error` only beside partial content."""

    index: int
    logprobs: None
    finish_reason: str
    native_finish_reason: str
    message: AnswerMessage
    error: dict[str, Any] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct):
    """A whole answer."""

    id: str
    object: str
    created: int
    model: str
    provider: str
    system_fingerprint: None
    service_tier: None
    choices: list[Choice]
    usage: WireUsage


class Delta(msgspec.Struct):
    """What one event of a stream adds."""

    role: str
    content: str | None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct):
    """The one choice of a stream's event."""

    index: int
    delta: Delta
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    logprobs: None = None


class Chunk(msgspec.Struct):
    """One event of a stream; `usage` in the last one, `error` when it broke."""

    id: str
    object: str
    created: int
    model: str
    provider: str
    choices: list[ChunkChoice]
    usage: WireUsage | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET
