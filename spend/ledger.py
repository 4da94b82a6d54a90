"""The ledger: what every call that may have cost money cost, and whose it was. No prompt, no answer, no key.

settled call ──► a usage record, and the roll-ups of its day    (in the same step as the money, so that nothing
late bill, look-up, release ──► a record that corrects           is ever there twice or missing)
"""

from enum import StrEnum

import msgspec


class Source(StrEnum):
    """How the cost of a call is known."""

    TOLD = "told"  # `usage.cost`
    COMPUTED = "computed"  # from its tokens, by the price we know
    SUSPECT = "suspect"  # it is not: the bound counts until somebody knows
    RECONCILED = "reconciled"  # by the upstream's own books, a late answer, or an operator's word


CHATS = "(chats)"
"""Stands in reports by batch for all chat completions of a project."""


class UsageRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One call. `at` in ms of the Redis clock; `cost` in nano-dollars, of a suspect its bound.

    A record with the source "reconciled" stands beside the suspect that it corrects, which has the same `hold`.
    """

    at: int
    hold: str
    project: str
    batch: str
    index: int
    custom_id: str = ""
    asked: str = ""  # what the line asked for: a model, an alias, "auto"
    model: str = ""  # what the upstream was asked for
    served: str | None = None  # the model that says to have answered
    provider: str | None = None
    generation: str | None = None
    attempt: int = 1  # which call of its line
    outcome: str = "ok"  # or the failure's code
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0
    source: Source = Source.TOLD
    latency_ms: int = 0
    first_token_ms: int | None = None
    user: str | None = None  # a keyed hash of the body's `user`
    tags: tuple[str, ...] = ()  # of its batch, "key=value"

    @property
    def is_chat(self) -> bool:
        """Whether it is a chat completion over HTTP: a batch of one line, which bears the batch's id."""
        return self.custom_id == self.batch


class Group(msgspec.Struct, frozen=True, array_like=True):
    """What calls of a day have in common that are rolled up together: the first four, or project and batch."""

    project: str
    model: str = ""
    provider: str = ""
    tags: tuple[str, ...] = ()
    batch: str = ""


Sums = tuple[int, ...]
"""Requests, answered, prompt, cached, completion and reasoning tokens, cost and suspect (nano-dollars)."""


class Day(msgspec.Struct, frozen=True):
    """The roll-up of a UTC day (YYYY-MM-DD)."""

    name: str
    sums: list[tuple[Group, Sums]]


class Rollup(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """All calls of one UTC day (YYYY-MM-DD) that have the rest in common. Money in nano-dollars.

    `cost` is what is known, `suspect` what nobody knows yet.
    """

    day: str
    project: str
    model: str
    provider: str = ""
    tags: tuple[str, ...] = ()
    requests: int = 0
    answered: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0
    suspect: int = 0
