"""The lines of a batch over HTTP: a page of them, and all about one, its request and its answer side by side."""

from typing import Any, Final

import msgspec

from batchmill.service import problems
from batchmill.service.context import Service
from batchmill.service.control.common import usd
from batchmill.service.control.requests import asked, decoded, request_of
from batchmill.service.control.shapes import AttemptShape, LineDetail, LineError, LineRow, Lines, RoutedShape
from batchmill.service.identity import Identity
from batchmill.store import batches, intakes, line_pages, presence
from batchmill.store.errors import UnknownBatchError
from batchmill.store.line_pages import BadCursorError, Ended, Open, Page, Wanted
from batchmill.store.model import Attempt, BatchStatus, LineState, Result, Routed

PENDING: Final = "pending"
RUNNING: Final = "running"


async def lines(
    service: Service,
    identity: Identity,
    batch_id: str,
    *,
    state: str | None = None,
    search: str = "",
    after: str | None = None,
    limit: int = 50,
) -> Lines:
    """Return a page of a batch's lines: `state` is one of theirs, `search` a part of their custom ids.

    What is being validated, or never came to be a batch, has none.
    Raises ApiError: 404 for no such batch, 400 for a cursor that is none.
    """
    status = await batch_for(service, identity, batch_id)
    if status is None:
        return Lines(data=(), has_more=False, next=None)
    wanted = Wanted(states=_states(state), open=state in (None, PENDING, RUNNING), search=search, most=limit)
    try:
        found = await line_pages.page(service.redis, batch_id, wanted, after)
    except BadCursorError as error:
        raise problems.invalid(f"Invalid value for 'after': no cursor '{after}'.", "after", "invalid_value") from error
    running = await presence.lines_in_the_air(service.redis, status.upstream, batch_id) if found.open else set()
    rows = [row for row in _rows(found, running) if state not in (PENDING, RUNNING) or row.state == state]
    return Lines(data=tuple(rows), has_more=found.cursor is not None, next=found.cursor)


async def line(
    service: Service, identity: Identity, batch_id: str, custom_id: str, *, at: str | None = None
) -> LineDetail:
    """Return all about one line; `at`, from its row, finds its result at once. Raises ApiError 404."""
    status = await batch_for(service, identity, batch_id)
    if status is None:
        raise _no_line(batch_id, custom_id)
    ended = await _ended(service, batch_id, custom_id, at)
    if ended is None:
        found = await line_pages.open_line(service.redis, batch_id, lambda one: one.custom_id == custom_id)
        ended = await line_pages.result_of(service.redis, batch_id, custom_id)  # it may have come meanwhile
        if ended is None:
            if found is None:
                raise _no_line(batch_id, custom_id)
            running = await presence.lines_in_the_air(service.redis, status.upstream, batch_id)
            return _detail(batch_id, _open_row(found, running), asked(found), None)
    request, gone = await request_of(service, status, ended.result)
    return _detail(batch_id, _ended_row(ended), request, gone, ended.result)


async def batch_for(service: Service, identity: Identity, batch_id: str) -> BatchStatus | None:
    """Return a batch that who asks may see; None while it is still to be one, or failed to. Raises ApiError 404."""
    status = await _status(service, batch_id)
    intake = None if status else await intakes.find(service.redis, batch_id)
    if status is None and intake is None:  # it may have become a batch between the two looks
        status = await _status(service, batch_id)
    project = status.project if status else intake.asked.project if intake else None
    if project is None or not identity.sees(project):
        raise problems.not_found(f"No batch found with id '{batch_id}'.")
    return status


async def _status(service: Service, batch_id: str) -> BatchStatus | None:
    try:
        return await batches.status(service.redis, batch_id)
    except UnknownBatchError:
        return None


def _no_line(batch_id: str, custom_id: str) -> problems.ApiError:
    return problems.not_found(f"No line found with custom_id '{custom_id}' in batch '{batch_id}'.")


def _states(state: str | None) -> frozenset[LineState]:
    if state is None:
        return frozenset(LineState)
    return frozenset(one for one in LineState if one.value == state)


async def _ended(service: Service, batch_id: str, custom_id: str, at: str | None) -> Ended | None:
    if at is not None:
        try:
            result = await line_pages.result_at(service.redis, batch_id, at)
        except BadCursorError as error:
            raise problems.invalid(f"Invalid value for 'at': '{at}'.", "at", "invalid_value") from error
        if result is not None and result.custom_id == custom_id:
            return Ended(at, result)
    return await line_pages.result_of(service.redis, batch_id, custom_id)


def _rows(found: Page, running: set[int]) -> list[LineRow]:
    return [*map(_ended_row, found.ended), *(_open_row(one, running) for one in found.open)]


def _ended_row(ended: Ended) -> LineRow:
    result = ended.result
    return LineRow(
        custom_id=result.custom_id,
        index=result.index,
        state=result.state.value,
        model=next((one.model for one in reversed(result.attempts) if one.model), result.model),
        attempts=len(result.attempts),
        cost_usd=result.cost_usd,
        latency_ms=result.latency_ms,
        cached=result.cached,
        finish_reason=result.finish_reason,
        error=None if result.succeeded else _error(result),
        at=ended.entry,
    )


def _open_row(found: Open, running: set[int]) -> LineRow:
    line = found.line
    return LineRow(
        custom_id=line.custom_id,
        index=line.index,
        state=RUNNING if line.index in running else PENDING,
        model=found.lane,
    )


class _Refusal(msgspec.Struct):
    message: str | None = None
    code: str | int | None = None


class _Refused(msgspec.Struct):
    error: _Refusal | str | None = None


def _error(result: Result) -> LineError:
    """Return why a line failed, out of what we say of it, else of what the upstream answered."""
    code, message = result.error_code, result.error_message
    if message is None and result.response is not None:
        try:
            said = msgspec.json.decode(result.response, type=_Refused).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = None
        if isinstance(said, _Refusal):
            code, message = code or (None if said.code is None else str(said.code)), said.message
        else:
            message = said
    return LineError(code=code, message=message, status_code=result.status_code)


def _detail(
    batch_id: str, row: LineRow, request: Any | None, gone: str | None, result: Result | None = None
) -> LineDetail:
    usage = result.usage if result else None
    return LineDetail(
        batch_id=batch_id,
        line=row,
        request=request,
        request_gone=gone,
        response=decoded(result.response) if result else None,
        content=result.content if result else None,
        input_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.completion_tokens if usage else None,
        attempts=tuple(map(_attempt, result.attempts)) if result else (),
        routed=_routed(result.routed) if result and result.routed else None,
    )


def _attempt(attempt: Attempt) -> AttemptShape:
    return AttemptShape(
        outcome=attempt.outcome,
        status=attempt.status,
        latency_ms=attempt.latency_ms,
        model=attempt.model,
        provider=attempt.provider,
        generation_id=attempt.generation_id,
        cost_usd=usd(attempt.cost),
        billed=attempt.billed,
        message=attempt.message,
        first_token_ms=attempt.first_token_ms,
        cached=attempt.cached,
    )


def _routed(routed: Routed) -> RoutedShape:
    return RoutedShape(
        asked=routed.asked,
        strategy=routed.strategy.value,
        chosen=routed.chosen,
        reasons={each.model: each.reason for each in routed.considered},
    )
