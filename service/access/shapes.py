"""API keys as the API has them. Times in unix seconds."""

from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from batchmill.config.windows import WindowKind
from batchmill.service.identity import Scope

_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
_LONGEST = 10 * 366 * 86_400


class KeyBudgetObject(msgspec.Struct, frozen=True):
    """What a key may spend in a window (day, week, month by UTC; or in total)."""

    limit_usd: Decimal
    window: WindowKind


class KeyObject(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, without its secret. `project` null: it sees every project."""

    id: str
    object: Literal["key"] = "key"
    name: str
    project: str | None
    scopes: tuple[Scope, ...]
    state: Literal["active", "expired", "revoked"]
    created_at: int
    created_by: str
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None  # to the minute
    requests_per_minute: int | None
    max_queued_lines: int | None
    budget: KeyBudgetObject | None


class NewKeyObject(KeyObject, frozen=True, kw_only=True):
    """A key that was just made. `key` is its text, which nobody can be told again."""

    key: str


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """Keys, oldest first."""

    object: Literal["list"] = "list"
    data: list[KeyObject]


class DeletedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that opens nothing any more."""

    id: str
    object: Literal["key"] = "key"
    deleted: bool = True


class KeyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new key shall be. Without a project, it is for that of the key which asks, or for `default`."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    project: str | None = None
    all_projects: bool = False
    scopes: tuple[Scope, ...] = (Scope.SUBMIT, Scope.READ)
    expires_in: Annotated[int, msgspec.Meta(ge=1, le=_LONGEST)] | None = None  # seconds
    budget_usd: Decimal | None = None
    window: Literal["day", "week", "month", "total"] = "total"
    requests_per_minute: _Count | None = None
    max_queued_lines: _Count | None = None
