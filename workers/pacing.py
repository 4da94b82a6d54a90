"""How fast one process sends to one model: what the upstream's refusals teach it.

A refusal rests its scope (model, all free models, account) until the upstream said, or longer each time in a row.
The model's share in the air is cut once a rest and grows again with what succeeds.
"""

import time

from batchmill.openrouter.outcomes import Failure, Retry, Scope

_CUT = 0.7
_FIRST_REST = 1.0  # seconds, when the upstream does not say how long
_LONGEST_REST = 60.0
_FREE = ":free"


class Rest:
    """Why and until when (monotonic seconds) nothing of a scope is sent."""

    __slots__ = ("reason", "streak", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.streak = 0
        self.reason = ""


class Pacing:
    """The rests of one process. A scope is a model id, `:free`, `account` or `refused`."""

    def __init__(self) -> None:
        self._rests: dict[str, Rest] = {}

    def refuse(self, model: str, failure: Failure, delay: float | None) -> tuple[str, float] | None:
        """Rest what the failure covers; return the scope and the seconds, or None when it rests already."""
        scope = scope_of(model, failure)
        rest = self._rests.setdefault(scope, Rest())
        now = time.monotonic()
        if rest.until > now and (delay is None or rest.until >= now + delay):
            return None
        if delay is None:
            delay = min(_LONGEST_REST, _FIRST_REST * 2.0**rest.streak)
        rest.streak += 1
        rest.until = now + delay
        rest.reason = failure.message
        return scope, delay

    def succeeded(self, model: str) -> None:
        """Forget how often the model refused in a row."""
        if self._rests:
            for scope in scopes_over(model):
                self._rests.pop(scope, None)

    def rests(self, model: str) -> float:
        """Return for how many seconds nothing may be sent to the model; 0 when it may."""
        if not self._rests:
            return 0.0
        now = time.monotonic()
        return max(0.0, *(self._rests[scope].until - now for scope in scopes_over(model) if scope in self._rests), 0.0)


def scopes_over(model: str) -> tuple[str, ...]:
    """Return every scope that a refusal of could hold up the model."""
    return (model, "account", "refused", _FREE) if model.endswith(_FREE) else (model, "account", "refused")


def scope_of(model: str, failure: Failure) -> str:
    """Return what a failure covers."""
    if failure.retry is Retry.ACCOUNT:
        return "refused"
    return {Scope.MODEL: model, Scope.FREE_MODELS: _FREE, Scope.ACCOUNT: "account"}[failure.scope]


class Share:
    """How many lines of one model may be in the air at once: cut by refusals, grown by successes."""

    __slots__ = ("_ceiling", "limit")

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self.limit = float(ceiling)

    def cut(self, in_air: int) -> None:
        """Take a share away, from what was really in the air."""
        self.limit = max(1.0, min(self.limit, in_air + 1) * _CUT)

    def grow(self) -> None:
        """Give one more place back for each round of successes."""
        if self.limit < self._ceiling:
            self.limit = min(float(self._ceiling), self.limit + 1.0 / self.limit)
