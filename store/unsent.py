"""Lines that are never sent (again): their batch was cancelled, or its time was over."""

from batchmill.openrouter.splices import with_members
from batchmill.store.model import Line, LineState, Result, Route

_SAID = {
    LineState.CANCELLED: ("batch_cancelled", "This request was not executed because the batch was cancelled."),
    LineState.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
}
"""Code and message: OpenAI's for an expired line, and those of others that speak as it does for a cancelled one."""


def unsent_line(line: Line, model: str, state: LineState, route: Route | None = None) -> Result:
    """Return the result of a line that was not sent; one that expired can be handed in again."""
    code, message = _SAID[state]
    return Result(
        index=line.index,
        custom_id=line.custom_id,
        model=model,
        state=state,
        error_code=code,
        error_message=message,
        request=handed_in(line, route) if state is LineState.EXPIRED else None,
    )


def handed_in(line: Line, route: Route | None) -> bytes:
    """Return the body as it came, so that a failed line can be handed in again and is routed anew."""
    body = line.body if route is None else with_members(line.body, route.members)
    return with_members(body, b'"stream_to":true') if line.live else body
