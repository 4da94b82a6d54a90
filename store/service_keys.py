"""Keys of the service: what gateways keep in Redis beside the batches themselves; as in `keys.py`.

Permanent: `index`, from which maintenance drops what has expired. `deadlines` and `to_finalize` are gone when empty.
"""

from batchmill.store.keys import PREFIX

EVERY_PROJECT = "*"
"""Stands for all projects together where a key is a project's; no project can be named so."""


def index(project: str | None) -> str:
    """Sorted set, all scores 0: id of a batch or intake of a project (None: of all of them, then `|` and the project).
    Permanent; maintenance drops what has expired. Written when an intake or a batch comes to be.

    Ids sort by their time of birth, so the order is that of birth, too, whatever comes or goes.
    """
    return f"{PREFIX}batches:{EVERY_PROJECT if project is None else project}"


def in_index(batch_id: str, project: str) -> str:
    """Return how a batch is named in the index of all projects."""
    return f"{batch_id}|{project}"


def deadlines() -> str:
    """Sorted set: unfinished batch -> when its completion window is over; of one whose end was begun, when somebody
    is to see to it again (unix seconds). Gone when empty. Written at release, by the last record and by who ends it.
    """
    return f"{PREFIX}deadlines"


def to_finalize() -> str:
    """Sorted set: terminal batch that came over HTTP, and whose output files are not written -> since when (unix
    seconds). Gone when empty. Written by the last record and by who wrote the files.
    """
    return f"{PREFIX}to_finalize"
