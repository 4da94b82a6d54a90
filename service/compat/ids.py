"""The ids of files: those that were uploaded, and those that belong to a batch and follow from its id."""

import secrets

_UPLOADED = "file-"
_OUTPUT = "file-out-"
_ERRORS = "file-err-"
_BATCH = "batch_"


def new_file_id() -> str:
    """Return an id that nobody can guess."""
    return f"{_UPLOADED}{secrets.token_hex(12)}"


def output_file_id(batch_id: str) -> str:
    """Return the id of the file with a batch's answers, which exists from its first answer on."""
    return _OUTPUT + batch_id.removeprefix(_BATCH)


def error_file_id(batch_id: str) -> str:
    """Return the id of the file with a batch's lines that got no answer."""
    return _ERRORS + batch_id.removeprefix(_BATCH)


def batch_of(file_id: str) -> tuple[str, bool] | None:
    """Return the batch that a file belongs to, and whether it holds its errors; None for one that was uploaded."""
    for prefix in (_OUTPUT, _ERRORS):
        if file_id.startswith(prefix):
            return _BATCH + file_id.removeprefix(prefix), prefix == _ERRORS
    return None


def blob_of(file_id: str) -> str:
    """Return the name in storage of a file's bytes."""
    found = batch_of(file_id)
    if found is None:
        return f"files/{file_id}"
    batch_id, errors = found
    return f"{'errors' if errors else 'output'}/{batch_id}.jsonl"
