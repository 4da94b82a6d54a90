"""What a line needs of the model that answers it, read off its body. Pure, cheap and tolerant.

The words are those of `capabilities`. A part of a message says by its type what it is: `image_url`, `input_audio`.
"""

from decimal import Decimal
from typing import Final

import msgspec

from batchmill.config.policy import Patterns
from batchmill.openrouter.bounds import TEMPLATE_TOKENS
from batchmill.openrouter.wire import UNREADABLE

BYTES_PER_TOKEN: Final = 4  # of English text, about; what a line costs at most is counted otherwise, see `bounds`
IMAGE_TOKENS: Final = 1000  # of one image or other part that is no text, about
LIKELY_OUTPUT: Final = 300  # tokens of an answer, where nobody knows better

_STEP = 8  # sizes are rounded up by an eighth at most
_BY_PART = (("image", "vision"), ("audio", "audio"), ("video", "video"), ("file", "files"), ("document", "files"))
_BY_OUTPUT = {"image": "image_output", "audio": "audio_output"}
_BY_FORMAT = {"json_schema": "structured_outputs", "json_object": "json_mode"}
_NO_EFFORT = "none"


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a model must be able to do for a line. Sizes in tokens, prices in USD for a million of them.

    From `min_context` on it is what the line requires in so many words (`requirements`), no matter what is in it.
    """

    prompt: int  # likely
    worst: int  # at most, as far as text goes: a token has a byte
    output: int | None = None  # the line's own limit for one answer
    answers: int = 1
    capabilities: frozenset[str] = frozenset()
    thoughtless: bool = False  # thinking is switched off
    min_context: int | None = None
    max_input_price: Decimal | None = None
    max_output_price: Decimal | None = None
    exclude_models: Patterns = ()

    @property
    def likely_output(self) -> int:
        """Tokens that are likely to come back, over all answers."""
        return min(self.output or LIKELY_OUTPUT, LIKELY_OUTPUT) * self.answers


class _Message(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw()


class _Part(msgspec.Struct):
    type: str = "text"


class _Typed(msgspec.Struct):
    type: str | None = None


class _Reasoning(msgspec.Struct):
    enabled: bool | None = None
    effort: str | None = None
    max_tokens: int | None = None


class _Body(msgspec.Struct):
    messages: list[_Message] = []
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    tools: msgspec.Raw = msgspec.Raw()
    functions: msgspec.Raw = msgspec.Raw()
    response_format: _Typed | None = None
    reasoning: _Reasoning | None = None
    reasoning_effort: str | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None


_decode = msgspec.json.Decoder(_Body).decode
_decode_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_part = msgspec.json.Decoder(_Part).decode
_NOTHING = (b"", b"null", b"[]")


def needs_of(body: bytes) -> Needs:
    """Return what a body, a JSON object, needs. What can't be read needs nothing: the upstream will say so."""
    size = len(body)
    try:
        asked = _decode(body)
        words, foreign, count = _parts_of(asked.messages)
        words |= _settings_of(asked)
    except UNREADABLE:
        return Needs(prompt=size // BYTES_PER_TOKEN, worst=size + TEMPLATE_TOKENS)
    text = size - foreign
    return Needs(
        prompt=text // BYTES_PER_TOKEN + count * IMAGE_TOKENS,
        worst=text + count * IMAGE_TOKENS + TEMPLATE_TOKENS,
        output=max(asked.max_tokens or 0, asked.max_completion_tokens or 0) or None,
        answers=max(asked.n or 1, 1),
        capabilities=frozenset(words),
        thoughtless=_is_thoughtless(asked),
    )


def rounded(needs: Needs) -> Needs:
    """Return the needs with sizes rounded up a little, so that similar lines need the same and share an answer."""
    return msgspec.structs.replace(
        needs,
        prompt=_up(needs.prompt),
        worst=_up(needs.worst),
        output=None if needs.output is None else _up(needs.output),
    )


def _parts_of(messages: list[_Message]) -> tuple[set[str], int, int]:
    """Return what the parts that are no text need, how many bytes they have, and how many they are."""
    words: set[str] = set()
    foreign = count = 0
    for message in messages:
        if not bytes(message.content).startswith(b"["):
            continue
        for raw in _decode_parts(message.content):
            part = _decode_part(raw) if bytes(raw).startswith(b"{") else _Part()
            found = [word for kind, word in _BY_PART if kind in part.type]
            if found:
                words.add(found[0])
                foreign += len(bytes(raw))
                count += 1
    return words, foreign, count


def _settings_of(asked: _Body) -> set[str]:
    words: set[str] = set()
    if bytes(asked.tools) not in _NOTHING or bytes(asked.functions) not in _NOTHING:
        words.add("tools")
    if asked.response_format is not None and asked.response_format.type in _BY_FORMAT:
        words.add(_BY_FORMAT[asked.response_format.type])
    if asked.logprobs:
        words.add("logprobs")
    if _asks_to_think(asked):
        words.add("reasoning")
    words.update(_BY_OUTPUT[kind] for kind in asked.modalities or () if kind in _BY_OUTPUT)
    return words


def _asks_to_think(asked: _Body) -> bool:
    if asked.reasoning_effort not in (None, _NO_EFFORT):
        return True
    how = asked.reasoning
    if how is None or how.enabled is False:
        return False
    return bool(how.enabled or how.max_tokens or how.effort not in (None, _NO_EFFORT))


def _is_thoughtless(asked: _Body) -> bool:
    how = asked.reasoning
    return asked.reasoning_effort == _NO_EFFORT or (
        how is not None and (how.enabled is False or how.effort == _NO_EFFORT)
    )


def _up(size: int) -> int:
    """Return the next size of those that are an eighth apart."""
    step = max(1 << max(size.bit_length() - 1, 0), _STEP) // _STEP
    return -(-size // step) * step
