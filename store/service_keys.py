"""Keys of the HTTP service: one function each, with its type, its life and who writes it (see `keys`).

They belong to no upstream: gateways share files however many upstreams their workers have.
"""

from hashlib import blake2b

from batchmill.store.keys import PREFIX

_FILES = f"{PREFIX}{{files}}:"


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
    """String: the place in lists of a file that was removed: a page may begin behind it. Expires after an hour.
    Written by who removes it.
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


def to_finalize() -> str:
    """Sorted set: terminal batch that came over HTTP, and whose output files are not written -> since when (unix
    seconds). Gone when empty. Written by the last record and by who wrote the files.
    """
    return f"{PREFIX}to_finalize"


def finalizing(batch_id: str) -> str:
    """String: which gateway writes the batch's output files. Expires after the lease. Written by the finalizer."""
    return f"{PREFIX}{{{batch_id}}}:finalizing"
