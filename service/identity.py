"""Who asks, and what they may do."""

from enum import StrEnum

import msgspec

DEFAULT_PROJECT = "default"


class Scope(StrEnum):
    """What a key may be used for. Each is a right by itself: an admin key that shall submit has both."""

    SUBMIT = "submit"  # hand over files, batches and chat completions, cancel and retry them
    READ = "read"  # batches, files, results and what they cost
    ADMIN = "admin"  # budgets, limits, pauses, breakers, alerts and keys


EVERY_SCOPE = frozenset(Scope)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. `project` None: every project is theirs to see, as the operator's are; their own work is `default`."""

    project: str | None
    scopes: frozenset[Scope]
    key_id: str | None = None  # None: nobody needs a key here
    key_name: str | None = None
    max_queued_lines: int | None = None

    @property
    def home(self) -> str:
        """The project that new work of theirs belongs to."""
        return self.project or DEFAULT_PROJECT

    @property
    def who(self) -> str:
        """Who they are, for the audit."""
        return f"key:{self.key_name or self.key_id}" if self.key_id else "somebody on this machine"

    def sees(self, project: str) -> bool:
        """Whether what belongs to a project exists for them."""
        return self.project in (None, project)


OPERATOR = Identity(project=None, scopes=EVERY_SCOPE)
"""Who asks where no key is needed: somebody on this machine."""
