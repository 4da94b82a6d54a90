"""When a request is the same one again: by the key that it bears, or because a client says that it tries once more.

    Idempotency-Key, or `idempotency_key` in the body    a day; the same key with another body is refused
    x-stainless-retry-count above 0                      ten minutes; the same body, by the same key

OpenAI's clients send the second by themselves after an answer that they did not get. They tell nothing else of
themselves, so a retry stands for the newest request of the same body.
"""

from hashlib import blake2b

from starlette.requests import Request

from batchmill.service import problems
from batchmill.service.identity import Identity
from batchmill.service.numbers import whole_number
from batchmill.store.intakes import Known, Name

HEADER = "idempotency-key"
_RETRIES = "x-stainless-retry-count"
_DAY = 86_400
_SILENT = 600
_LONGEST = 255


def name_of(request: Request, identity: Identity, body: bytes, key: str | None) -> Name:
    """Return by what the request is known again; `body` is what it says, however it was written, and without the `key`
    that it may bear there, too. Raises ApiError for an unusable one.
    """
    given = request.headers.get(HEADER)
    if given is not None and key is not None and given != key:
        raise problems.invalid("Header Idempotency-Key and 'idempotency_key' differ; give one.", "idempotency_key")
    key = given if given is not None else key
    if key is not None and not 1 <= len(key) <= _LONGEST:
        raise problems.invalid(f"An idempotency key has 1 to {_LONGEST} characters.", "idempotency_key")
    digest = _digest(body)
    who = f"{identity.project or ''}\0{identity.key_id or ''}\0{request.url.path}"
    if key is not None:
        return Name(_digest(f"key\0{who}\0{key}".encode()), digest, _DAY, once=True)
    again = whole_number(request.headers.get(_RETRIES)) or 0
    return Name(_digest(f"body\0{who}\0{digest}".encode()), digest, _SILENT, once=again > 0)


def check_same(known: Known) -> None:
    """Raise ApiError when the name stands for a request with another body."""
    if not known.same:
        raise problems.invalid(
            "This idempotency key was used for a request with other parameters. Choose another key, or send the same "
            "request.",
            "idempotency_key",
            "idempotency_key_reuse",
        )


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
