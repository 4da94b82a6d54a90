"""`GET /models/{author}/{slug}/endpoints` as values: who serves a model, at what price, and how well of late.

Tolerant as the listing of models is: what can't be read is not known, and costs nothing else.
"""

import msgspec

from batchmill.openrouter.replies import readable
from batchmill.openrouter.wire import UNREADABLE, salvage

_MAX_COUNT = 1 << 53
_SECONDS_BELOW = 60.0
_MILLISECONDS = 1000.0
_ALL = 100.0  # percent


class Percentiles(msgspec.Struct, frozen=True, array_like=True):
    """How calls of the last 30 minutes are spread. None: nobody says."""

    p50: float | None = None
    p75: float | None = None
    p90: float | None = None
    p99: float | None = None


class Endpoint(msgspec.Struct, frozen=True, array_like=True):
    """One provider's way to serve a model (`components/publicendpoint.py` of the official SDK).

    `tag` is what `provider.order`, `only` and `ignore` take. `pricing` is a `pricing` object as JSON, tier multipliers
    applied; `{}` when none is named. Uptimes are percent (0 to 100), without rate limits and the callers' own faults.
    `status` 0 is normal; what -1, -2, -3, -5 and -10 mean is not documented, only that they are worse.

    `latency_ms` is the time to the first token; the API gives it only to those who show a key. Its unit is not
    certain: the schema says milliseconds, its example (0.25) looks like seconds. The magnitude decides: when no
    percentile reaches 60 they are taken as seconds, for no answer starts within 60 ms and few take 60 s to start.
    `throughput` is tokens a second.
    """

    provider_name: str
    tag: str = ""
    name: str = ""
    model_id: str = ""
    context_length: int | None = None
    max_completion_tokens: int | None = None
    max_prompt_tokens: int | None = None
    pricing: bytes = b"{}"
    quantization: str | None = None
    service_tier: str | None = None
    status: int | None = None
    uptime_last_5m: float | None = None
    uptime_last_30m: float | None = None
    uptime_last_1d: float | None = None
    latency_ms: Percentiles | None = None
    throughput: Percentiles | None = None
    parameters: tuple[str, ...] = ()  # `supported_parameters`
    supports_implicit_caching: bool | None = None


class _Spread(msgspec.Struct):
    p50: float | None = None
    p75: float | None = None
    p90: float | None = None
    p99: float | None = None


class _Entry(msgspec.Struct):
    provider_name: str | None = None
    tag: str | None = None
    name: str | None = None
    model_id: str | None = None
    context_length: int | None = None
    max_completion_tokens: int | None = None
    max_prompt_tokens: int | None = None
    pricing: msgspec.Raw = msgspec.Raw()
    quantization: str | None = None
    service_tier: str | None = None
    status: int | None = None
    uptime_last_5m: float | None = None
    uptime_last_30m: float | None = None
    uptime_last_1d: float | None = None
    latency_last_30m: _Spread | None = None
    throughput_last_30m: _Spread | None = None
    supported_parameters: list[str] | None = None
    supports_implicit_caching: bool | None = None


class _Served(msgspec.Struct):
    endpoints: list[msgspec.Raw] | None = None


class _Document(msgspec.Struct):
    data: _Served | None = None


_decode_document = msgspec.json.Decoder(_Document).decode
_decode_entry = msgspec.json.Decoder(_Entry).decode


def decode_endpoints(body: bytes) -> tuple[Endpoint, ...]:
    """Return the endpoints of a model in the order of the answer; none for anything that is no such answer.

    One without a provider's name and a tag is left out. Never raises.
    """
    try:
        document = _decode_document(readable(body))
    except UNREADABLE:
        return ()
    served = (document.data.endpoints if document.data else None) or ()
    return tuple(endpoint for endpoint in map(_endpoint, served) if endpoint is not None)


def _endpoint(raw: msgspec.Raw) -> Endpoint | None:
    try:
        entry: _Entry | None = _decode_entry(raw)
    except UNREADABLE:
        entry = salvage(raw, _Entry)
    if entry is None or not (entry.provider_name or entry.tag):
        return None
    pricing = bytes(entry.pricing)
    return Endpoint(
        entry.provider_name or entry.tag or "",
        entry.tag or "",
        entry.name or "",
        entry.model_id or "",
        _positive(entry.context_length),
        _positive(entry.max_completion_tokens),
        _positive(entry.max_prompt_tokens),
        pricing if pricing.startswith(b"{") else b"{}",
        entry.quantization or None,
        entry.service_tier or None,
        entry.status if entry.status is not None and abs(entry.status) <= _MAX_COUNT else None,
        _percent(entry.uptime_last_5m),
        _percent(entry.uptime_last_30m),
        _percent(entry.uptime_last_1d),
        _latency(entry.latency_last_30m),
        _spread(entry.throughput_last_30m, 1.0),
        tuple(entry.supported_parameters or ()),
        entry.supports_implicit_caching,
    )


def _latency(told: _Spread | None) -> Percentiles | None:
    known = [value for value in (told.p50, told.p75, told.p90, told.p99) if value is not None] if told else []
    seconds = bool(known) and max(known) < _SECONDS_BELOW
    return _spread(told, _MILLISECONDS if seconds else 1.0)


def _spread(told: _Spread | None, factor: float) -> Percentiles | None:
    if told is None:
        return None
    spread = Percentiles(*(_scaled(value, factor) for value in (told.p50, told.p75, told.p90, told.p99)))
    return None if spread == Percentiles() else spread


def _scaled(value: float | None, factor: float) -> float | None:
    return value * factor if value is not None and 0 <= value <= _MAX_COUNT else None


def _percent(value: float | None) -> float | None:
    return value if value is not None and 0 <= value <= _ALL else None


def _positive(count: int | None) -> int | None:
    return count if count is not None and 0 < count <= _MAX_COUNT else None
