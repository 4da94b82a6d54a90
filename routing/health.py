"""How models do: what the fleet saw of them lately and what their endpoints say of themselves, as plain values."""

import msgspec


class ModelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one moment. None, or no calls: nobody knows.

    `calls` and `failures` (of the provider) are those of the fleet in the youngest window that has enough of them,
    `seconds` long. Times in milliseconds, medians; `uptime` is a share (0 to 1) that the model's endpoints state.
    `open` says until when (ms of the Redis clock) its breaker lets nothing through, 0 for a closed one.
    """

    model: str
    calls: int = 0
    failures: int = 0
    seconds: int = 0
    latency_ms: float | None = None
    first_token_ms: float | None = None
    tokens_per_second: float | None = None
    uptime: float | None = None
    stated_latency_ms: float | None = None
    stated_tokens_per_second: float | None = None
    open: int = 0
