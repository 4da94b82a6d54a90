"""`/_sim/...`: what a test or an operator asks of the simulator itself. Loopback only, no part of OpenRouter's API."""

from collections.abc import Callable
from decimal import Decimal
from ipaddress import ip_address

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from batchmill.config.errors import ConfigError
from batchmill.openrouter.simulator import refusals
from batchmill.openrouter.simulator.account import KeyLimit, Reset, check_amount
from batchmill.openrouter.simulator.faults import Faults, ModelFaults, check_faults
from batchmill.openrouter.simulator.upstream import Upstream
from batchmill.openrouter.simulator.wire import encoder

PREFIX = "/_sim/"


class _LatencyChange(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A latency for all models without their own, or for one model (or pattern): null takes its own away."""

    latency: str | None
    model: str | None = None


class _FaultsChange(Faults, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All faults anew, or with `model` those of one model (or pattern)."""

    model: str | None = None


class _KeyChange(msgspec.Struct, forbid_unknown_fields=True):
    """The key's own limit, null for none, and the balance of the account; what is not named stays."""

    limit_usd: Decimal | UnsetType | None = UNSET
    reset: Reset | None = None
    credits_usd: Decimal | UnsetType = UNSET

    def __post_init__(self) -> None:
        for amount in (self.limit_usd, self.credits_usd):
            if isinstance(amount, Decimal):
                check_amount(amount)


class Admin:
    """Answers the admin paths of one upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._actions: dict[tuple[str, str], Callable[[bytes], bytes]] = {
            ("GET", "stats"): lambda _: msgspec.json.encode(upstream.books.stats),
            ("GET", "calls"): lambda _: msgspec.json.encode(upstream.books.calls),
            ("POST", "faults"): self._set_faults,
            ("POST", "latency"): self._set_latency,
            ("POST", "key"): self._set_key,
            ("POST", "reset"): self._reset,
        }

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        """Answer one request: 403 for peers elsewhere, 400 with the reason for what can't be read."""
        if not is_loopback(request.remote or ""):
            return _refused(refusals.refuse(403, "the simulator's admin paths answer on loopback only"))
        action = self._actions.get((request.method, request.path.removeprefix(PREFIX)))
        if action is None:
            return _refused(refusals.not_found(f"{request.path} is no admin path"))
        try:
            answer = action(await request.read())
        except (msgspec.DecodeError, ConfigError) as error:
            return _refused(refusals.bad_request(str(error)))
        return web.Response(body=answer, content_type="application/json")

    def _set_faults(self, body: bytes) -> bytes:
        change = msgspec.json.decode(body, type=_FaultsChange)
        upstream = self._upstream
        if change.model is None:
            faults = Faults(fail_rate=change.fail_rate, rates=change.rates, models=change.models)
        elif change.models:
            raise ConfigError("faults: name one 'model', or several in 'models'")
        else:
            own = ModelFaults(fail_rate=change.fail_rate, rates=change.rates)
            faults = upstream.faults.with_model(change.model, own)
        upstream.faults = check_faults(faults)
        return msgspec.json.encode(upstream.faults)

    def _set_latency(self, body: bytes) -> bytes:
        change = msgspec.json.decode(body, type=_LatencyChange)
        upstream = self._upstream
        if change.model is not None:
            upstream.latencies = upstream.latencies.with_model(change.model, change.latency)
        elif change.latency is not None:
            upstream.latencies = upstream.latencies.with_all(change.latency)
        else:
            raise ConfigError("latency: null takes away a model's own; name the 'model'")
        return msgspec.json.encode(change)

    def _set_key(self, body: bytes) -> bytes:
        change = msgspec.json.decode(body, type=_KeyChange)
        upstream = self._upstream
        if change.limit_usd is None:
            upstream.key_limit = None
        elif change.limit_usd is not UNSET:
            upstream.key_limit = KeyLimit(change.limit_usd, change.reset)
        if change.credits_usd is not UNSET:
            upstream.credits_usd = change.credits_usd
        return encoder.encode({"limit": upstream.key_limit, "credits_usd": upstream.credits_usd})

    def _reset(self, _: bytes) -> bytes:
        self._upstream.reset()
        return b"{}"


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address can be reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refused(refusal: refusals.Refusal) -> web.Response:
    return web.Response(status=refusal.status, body=refusal.body, content_type="application/json")
