"""The text of an answer, out of the upstream's JSON."""

import msgspec


class _Part(msgspec.Struct):
    text: str | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None


_decode_completion = msgspec.json.Decoder(_Completion).decode


def text_of(response: bytes) -> str | None:
    """Return the text of the first choice; None for none (tool calls only), and for an answer of another shape."""
    try:
        choices = _decode_completion(response).choices
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    message = choices[0].message if choices else None
    content = message.content if message else None
    if isinstance(content, list):
        return "".join(part.text or "" for part in content)
    return content
