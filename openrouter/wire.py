"""What comes back over the wire, as types: only the fields that we use, and tolerant of all the rest.

The upstream's schema changes weekly, so unknown fields are skipped, every enum is open, and one field of the wrong type
costs that field and not the answer.
"""

import types
import typing
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Final, TypeVar

import msgspec

from batchmill.openrouter.money import to_nano
from batchmill.openrouter.outcomes import Usage

# a body nested without end (what only damage or malice sends) is a RecursionError in msgspec
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ABSENT = msgspec.Raw()
_NULL = b"null"
_MAX_COST_USD = 1_000_000  # no single call costs this; a number beyond it is damage, not money
_CONTENT_KEYS = ("content", "reasoning", "reasoning_content", "tool_calls", "images", "audio")
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] | None  # within what a Lua number counts exactly
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class PromptDetails(msgspec.Struct):
    """`usage.prompt_tokens_details`."""

    cached_tokens: _Tokens = None


class CompletionDetails(msgspec.Struct):
    """`usage.completion_tokens_details`."""

    reasoning_tokens: _Tokens = None


class UsageReport(msgspec.Struct):
    """`usage`: tokens, and the amount charged in USD, read as a decimal from the text of the number."""

    prompt_tokens: _Tokens = None
    completion_tokens: _Tokens = None
    cost: Decimal | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Choice(msgspec.Struct):
    """One of `choices`; the message itself is never decoded."""

    finish_reason: str | None = None
    error: msgspec.Raw = _ABSENT

    @property
    def failed(self) -> bool:
        """Whether the provider gave up on it; partial content may be there all the same."""
        return self.finish_reason == "error" or not is_absent(self.error)


class Completion(msgspec.Struct):
    """A `chat.completion` object, or the error that came in its place."""

    id: str | None = None
    model: str | None = None
    provider: str | None = None
    choices: list[Choice] | None = None
    usage: UsageReport | None = None
    error: msgspec.Raw = _ABSENT


class _PartialChoice(msgspec.Struct):
    message: dict[str, Any] | None = None


class _Partial(msgspec.Struct):
    choices: list[_PartialChoice] | None = None


class KeyBudget(msgspec.Struct, frozen=True):
    """One layer of `budgets`: a cap in USD that the upstream enforces for this key, softly."""

    scope: str | None = None
    limit_usd: Decimal | None = None
    spend_usd: Decimal | None = None
    remaining_usd: Decimal | None = None
    reset_interval: str | None = None  # None with a `limit_usd`: for a lifetime
    resets_at: str | None = None
    include_byok: bool | None = None


class FreeRequests(msgspec.Struct, frozen=True):
    """`free_model_daily_requests`: the account's count of `:free` requests in this UTC day."""

    used: int | None = None
    limit: int | None = None
    remaining: int | None = None


class KeyInfo(msgspec.Struct, frozen=True):
    """`GET /key`: what the calling key may spend and has spent, in USD (None: no cap, or not told).

    `budgets` has every layer that is enforced for the key, `effective_budget` the one that will refuse first. Who made
    the key, and for which organization, is not read: it is nobody's business here.
    """

    label: str | None = None
    limit: Decimal | None = None
    limit_remaining: Decimal | None = None
    limit_reset: str | None = None
    usage: Decimal | None = None
    usage_daily: Decimal | None = None
    usage_weekly: Decimal | None = None
    usage_monthly: Decimal | None = None
    byok_usage: Decimal | None = None
    include_byok_in_limit: bool | None = None
    is_free_tier: bool | None = None
    is_management_key: bool | None = None
    expires_at: str | None = None
    free_model_daily_requests: FreeRequests | None = None
    budgets: list[KeyBudget] | None = None
    effective_budget: KeyBudget | None = None


class KeyEnvelope(msgspec.Struct):
    """The `{"data": ...}` around a KeyInfo."""

    data: KeyInfo | None = None


class GenerationInfo(msgspec.Struct, frozen=True):
    """`GET /generation`: what one call cost in USD, and the tokens that it was billed for."""

    id: str
    total_cost: Decimal
    usage: Usage = Usage()
    model: str | None = None
    provider: str | None = None
    finish_reason: str | None = None
    cancelled: bool | None = None

    @property
    def cost(self) -> int:
        """The cost in nano-dollars, rounded up."""
        return to_nano(self.total_cost)


class _Generation(msgspec.Struct):
    id: str | None = None
    total_cost: Decimal | None = None
    native_tokens_prompt: _Tokens = None  # the native counts are those that were billed
    native_tokens_completion: _Tokens = None
    native_tokens_cached: _Tokens = None
    native_tokens_reasoning: _Tokens = None
    model: str | None = None
    provider_name: str | None = None
    finish_reason: str | None = None
    cancelled: bool | None = None


class _GenerationEnvelope(msgspec.Struct):
    data: _Generation | None = None


_decode_completion = msgspec.json.Decoder(Completion).decode
_decode_table = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def decode_completion(body: bytes) -> Completion | None:
    """Return the completion that the body holds; None when it is not a JSON object."""
    try:
        return _decode_completion(body)
    except msgspec.ValidationError:
        return salvage(body, Completion)
    except UNREADABLE:
        return None


def salvage(raw: bytes | msgspec.Raw, kind: type[_Struct]) -> _Struct | None:
    """Decode an object field by field, so that a field of the wrong type is lost alone; None for anything else."""
    try:
        table = _decode_table(raw)
    except UNREADABLE:
        return None
    values = {}
    for encoded, name, field_type in _fields(kind):
        if encoded in table:
            value = _salvage_value(table[encoded], field_type)
            if value is not None:
                values[name] = value
    return kind(**values)


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, Any], ...]:
    # looked up once: a listing of which every entry has one strange field would pay for it hundreds of times
    return tuple((field.encode_name, field.name, field.type) for field in msgspec.structs.fields(kind))


@cache
def _decoder(kind: Any) -> Callable[[msgspec.Raw], Any]:
    return msgspec.json.Decoder(kind).decode


def _salvage_value(raw: msgspec.Raw, kind: Any) -> Any:
    try:
        return _decoder(kind)(raw)
    except UNREADABLE:
        pass
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for option in options:
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return salvage(raw, option)
        if typing.get_origin(option) is list:
            return _salvage_list(raw, typing.get_args(option)[0])
    return None


def _salvage_list(raw: msgspec.Raw, kind: Any) -> list[Any] | None:
    try:
        items = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except UNREADABLE:
        return None
    return [item for item in (_salvage_value(each, kind) for each in items) if item is not None]


def decode_generation(body: bytes, generation_id: str) -> GenerationInfo | None:
    """Return what `GET /generation` told of a call; None when it holds no cost, for then it tells nothing yet."""
    envelope = salvage(body, _GenerationEnvelope)
    data = envelope.data if envelope else None
    if data is None or data.total_cost is None or not _is_money(data.total_cost):
        return None
    return GenerationInfo(
        data.id or generation_id,
        data.total_cost,
        Usage(
            data.native_tokens_prompt or 0,
            data.native_tokens_completion or 0,
            data.native_tokens_cached or 0,
            data.native_tokens_reasoning or 0,
        ),
        data.model,
        data.provider_name,
        data.finish_reason,
        data.cancelled,
    )


def has_content(body: bytes) -> bool:
    """Whether any choice holds partial content: then tokens were made, and maybe charged."""
    try:
        choices = msgspec.json.decode(body, type=_Partial).choices
    except UNREADABLE:
        return True  # unreadable, so nobody can say that there was none
    return any(choice.message.get(key) for choice in choices or () if choice.message for key in _CONTENT_KEYS)


def is_absent(raw: msgspec.Raw) -> bool:
    """Whether a raw field was missing or null."""
    text = bytes(raw)
    return not text or text == _NULL


def tokens_of(report: UsageReport | None) -> Usage:
    """Return the tokens as told; what was not told is 0."""
    if report is None:
        return Usage()
    prompt = report.prompt_tokens_details
    completion = report.completion_tokens_details
    return Usage(
        report.prompt_tokens or 0,
        report.completion_tokens or 0,
        (prompt.cached_tokens or 0) if prompt else 0,
        (completion.reasoning_tokens or 0) if completion else 0,
    )


def cost_of(report: UsageReport | None) -> int | None:
    """Return the reported cost in nano-dollars, rounded up; None when there is none that can be money."""
    if report is None or report.cost is None or not _is_money(report.cost):
        return None
    return to_nano(report.cost)


def _is_money(cost: Decimal) -> bool:
    return cost.is_finite() and 0 <= cost <= _MAX_COST_USD
