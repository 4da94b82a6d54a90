"""Checks of a line's single fields. Each refuses by raising RefusedError with OpenAI's code, param and message.

Nothing here repeats what a line holds, except its custom_id: prompts must reach neither a log nor a report.
"""

import re
from typing import Final, NoReturn

import msgspec

from batchmill.producer.lines import MAX_MODEL_BYTES, is_model_name

Members = dict[str, msgspec.Raw]

MAX_CUSTOM_ID_BYTES: Final = 512
MAX_DEPTH: Final = 128  # far below where Python's JSON readers give up, however deep the caller's own stack is

URLS: Final = ("/v1/chat/completions", "/chat/completions")  # the second is Azure's
TOKEN_LIMITS: Final = ("max_tokens", "max_completion_tokens")

_NULL = b"null"
_URL_TOKENS = frozenset(b'"%s"' % url.encode() for url in URLS)  # as nearly every line has them
_KINDS = {"{": "an object", "[": "an array", '"': "a string", "t": "a boolean", "f": "a boolean", "n": "null"}
_NOT_JSON = "This line is not parseable as valid JSON."
_NO_NUMBERS = (b"NaN", b"Infinity", b"nan", b"inf")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

# 15 digits: exact in every JSON reader, those that hold all numbers as doubles included
POSITIVE_INTEGER = re.compile(rb"[1-9][0-9]{0,14}")
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_INNERMOST = re.compile(rb"\[\]|\{\}")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# text without a \u escape that is half of a surrogate pair
_PAIRED = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?:[^dD]|[dD][0-7])|\\u[dD][89abAB]..\\u[dD][c-fC-F])*+",
    re.DOTALL,
)
_OFFSET = re.compile(r"\(byte ([0-9]+)\)")
_INDEX = re.compile(r"\$\[([0-9]+)\]")


class Message(msgspec.Struct):
    """All that is read of a message."""

    role: str


_MEMBERS = msgspec.json.Decoder(Members)
_STRING = msgspec.json.Decoder(str)
_MESSAGES = msgspec.json.Decoder(list[Message])


class RefusedError(Exception):
    """The line can't be used. Never leaves `forms`, which makes a BadLine of it."""

    def __init__(self, code: str, param: str | None, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.message = message


def refuse(param: str | None, message: str, code: str = "invalid_request") -> NoReturn:
    """Raise RefusedError."""
    raise RefusedError(code, param, message)


def missing(name: str) -> NoReturn:
    """Refuse for a member that OpenAI's batch form must have."""
    refuse(name, f"Missing required parameter: '{name}'.", "missing_required_parameter")


def text_of(line: bytes) -> str:
    """Return the line as text."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        hint = " The file looks like UTF-16; save it as UTF-8." if line.startswith(_UTF_16) else ""
        refuse(None, f"{_NOT_JSON} It is not UTF-8 at byte offset {error.start}.{hint}", "invalid_json_line")


def members_of(line: bytes) -> Members:
    """Return the members of the object that the line is; their values are checked to be JSON but not read.

    msgspec's reader skips a value as strictly as it reads one (NaN, control characters, lone surrogates, numbers
    like 01 are refused), except that it does not look at the UTF-8 of what it skips.
    """
    if not line.isascii():
        text_of(line)
    try:
        members = _MEMBERS.decode(line)
    except msgspec.ValidationError:
        refuse(None, f"Each line must be a JSON object, not {kind_of(line.strip())}.")
    except msgspec.DecodeError as error:
        refuse(None, f"{_NOT_JSON} {_explain(line, str(error))}", "invalid_json_line")
    except RecursionError:
        _refuse_depth()
    # brackets are at least as many as levels, and counting them is cheap
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _too_deep(line):
        _refuse_depth()
    return members


def absent(members: Members, name: str) -> bool:
    """Whether the member is missing; null counts as missing."""
    value = members.get(name)
    return value is None or (len(value) == len(_NULL) and bytes(value) == _NULL)


def custom_id_of(members: Members) -> str | None:
    """Return the line's id, None when it has none."""
    if absent(members, "custom_id"):
        return None
    raw = bytes(members["custom_id"])
    if not raw.startswith(b'"'):
        refuse("custom_id", f"custom_id must be a string, not {kind_of(raw)}.")
    custom_id = _STRING.decode(raw)
    size = len(custom_id.encode())
    if not 1 <= size <= MAX_CUSTOM_ID_BYTES:
        refuse("custom_id", f"custom_id must have 1 to {MAX_CUSTOM_ID_BYTES} bytes, not {size:,}.")
    return custom_id


def check_method(members: Members) -> None:
    """Only POST, in capital letters, as OpenAI has it."""
    raw = bytes(members["method"])
    if raw == b'"POST"':
        return
    method = _STRING.decode(raw) if raw.startswith(b'"') else ""
    if method == "POST":  # written with escapes
        return
    hint = " Write it in capital letters." if method.upper() == "POST" else ""
    refuse("method", f"Only the method POST is supported.{hint}", "invalid_method")


def check_url(members: Members) -> None:
    """Only chat completions."""
    raw = bytes(members["url"])
    if raw in _URL_TOKENS or (raw.startswith(b'"') and _STRING.decode(raw) in URLS):
        return
    refuse(
        "url",
        f"The URL provided for this request does not match the batch endpoint. It must be {URLS[0]}.",
        "invalid_url",
    )


def body_of(members: Members) -> tuple[bytes, Members]:
    """Return the body of a line in OpenAI's batch form: its bytes and its members."""
    raw = bytes(members["body"])
    if not raw.startswith(b"{"):
        refuse("body", f"Body must be a JSON object, not {kind_of(raw)}.")
    return raw, _MEMBERS.decode(raw)


def model_of(body: Members, default: str | None, prefix: str) -> str:
    """Return the model that the body names, or else the default."""
    param = f"{prefix}model"
    if absent(body, "model"):
        if default is None:
            refuse(param, "Model parameter is required. Name it in the line, or one for all lines with --model.")
        return default
    raw = bytes(body["model"])
    if not raw.startswith(b'"'):
        refuse(param, f"Model must be a string, not {kind_of(raw)}.")
    model = _STRING.decode(raw)
    if not model.strip():
        refuse(param, "Model must not be empty.")
    if len(model.encode()) > MAX_MODEL_BYTES:
        refuse(param, f"Model must have at most {MAX_MODEL_BYTES} bytes.")
    if not is_model_name(model):
        refuse(param, "Model must be the name of a model: without control characters, and none of our own words.")
    return model


def check_messages(body: Members, prefix: str) -> None:
    """An array of at least one object, each with a role; what a message says is the upstream's to judge."""
    param = f"{prefix}messages"
    if absent(body, "messages"):
        refuse(param, "Messages parameter is required.")
    raw = bytes(body["messages"])
    if not raw.startswith(b"["):
        refuse(param, f"Messages must be an array, not {kind_of(raw)}.")
    try:
        messages = _MESSAGES.decode(raw)
    except msgspec.ValidationError as error:
        found = _INDEX.search(str(error))
        place = f"{param}[{found[1]}]" if found else param
        refuse(place, "Each message must be an object with a string 'role'.")
    if not messages:
        refuse(param, "Messages must hold at least one message.")


def check_settings(body: Members, prefix: str) -> None:
    """Settings of the body that decide what a line may cost, and streaming, which a batch can't do."""
    if "stream" in body:
        stream = bytes(body["stream"])
        if stream == b"true":
            refuse(
                f"{prefix}stream",
                "Chat Completions: Streaming is not supported in the Batch API.",
                "streaming_unsupported",
            )
        if stream not in (b"false", _NULL):
            refuse(f"{prefix}stream", f"stream must be a boolean, not {kind_of(stream)}.")
    for name in TOKEN_LIMITS:
        if not absent(body, name) and not POSITIVE_INTEGER.fullmatch(body[name]):
            refuse(f"{prefix}{name}", f"{name} must be a positive integer.")


def prompt_of(members: Members) -> bytes:
    """Return the prompt of a line in the prompt form, as a JSON string."""
    raw = bytes(members["prompt"])
    if not raw.startswith(b'"'):
        refuse("prompt", f"prompt must be a string, not {kind_of(raw)}.")
    check_prompt(_STRING.decode(raw))
    return raw


def check_prompt(prompt: str) -> None:
    """An empty prompt is a slip in the data, and answers to it would cost money."""
    if not prompt.strip():
        refuse("prompt", "The prompt is empty.")


def kind_of(raw: bytes) -> str:
    """Return what a JSON value is, in words."""
    return _KINDS.get(raw[:1].decode(), "a number")


def _too_deep(line: bytes) -> bool:
    brackets = _STRINGS.sub(b"", line).translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):  # each pass takes the innermost level away
        brackets = _INNERMOST.sub(b"", brackets)
        if not brackets:
            return False
    return True


def _refuse_depth() -> NoReturn:
    refuse(None, f"The line is nested deeper than {MAX_DEPTH} levels.")


def _explain(line: bytes, problem: str) -> str:
    """Say in words what msgspec found; its messages hold an offset and no content."""
    if not _PAIRED.fullmatch(line):
        return "A \\u escape is half of a surrogate pair."
    found = _OFFSET.search(problem)
    if not found:
        return "It ends before its object does; one line must hold one whole object."
    offset = int(found[1])
    place = f"at byte offset {offset}"
    if line[offset:].startswith(_NO_NUMBERS):
        return f"JSON has no NaN and no Infinity ({place})."
    if line[offset : offset + 1] == b"'":
        return f"JSON strings take double quotes ({place})."
    what = problem[: found.start()].removeprefix("JSON is malformed: ").strip()
    return f"{what[:1].upper()}{what[1:]} {place}."
