"""One line becomes a request: three JSON forms, and plain text.

    {"custom_id", "method": "POST", "url": "/v1/chat/completions", "body": {...}}    OpenAI's batch form
    {"model", "messages", ...}                                                       a bare chat body
    {"prompt": "...", ...}                                                           a bare body of one user message

The last two may carry a `custom_id`, which is not sent. An object with `method`, `url` or `body` is in the first form.
A line of our own errors file is in the first form too: its other keys (`id`, `response`, `error`) are ignored.

The body is sent as it was written, byte for byte; what must be added goes to its end. Only where a member must go
is the object put together anew, of values that are still the bytes of the line.

A key that comes twice in one object: the last counts, for msgspec as for the JSON readers of JavaScript, Python and
Go; so the model and the limits that are read here are those that the upstream reads.
"""

import msgspec

from batchmill.producer.fields import (
    TOKEN_LIMITS,
    Members,
    RefusedError,
    absent,
    body_of,
    check_messages,
    check_method,
    check_prompt,
    check_settings,
    check_url,
    custom_id_of,
    members_of,
    missing,
    model_of,
    prompt_of,
    refuse,
    text_of,
)
from batchmill.producer.identities import Identities
from batchmill.producer.lines import BadLine, InputOptions, Request, Wish
from batchmill.producer.own_members import OWN, batch_wish, check_openrouter, is_live, wish_of
from batchmill.producer.usual import usual_request

_BATCH_FORM = ("method", "url", "body")
_encode = msgspec.json.Encoder().encode


def parse_json_line(line: bytes, number: int, options: InputOptions, seen: Identities) -> Request | BadLine:
    """Return the request of a line of JSON in any of the three forms, or why there is none.

    An id belongs to the first line that bears it, a bad line too, so that results and errors are told apart by id.
    """
    usual = usual_request(line, number, options, seen)
    return usual if usual is not None else _closer_look(line, number, options, seen)


def _closer_look(line: bytes, number: int, options: InputOptions, seen: Identities) -> Request | BadLine:
    custom_id: str | None = None
    try:
        members = members_of(line)
        custom_id = custom_id_of(members)
        _refuse_result(members)
        in_batch_form = not members.keys().isdisjoint(_BATCH_FORM)
        if custom_id is None and in_batch_form:
            missing("custom_id")
        known_as = _claim(custom_id or f"line-{number}", seen)
        found = _from_batch_form(members, options) if in_batch_form else _from_bare_form(line, members, options)
    except RefusedError as refused:
        return BadLine(number, refused.code, refused.param, refused.message, custom_id)
    return Request(number, known_as, found.model, found.body, found.wish, found.live)


def request_of(custom_id: str, body: bytes, number: int, options: InputOptions) -> Request | BadLine:
    """Return the request of a body that was handed in before."""
    try:
        members = members_of(body)
        found = _read(body, members, options, "")
    except RefusedError as refused:
        return BadLine(number, refused.code, refused.param, refused.message, custom_id)
    return Request(number, custom_id, found.model, found.body, found.wish, found.live)


def parse_text_line(line: bytes, number: int, options: InputOptions) -> Request | BadLine:
    """Return the request of a line that is a prompt as it stands. `options.model` must be set."""
    try:
        prompt = text_of(line)
        check_prompt(prompt)
    except RefusedError as refused:
        return BadLine(number, refused.code, refused.param, refused.message)
    model = options.model or ""
    parts = [b'"model":' + _encode(model), _user_message(_encode(prompt))]
    if options.max_tokens is not None:
        parts.append(_max_tokens(options.max_tokens))
    return Request(number, f"line-{number}", model, _object(parts), batch_wish(options))


def _refuse_result(members: Members) -> None:
    """Tell a line of a results or errors file that holds no request from a request with a slip in it."""
    if "error" not in members and "response" not in members:
        return
    if any(not absent(members, name) for name in ("body", "messages", "prompt")):
        return
    if not absent(members, "error") and absent(members, "response"):
        refuse("body", "This line of an errors file never was a valid request: it has an 'error' and no 'body'.")
    refuse("body", "This line is a result without the request that it answers: it has no 'body'.")


def _claim(custom_id: str, seen: Identities) -> str:
    if not seen.add(custom_id):
        refuse(
            "custom_id",
            f"The custom_id {custom_id!r} for this request is a duplicate of another request. "
            "The custom_id parameter must be unique for each request in a batch.",
            "duplicate_custom_id",
        )
    return custom_id


class _Found(msgspec.Struct, frozen=True):
    """What was read: the body without what is not sent, and what that said."""

    model: str
    body: bytes
    wish: Wish | None
    live: bool


def _from_batch_form(members: Members, options: InputOptions) -> _Found:
    for name in _BATCH_FORM:
        if absent(members, name):
            missing(name)
    check_method(members)
    check_url(members)
    written, body = body_of(members)
    return _read(written, body, options, "body.")


def _from_bare_form(line: bytes, members: Members, options: InputOptions) -> _Found:
    unsent = {"custom_id"} & members.keys()
    messages = None
    if "prompt" in members:
        if "messages" in members:
            refuse("prompt", "Give either 'prompt' or 'messages', not both.")
        messages = _user_message(prompt_of(members))
        unsent.add("prompt")
    return _read(line.strip(), members, options, "", unsent, messages)


def _read(
    written: bytes,
    body: Members,
    options: InputOptions,
    prefix: str,
    unsent: set[str] | None = None,
    messages: bytes | None = None,
) -> _Found:
    model = model_of(body, options.model, prefix)
    if messages is None:
        check_messages(body, prefix)
    check_settings(body, prefix)
    if options.speaks_openrouter:
        check_openrouter(body, prefix)
    wish, live = wish_of(body, prefix, options), is_live(body, prefix)
    gone = (unsent or set()) | (OWN & body.keys())
    return _Found(model, _completed(written, body, model, options, gone, messages), wish, live)


def _completed(
    written: bytes,
    body: Members,
    model: str,
    options: InputOptions,
    gone: set[str],
    messages: bytes | None,
) -> bytes:
    """Return the body with what the options add and without what is not sent."""
    parts = [messages] if messages else []
    if absent(body, "model"):
        parts.append(b'"model":' + _encode(model))
        gone = gone | ({"model"} & body.keys())  # a null that the upstream might read instead
    if options.max_tokens is not None and all(absent(body, name) for name in TOKEN_LIMITS):
        parts.append(_max_tokens(options.max_tokens))
        gone = gone | (set(TOKEN_LIMITS) & body.keys())
    if gone:
        kept = [_encode(name) + b":" + bytes(value) for name, value in body.items() if name not in gone]
        return _object(kept + parts)
    return written[:-1] + b"," + b",".join(parts) + b"}" if parts else written


def _object(parts: list[bytes]) -> bytes:
    return b"{" + b",".join(parts) + b"}"


def _user_message(prompt: bytes) -> bytes:
    return b'"messages":[{"role":"user","content":' + prompt + b"}]"


def _max_tokens(limit: int) -> bytes:
    return b'"max_tokens":%d' % limit
