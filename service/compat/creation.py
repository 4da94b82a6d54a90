"""The body of POST /v1/batches: OpenAI's five fields, ours beside them, and every way in which they can be wrong."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from batchmill.config.settings import Settings
from batchmill.config.strategy import Strategy
from batchmill.producer.conditions import conditions_of, wish_of_batch
from batchmill.producer.errors import InputError
from batchmill.service import problems
from batchmill.service.compat.batch_objects import ENDPOINT, Metadata
from batchmill.service.identity import Identity
from batchmill.service.problems import ApiError
from batchmill.store.handed import Handed, window_seconds
from batchmill.store.intakes import Asked
from batchmill.store.model import Priority
from batchmill.webhooks.addresses import AddressError, check_url

_MOST_PAIRS = 16
_LONGEST_KEY = 64
_LONGEST_VALUE = 512
_KINDS: dict[type, str] = {
    bool: "a boolean", int: "an integer", float: "a decimal", list: "an array", dict: "an object", type(None): "null",
}  # fmt: skip

Endpoint = Annotated[str, msgspec.Meta(extra_json_schema={"enum": [ENDPOINT]})]
Window = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^[1-9][0-9]{0,3}[hd]$", "examples": ["24h", "7d"]})]


class OutputExpiry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long output files are kept, from the moment they are made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, msgspec.Meta(ge=3600, le=2_592_000)]


class CreateBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch to be created. What OpenAI does not know goes into the client's `extra_body`.

    `max_cost_usd`: a budget of the batch's own. `on_invalid`: "fail" runs nothing when any line is wrong, "skip" the
    others. `completion_window`: "1h" to "30d". `cache`: lines may be answered from earlier results.
    """

    input_file_id: str
    endpoint: Endpoint
    completion_window: Window
    metadata: Metadata | None = None
    output_expires_after: OutputExpiry | None = None
    max_cost_usd: Decimal | None = None
    priority: Priority = Priority.NORMAL
    fallback_models: tuple[str, ...] | None = None
    strategy: Strategy | None = None
    on_invalid: Literal["fail", "skip"] = "fail"
    cache: bool | None = None
    webhook_url: str | None = None
    tags: Metadata | None = None
    idempotency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None


def asked_of(body: CreateBatch, identity: Identity, settings: Settings, now: int) -> Asked:
    """Return what a body asks for. `now` in unix seconds. Raises ApiError, which names the field that is wrong."""
    if body.endpoint != ENDPOINT:
        raise _value("endpoint", f"'{body.endpoint}'. Supported values are: '{ENDPOINT}'.")
    check_strings(body.metadata or {}, "metadata")
    check_strings(body.tags or {}, "tags")
    cache = settings.cache.enabled if body.cache is None else body.cache
    try:
        conditions = conditions_of(body.max_cost_usd, body.priority, identity.home, body.tags, cache=cache)
    except InputError as error:
        raise _value("max_cost_usd" if "tag" not in str(error) else "tags", f"{error}.") from error
    try:
        wish = wish_of_batch(body.fallback_models or (), body.strategy)
    except InputError as error:
        raise _value("fallback_models", f"{error}.") from error
    _check_webhook(body.webhook_url, settings)
    expiry = body.output_expires_after
    handed = Handed(
        input_file_id=body.input_file_id,
        endpoint=body.endpoint,
        completion_window=body.completion_window,
        metadata=body.metadata,
        created_at=now,
        output_seconds=expiry.seconds if expiry else None,
        webhook_url=body.webhook_url,
        key_id=identity.key_id,
    )
    return Asked(
        handed=handed,
        expires_at=now + _window(body.completion_window),
        project=conditions.project,
        priority=conditions.priority,
        max_cost=conditions.max_cost,
        fallbacks=wish.fallbacks if wish else (),
        strategy=wish.strategy if wish else None,
        tags=conditions.tags,
        cache=conditions.cache,
        skip_invalid=body.on_invalid == "skip",
        any_project=identity.project is None,
    )


def _check_webhook(url: str | None, settings: Settings) -> None:
    if url is None:
        return
    try:
        check_url(url, private=settings.service.private_webhooks)
    except AddressError as error:
        raise _value("webhook_url", f"{error}.") from error


def _window(text: str) -> int:
    try:
        return window_seconds(text)
    except ValueError:
        what = f"'{text}'. Supported values are: '24h', and from '1h' to '30d'."
        raise _value("completion_window", what) from None


def check_strings(pairs: Mapping[str, Any], name: str) -> None:
    """Raise ApiError for pairs that are too many, too long or no strings, in OpenAI's words for `metadata`."""
    if len(pairs) > _MOST_PAIRS:
        raise problems.invalid(
            f"Invalid '{name}': too many properties. Expected an object with at most {_MOST_PAIRS} properties, "
            f"but got an object with {len(pairs)} properties instead.",
            name,
            "object_above_max_properties",
        )
    for key, value in pairs.items():
        if len(key) > _LONGEST_KEY:
            raise problems.invalid(
                f"Invalid '{name}': property name too long. Expected a maximum length of {_LONGEST_KEY}, "
                f"but got one of length {len(key)} instead.",
                name,
                "string_above_max_length",
            )
        place = f"{name}.{key}"
        if not isinstance(value, str):
            kind = _KINDS.get(type(value), "another type")
            raise problems.invalid(
                f"Invalid type for '{place}': expected a string, but got {kind} instead.", place, "invalid_type"
            )
        if len(value) > _LONGEST_VALUE:
            raise problems.invalid(
                f"Invalid '{place}': string too long. Expected a string with maximum length {_LONGEST_VALUE}, "
                f"but got a string with length {len(value)} instead.",
                place,
                "string_above_max_length",
            )


def _value(param: str, what: str) -> ApiError:
    """Return the error of a field with a value that it can't have."""
    begin = "Invalid value: " if what.startswith("'") else f"Invalid value for '{param}': "
    return problems.invalid(begin + what, param, "invalid_value")
