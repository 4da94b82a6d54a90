"""Every key that the HTTP service keeps in Redis: one function each, with its type, its life and who writes it.

Those that touch money or who may spend it share the hash tag of the gate's books, as in `store/keys.py`.

Permanent: `index`, from which maintenance drops what has expired. `intakes`, `deadlines` and `to_finalize` are gone
when empty.
"""

from hashlib import blake2b

from batchmill.store.keys import PREFIX, upstream_tag

_FILES = f"{PREFIX}{{files}}:"


def api_keys(upstream: str) -> str:
    """Hash: id of an API key -> what it may do, and a hash of its secret (JSON). Permanent, and small: keys that do not
    count any more stay in it, so that nobody gets in without one. Written by operators.
    """
    return f"{_gate(upstream)}api_keys"


def api_key_use(upstream: str) -> str:
    """Hash: id of an API key -> when it was last used (unix seconds). Permanent, with `api_keys`. By gateways."""
    return f"{_gate(upstream)}api_key_use"


def api_key_rate(upstream: str, key_id: str) -> str:
    """Hash: the bucket of requests of one API key. Expires when it would be full. Written by gateways."""
    return f"{_gate(upstream)}api_key_rate:{key_id}"


def key_budgets(upstream: str) -> str:
    """Hash: name of the budget of an API key -> the budget (JSON). Permanent, with `api_keys`. By operators."""
    return f"{_gate(upstream)}key_budgets"


def session(digest: str) -> str:
    """Hash: a session of the dashboard, by the hash of its token: `key`, the API key. Expires twelve hours after its
    last use. Written by gateways.
    """
    return f"{PREFIX}session:{digest}"


def intakes(upstream: str) -> str:
    """Sorted set: batch whose input is to be looked at -> when a gateway may take it (ms: the end of the lease of who
    has it). Gone when empty. Written by who creates batches over HTTP, and by the gateways that take them in.
    """
    return f"{PREFIX}intakes:{upstream_tag(upstream)}"


def intake(batch_id: str) -> str:
    """Hash: a batch over HTTP before it is one: its state, what was asked for, and why it failed. Retention; gone when
    its lines are let go. Written as `intakes`.
    """
    return f"{PREFIX}{{{batch_id}}}:intake"


def request_name(name: str) -> str:
    """String: digest of a body that created a batch, `|`, and the batch. Expires in ten minutes to a day. Written with
    the intake.
    """
    return f"{PREFIX}request:{name}"


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


def file(file_id: str) -> str:
    """String: a FileRecord as JSON. Expires when the file does. Written by an upload and by the finalizer."""
    return f"{_FILES}file:{file_id}"


def files() -> str:
    """Sorted set: file id -> its place in lists, microseconds of its making. Gone when empty. As `file`."""
    return f"{_FILES}all"


def project_files(project: str) -> str:
    """Sorted set: as `files`, those of one project. Gone when empty. As `file`."""
    return f"{_FILES}of:{project}"


def file_ends() -> str:
    """Sorted set: file id, a space and its project -> when its bytes may go (unix s). Gone when empty.
    Written before any byte is, so that none is left behind by who dies.
    """
    return f"{_FILES}ends"


def file_place(file_id: str) -> str:
    """String: the place in lists of a file that was removed, a space and its project: a page may begin behind it.
    Expires after an hour. Written by who removes it.
    """
    return f"{_FILES}place:{file_id}"


def upload(project: str, told: str) -> str:
    """String: fingerprint and id of the file that an upload made, by its content or its Idempotency-Key.
    Expires after minutes, or a day. Written by an upload.
    """
    digest = blake2b(f"{project}\0{told}".encode(), digest_size=16).hexdigest()
    return f"{_FILES}upload:{digest}"


def files_turn() -> str:
    """String: which gateway removes the bytes of expired files. Expires after seconds. Written by its task."""
    return f"{_FILES}turn"


def finalizing(batch_id: str) -> str:
    """String: which gateway writes the batch's output files. Expires after the lease. Written by the finalizer."""
    return f"{PREFIX}{{{batch_id}}}:finalizing"


def event_deliveries() -> str:
    """Sorted set: end of a batch for who asked to be told (JSON) -> when it is sent next (ms). Gone when empty.
    Written with the end, and by gateways.
    """
    return f"{PREFIX}event_deliveries"


def event_failures() -> str:
    """Hash: as `event_deliveries` -> tries that failed. Gone when empty. Written by gateways."""
    return f"{PREFIX}event_failures"


def _gate(upstream: str) -> str:
    return f"{PREFIX}{{gate:{upstream_tag(upstream)}}}:"
