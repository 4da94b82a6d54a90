"""Our own API about the work: overview, lines, fleet, models, limits, breakers, pauses, and what happens."""

from typing import Annotated, Literal

import msgspec

from batchmill.service.control import fleet, limits, lines, models, overview, switches
from batchmill.service.control.events import events
from batchmill.service.control.limits import LimitChange
from batchmill.service.control.line_shapes import LineDetail, Lines
from batchmill.service.control.shapes import (
    Breakers,
    BreakerState,
    Fleet,
    Limits,
    ModelStates,
    Overview,
    Pauses,
)
from batchmill.service.identity import Scope
from batchmill.service.operations import Call, Operation

ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class LinesQuery(msgspec.Struct, frozen=True):
    """Which lines: of a state, with this in their custom id, after a cursor."""

    state: Literal["pending", "running", "succeeded", "failed", "cancelled", "expired"] | None = None
    search: Annotated[str, msgspec.Meta(max_length=512)] = ""
    after: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50


class LineQuery(msgspec.Struct, frozen=True):
    """`at` from the line's row, so that its result is found at once."""

    at: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class PauseRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model of which nothing is to be sent, and why, for whoever asks; with `force` one that nobody knows, too."""

    model: ModelName
    reason: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    force: bool = False


async def get_overview(call: Call[None, None]) -> Overview:
    """Throughput, cost now and today, what waits in each lane, workers, and what stands still and why.

    For the key of one project only its own work counts.
    """
    return await overview.overview(call.service, call.identity)


async def list_lines(call: Call[LinesQuery, None]) -> Lines:
    """A page of a batch's lines: those with a result in the order they ended, then those still to be done.

    Go on with `after` set to `next` while `has_more`: a page may be short, or empty, though more follows, for a search
    looks through results for half a second at most.
    """
    asked = call.query
    return await lines.lines(
        call.service,
        call.identity,
        call.path("batch_id"),
        state=asked.state,
        search=asked.search,
        after=asked.after,
        limit=asked.limit,
    )


async def get_line(call: Call[LineQuery, None]) -> LineDetail:
    """The request, the answer and every attempt of one line.

    Requests of lines that failed or wait are kept with them; that of a line that succeeded is read from the uploaded
    file while that is there.
    """
    custom_id = call.path("custom_id")
    return await lines.line(call.service, call.identity, call.path("batch_id"), custom_id, at=call.query.at)


async def get_fleet(call: Call[None, None]) -> Fleet:
    """The workers of the last hour: the last sign of life of each, what it has in the air, and what that holds."""
    return await fleet.fleet(call.service, call.identity)


async def list_model_states(call: Call[None, None]) -> ModelStates:
    """How each model does that has work, was used in the last day, or is held back."""
    return await models.model_states(call.service, call.identity)


async def list_limits(call: Call[None, None]) -> Limits:
    """The rate limits, and how full their buckets are."""
    return await limits.limits(call.service, call.identity)


async def change_limit_rates(call: Call[None, LimitChange]) -> Limits:
    """Give a limit other numbers, in the whole fleet, from this instant; null takes a rule away.

    They stay so through restarts, until the config file itself names others for that limit.
    """
    return await limits.change_rates(call.service, call.identity, call.path("name"), call.body)


async def list_breakers(call: Call[None, None]) -> Breakers:
    """The breaker of every model that was used lately or is paused."""
    return await switches.breakers(call.service, call.identity)


async def trip_breaker(call: Call[None, None]) -> BreakerState:
    """Send nothing more to a model, in the whole fleet, until its breaker is reset; what is in the air lands."""
    return await switches.trip(call.service, call.identity, call.path("model"))


async def reset_breaker(call: Call[None, None]) -> BreakerState:
    """Close the breaker of a model and forget its failures, its trips and its adaptive share."""
    return await switches.reset(call.service, call.identity, call.path("model"))


async def list_pauses(call: Call[None, None]) -> Pauses:
    """The pauses that are not over: those of operators, and those that the upstream asked for."""
    return await switches.pauses(call.service, call.identity)


async def pause_model(call: Call[None, PauseRequest]) -> Pauses:
    """Send nothing for a model until it is resumed; what is in the air lands."""
    wanted = call.body
    return await switches.pause(call.service, call.identity, wanted.model, wanted.reason, force=wanted.force)


async def resume_model(call: Call[None, None]) -> Pauses:
    """End the pause of an operator. Those that the upstream asked for end by themselves."""
    return await switches.resume(call.service, call.identity, call.path("model"))


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/overview",
        handler=get_overview,
        tag="fleet",
        summary="See everything at one moment",
        scope=Scope.READ,
        answer=Overview,
    ),
    Operation(
        method="GET",
        path="/v1/events",
        handler=events,
        tag="fleet",
        summary="Follow what happens",
        scope=Scope.READ,
        answer_media="text/event-stream",
    ),
    Operation(
        method="GET",
        path="/v1/batches/{batch_id}/lines",
        handler=list_lines,
        tag="batches",
        summary="List the lines of a batch",
        scope=Scope.READ,
        answer=Lines,
        query=LinesQuery,
        errors=(404,),
    ),
    Operation(
        method="GET",
        path="/v1/batches/{batch_id}/lines/{custom_id:path}",
        handler=get_line,
        tag="batches",
        summary="Look into one line",
        scope=Scope.READ,
        answer=LineDetail,
        query=LineQuery,
        errors=(404,),
    ),
    Operation(
        method="GET",
        path="/v1/fleet",
        handler=get_fleet,
        tag="fleet",
        summary="List workers",
        scope=Scope.READ,
        answer=Fleet,
    ),
    Operation(
        method="GET",
        path="/v1/model_states",
        handler=list_model_states,
        tag="fleet",
        summary="See how models do",
        scope=Scope.READ,
        answer=ModelStates,
    ),
    Operation(
        method="GET",
        path="/v1/limits",
        handler=list_limits,
        tag="limits",
        summary="List rate limits",
        scope=Scope.READ,
        answer=Limits,
    ),
    Operation(
        method="PATCH",
        path="/v1/limits/{name}",
        handler=change_limit_rates,
        tag="limits",
        summary="Change a rate limit",
        scope=Scope.ADMIN,
        answer=Limits,
        body=LimitChange,
        errors=(404,),
        operator=True,
    ),
    Operation(
        method="GET",
        path="/v1/breakers",
        handler=list_breakers,
        tag="limits",
        summary="List breakers",
        scope=Scope.READ,
        answer=Breakers,
    ),
    Operation(
        method="POST",
        path="/v1/breakers/{model:path}/trip",
        handler=trip_breaker,
        tag="limits",
        summary="Trip a breaker",
        scope=Scope.ADMIN,
        answer=BreakerState,
        errors=(404,),
        operator=True,
    ),
    Operation(
        method="POST",
        path="/v1/breakers/{model:path}/reset",
        handler=reset_breaker,
        tag="limits",
        summary="Reset a breaker",
        scope=Scope.ADMIN,
        answer=BreakerState,
        operator=True,
    ),
    Operation(
        method="GET",
        path="/v1/pauses",
        handler=list_pauses,
        tag="limits",
        summary="List pauses",
        scope=Scope.READ,
        answer=Pauses,
    ),
    Operation(
        method="POST",
        path="/v1/pauses",
        handler=pause_model,
        tag="limits",
        summary="Pause a model",
        scope=Scope.ADMIN,
        answer=Pauses,
        body=PauseRequest,
        errors=(404,),
        operator=True,
    ),
    Operation(
        method="DELETE",
        path="/v1/pauses/{model:path}",
        handler=resume_model,
        tag="limits",
        summary="Resume a model",
        scope=Scope.ADMIN,
        answer=Pauses,
        errors=(404,),
        operator=True,
    ),
)
