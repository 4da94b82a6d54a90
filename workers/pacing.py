"""How fast one process sends to one model: what the upstream's refusals teach it.

A refusal rests its scope (model, all free models, account) until the upstream said, or longer each time in a row.
The model's share in the air is cut once a rest and grows again with what succeeds.
"""

import time

import msgspec

from batchmill.openrouter.outcomes import Failure, Retry, Scope

_CUT = 0.7
_FIRST_REST = 1.0  # seconds, when the upstream does not say how long
_LONGEST_REST = 60.0
_WORTH_TELLING = 1.0  # seconds by which a rest grew
_FREE = ":free"


class Rested(msgspec.Struct, frozen=True):
    """A rest that has begun, or that has grown by so much that it is news. `seconds` from now."""

    scope: str
    seconds: float
    begun: bool


class _Rest:
    """Until when (monotonic seconds) nothing of a scope is sent, and how often in a row that was so."""

    __slots__ = ("streak", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.streak = 0


class Pacing:
    """The rests of one process. A scope is a model id, `:free`, `account` or `refused`."""

    def __init__(self) -> None:
        self._rests: dict[str, _Rest] = {}

    def refuse(self, model: str, failure: Failure, delay: float | None) -> Rested | None:
        """Rest what the failure covers, for `delay` seconds if the upstream said so; None when that is no news.

        The refusals of one volley are one rest: they may lengthen it, but they don't begin another.
        """
        scope = scope_of(model, failure)
        rest = self._rests.setdefault(scope, _Rest())
        now = time.monotonic()
        if rest.until > now:
            grown = 0.0 if delay is None else now + delay - rest.until
            rest.until += max(0.0, grown)
            return Rested(scope, rest.until - now, begun=False) if grown > _WORTH_TELLING else None
        if delay is None:
            delay = min(_LONGEST_REST, _FIRST_REST * 2.0**rest.streak)
        rest.streak += 1
        rest.until = now + delay
        return Rested(scope, delay, begun=True)

    def succeeded(self, model: str) -> None:
        """Forget how often the model refused in a row; a rest that runs goes on."""
        if not self._rests:
            return
        now = time.monotonic()
        for scope in scopes_over(model):
            rest = self._rests.get(scope)
            if rest is not None and rest.until <= now:
                del self._rests[scope]

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
