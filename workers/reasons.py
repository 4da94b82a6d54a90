"""Why lines wait, in words for people: which rule binds, until when, and what would change it."""

import time

import msgspec

from batchmill.config.typed import typed
from batchmill.openrouter.money import dollars
from batchmill.store.batches import alarmed
from batchmill.store.gate import NEVER, Reply, Why
from batchmill.store.rules import Rules
from batchmill.workers.line import LineRun


class Reason(msgspec.Struct, frozen=True):
    """Why lines of a scope (a model, `:free`, `account`, a batch) wait; `kind` is one of the gate's words.

    `budget` is the one that has no room, if that is why.
    """

    scope: str
    kind: str
    text: str
    budget: str | None = None


def reason_of(rules: Rules, reply: Reply, batch_id: str, bound: int, upstream: str) -> Reason | None:
    """Say why the gate refused a line with that bound (nano-dollars); None when somebody else says it, or no news.

    `upstream` is whose books it keeps: the commands that are named look into the same.
    """
    model, until = rules.model, _until(reply)
    match reply.why:
        case Why.ALARM:
            return Reason("alarm", "alarm", alarmed(upstream))
        case Why.PAUSE if rules.scopes[reply.which - 1].startswith("op:"):
            end = typed(f"resume {model}", upstream)
            return Reason(model, "pause", f"{model} is paused by an operator until {end}")
        case Why.BREAKER:
            return Reason(model, "breaker", _of_breaker(model, reply, upstream))
        case Why.SHARE:
            return Reason(model, "share", f"{model} takes fewer lines at once for now: there were too many")
        case Why.LIMIT:
            return Reason(model, "limit", f"limit {rules.limits[reply.which - 1].name} of {model}{until}")
        case Why.BUDGET:
            name = rules.budgets[reply.which - 1].name
            text = (
                f"budget {name} has no room left{until} for a line that may cost {dollars(bound)}; "
                f"{typed(f'budgets raise {name} USD', upstream)} makes some"
            )
            return Reason(batch_id, "budget", text, budget=name)
        case _:
            return None


def as_asked(reason: Reason, run: LineRun) -> Reason:
    """Return the reason as one of what the line asked for, where those look who wait for a routed line."""
    if run.trip is None or reason.scope != run.model:
        return reason
    return msgspec.structs.replace(reason, scope=run.asked)


def _of_breaker(model: str, reply: Reply, upstream: str) -> str:
    if reply.wait != NEVER:
        return f"the breaker of {model} is open{_until(reply)}"
    if reply.which:
        reset = typed(f"breakers reset {model}", upstream)
        return f"the breaker of {model} was tripped by an operator, until {reset}"
    return f"{model} is being probed"


def _until(reply: Reply) -> str:
    if reply.wait == NEVER:
        return ""
    moment = time.gmtime((reply.now + reply.wait) / 1000)
    return f" until {time.strftime('%Y-%m-%d %H:%M:%S', moment)} UTC"
