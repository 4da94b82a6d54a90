"""What people change from a page: each is one operation of the API."""

from decimal import Decimal, InvalidOperation

from batchmill.service import problems
from batchmill.service.dashboard.asking import Visitor
from batchmill.service.dashboard.guard import Action

Fields = dict[str, str]

_MOST = 10**9  # dollars; beyond it somebody slipped
RATES = ("requests_per_minute", "tokens_per_minute", "requests_per_day", "max_concurrency")


async def cancel_batch(visitor: Visitor, _: Fields) -> None:
    """Cancel what is left of a batch."""
    await visitor.do("POST", f"/v1/batches/{_part(visitor, 'batch_id')}/cancel")


async def retry_batch(visitor: Visitor, _: Fields) -> str:
    """Run the failed lines again; leads to the new batch."""
    made = await visitor.do("POST", f"/v1/batches/{_part(visitor, 'batch_id')}/retry")
    return f"/batches/{made.id}"


async def set_budget(visitor: Visitor, fields: Fields) -> None:
    """Give a budget, or a batch, another limit."""
    limit = amount(fields.get("limit_usd", ""), "limit_usd")
    await visitor.do("PATCH", f"/v1/budgets/{_part(visitor, 'name')}", limit_usd=limit)


async def acknowledge(visitor: Visitor, _: Fields) -> None:
    """Say that an alert was seen."""
    await visitor.do("POST", f"/v1/alerts/{_part(visitor, 'alert_id')}/ack")


async def trip(visitor: Visitor, _: Fields) -> None:
    """Stop sending to a model."""
    await visitor.do("POST", f"/v1/breakers/{_part(visitor, 'model')}/trip")


async def reset(visitor: Visitor, _: Fields) -> None:
    """Close a model's breaker."""
    await visitor.do("POST", f"/v1/breakers/{_part(visitor, 'model')}/reset")


async def pause(visitor: Visitor, _: Fields) -> None:
    """Send nothing of a model until somebody resumes it."""
    await visitor.do("POST", "/v1/pauses", model=_part(visitor, "model"), force=True)  # the page listed it


async def resume(visitor: Visitor, _: Fields) -> None:
    """End a pause."""
    await visitor.do("DELETE", f"/v1/pauses/{_part(visitor, 'model')}")


async def set_rates(visitor: Visitor, fields: Fields) -> None:
    """Give a rate limit other numbers; what is left empty is not limited by it."""
    numbers = {name: _count(fields[name], name) for name in RATES if name in fields}
    await visitor.do("PATCH", f"/v1/limits/{_part(visitor, 'name')}", **numbers)


async def release(visitor: Visitor, fields: Fields) -> None:
    """Count suspects as not billed: those that the page showed, not others that came since."""
    await visitor.do("POST", "/v1/suspects/release", holds=fields.get("holds", "").split())


async def accept_books(visitor: Visitor, _: Fields) -> None:
    """Let workers send again, by books that were restored."""
    await visitor.do("POST", "/v1/books/accept")


def _part(visitor: Visitor, name: str) -> str:
    return str(visitor.request.path_params[name])


def amount(text: str, field: str) -> Decimal:
    """Return an amount of dollars as people write it. Raises ApiError."""
    try:
        read = Decimal(text.strip().removeprefix("$").replace(",", ""))
    except InvalidOperation:
        raise problems.invalid(f"'{text}' is no amount of dollars.", field) from None
    if not read.is_finite() or not 0 <= read <= _MOST:
        raise problems.invalid(f"'{text}' is no amount that a limit can be.", field)
    return read


def _count(text: str, field: str) -> int | None:
    """Return a number as people write it, None for nothing. Raises ApiError."""
    text = text.strip().replace(",", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < len(str(_MOST)) + 1):
        raise problems.invalid(f"'{text}' is no whole number.", field)
    return int(text)


ACTIONS: tuple[tuple[str, Action], ...] = (
    ("/batches/{batch_id}/cancel", cancel_batch),
    ("/batches/{batch_id}/retry", retry_batch),
    ("/budgets/{name:path}/limit", set_budget),
    ("/alerts/{alert_id:path}/ack", acknowledge),
    ("/breakers/{model:path}/trip", trip),
    ("/breakers/{model:path}/reset", reset),
    ("/pauses/{model:path}/end", resume),
    ("/pauses/{model:path}", pause),
    ("/limits/{name:path}", set_rates),
    ("/suspects/release", release),
    ("/books/accept", accept_books),
)
"""Where each form is sent."""
