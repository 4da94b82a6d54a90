"""Which calls the simulator lets fail, and how: a typed configuration and one pure decision.

A fault is decided from (seed, body, how often this body was sent before, model): the same run gives the same faults,
in whatever order calls arrive, and a retry of the same body draws anew, so that it may succeed.
"""

from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated

import msgspec

from batchmill.config.errors import ConfigError

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class FaultKind(StrEnum):
    """What can go wrong; a number is the HTTP status of the answer."""

    BAD_REQUEST = "400"
    CONTEXT = "400_context"  # prompt and output don't fit, whatever their length
    UNAUTHORIZED = "401"
    OUT_OF_CREDITS = "402_credits"
    IN_FLIGHT_BUDGET = "402_in_flight"
    MODERATION = "403_moderation"
    BUDGET_SPENT = "403_budget"
    NO_ENDPOINT = "404"
    REQUEST_TIMEOUT = "408"
    TOO_LARGE = "413"
    UNPROCESSABLE = "422"
    RATE_LIMIT = "429"
    INTERNAL = "500"
    BAD_GATEWAY = "502"
    UNAVAILABLE = "503"
    GATEWAY_TIMEOUT = "504"
    EDGE_TIMEOUT = "524"
    OVERLOADED = "529"
    IN_BAND = "in_band"  # status 200, and the body (or the stream's only event) is an error
    MID_STREAM = "mid_stream"  # status 200, a part of the answer, then an error
    CUT = "cut"  # the connection closes in the middle of the body
    HANG = "hang"  # no answer, until the client goes away


PROVIDERS_FAULTS = frozenset(
    (
        FaultKind.REQUEST_TIMEOUT,
        FaultKind.INTERNAL,
        FaultKind.BAD_GATEWAY,
        FaultKind.UNAVAILABLE,
        FaultKind.GATEWAY_TIMEOUT,
        FaultKind.EDGE_TIMEOUT,
        FaultKind.OVERLOADED,
        FaultKind.IN_BAND,
        FaultKind.MID_STREAM,
        FaultKind.CUT,
        FaultKind.HANG,
    )
)
"""What lowers an endpoint's uptime; the other kinds are the caller's, the account's or a rate limit's."""

# what `fail_rate` is made of: the failures that another try may mend, as often as providers show them
TRANSIENT_MIX: Mapping[FaultKind, float] = {
    FaultKind.RATE_LIMIT: 0.35,
    FaultKind.BAD_GATEWAY: 0.20,
    FaultKind.UNAVAILABLE: 0.10,
    FaultKind.OVERLOADED: 0.10,
    FaultKind.INTERNAL: 0.10,
    FaultKind.IN_BAND: 0.05,
    FaultKind.MID_STREAM: 0.05,
    FaultKind.CUT: 0.05,
}


class ModelFaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shares of the calls that fail. `fail_rate` is a mix of transient kinds, `rates` come on top of it, by kind."""

    fail_rate: Share = 0.0
    rates: dict[FaultKind, Share] = {}


class Faults(ModelFaults, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Faults of all models, and of those that match a pattern such as `openai/*`: the first match replaces the rest."""

    models: dict[str, ModelFaults] = {}

    def of(self, model: str) -> ModelFaults:
        """Return what goes for this model."""
        for pattern, faults in self.models.items():
            if fnmatchcase(model, pattern):
                return faults
        return self

    def with_model(self, model: str, faults: ModelFaults) -> "Faults":
        """Return these with other faults for a model or pattern, which go before all patterns."""
        others = {pattern: each for pattern, each in self.models.items() if pattern != model}
        return msgspec.structs.replace(self, models={model: faults, **others})


NO_FAULTS = Faults()


def check_faults(faults: Faults) -> Faults:
    """Return the faults when every model's shares sum up to at most 1; raises ConfigError otherwise."""
    for name, each in (("all models", faults), *faults.models.items()):
        if each.fail_rate + sum(each.rates.values()) > 1 + 1e-9:
            raise ConfigError(f"faults of {name}: fail_rate and rates sum up to more than 1")
    return faults


def choose_fault(faults: ModelFaults, draw: float) -> FaultKind | None:
    """Return the fault that a draw in [0, 1) falls on, or None."""
    edge = 0.0
    for kind, rate in faults.rates.items():
        edge += rate
        if draw < edge:
            return kind
    if draw >= edge + faults.fail_rate:
        return None
    for kind, weight in TRANSIENT_MIX.items():
        edge += weight * faults.fail_rate
        if draw < edge:
            return kind
    return FaultKind.CUT
