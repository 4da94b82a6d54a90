"""The values of the input: how to read it, on what conditions to run it, a good line, a bad line."""

import re
from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from batchmill.config.policy import AUTO
from batchmill.config.strategy import Strategy
from batchmill.store.model import Fare, Priority

Form = Literal["auto", "jsonl", "text"]

MAX_LINES = 1_000_000
MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_MODEL_BYTES = 256
MAX_FALLBACKS = 8

_UNFIT = re.compile(r"[\x00-\x1f\x7f]|\A(?:!|op:|account\Z|refused\Z)")

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_MODEL_BYTES)]
Words = Annotated[tuple[Word, ...], msgspec.Meta(max_length=64)]


def is_model_name(name: str) -> bool:
    """Whether a model can be called so. Some names would pass for something else where ours are beside others': for a
    line of the gate's books, a word to workers (`!` and a batch), a scope of pauses.
    """
    return _UNFIT.search(name) is None


def check_fallbacks(models: tuple[str, ...]) -> None:
    """Raise ValueError for what can't be the fallbacks of a line or a batch."""
    if len(models) > MAX_FALLBACKS:
        raise ValueError(f"at most {MAX_FALLBACKS} fallback models can be named, not {len(models)}")
    for model in models:
        if not model.strip() or len(model.encode()) > MAX_MODEL_BYTES:
            raise ValueError(f"a fallback model is a model's id or an alias of 1 to {MAX_MODEL_BYTES} bytes")
        if not is_model_name(model):
            raise ValueError("a fallback model is a model's id or an alias; no model is named so")
        if model == AUTO:
            raise ValueError(f"'{AUTO}' can't be a fallback; let the line's model be '{AUTO}'")


class Requirements(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a line requires of the model that answers it. Prices in USD for a million tokens, context in tokens."""

    needs: Words = ()  # of capabilities.CAPABILITIES
    min_context: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_input_price: Decimal | None = None
    max_output_price: Decimal | None = None
    providers: Words = ()  # nobody else may answer
    exclude_models: Words = ()  # ids or patterns


class Wish(msgspec.Struct, frozen=True):
    """What a line, or else its batch, says about who may answer it beside its model.

    `members` are the members of the body that say so (JSON without braces): they are not sent.
    """

    fallbacks: tuple[str, ...] = ()
    strategy: Strategy | None = None
    requirements: Requirements | None = None
    members: bytes = b""


class InputOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a file of lines is read. Raises ValueError for a value that could never be meant."""

    form: Form = "auto"  # auto is read as jsonl; `form_of` tells it from a file's name
    model: str | None = None  # for lines that name no model
    max_tokens: int | None = None  # for lines that set neither max_tokens nor max_completion_tokens
    wish: Wish | None = None  # for lines that name no fallback_models, or no strategy
    limit: int | None = None  # only so many lines from the front, good or bad; blank ones don't count
    max_lines: int = MAX_LINES
    max_line_bytes: int = MAX_LINE_BYTES  # without the line's end
    speaks_openrouter: bool = True  # so that `models` and `provider` are what OpenRouter means by them

    def __post_init__(self) -> None:
        for name in ("max_tokens", "limit", "max_lines", "max_line_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.model is not None and not self.model.strip():
            raise ValueError("model must not be empty")


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """Whose work a batch is, whose turn it is, and what it may cost. No part of its content."""

    project: str = "default"
    priority: Priority = Priority.NORMAL
    max_cost: int | None = None  # nano-dollars
    tags: tuple[str, ...] = ()  # "key=value", for reports; sorted
    cache: bool = False  # lines may be answered from earlier results
    key: str | None = None  # id of the API key that hands it over


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line that can be sent. `body` is the JSON object for POST /chat/completions, `model` as it stands there."""

    number: int  # of the physical line, from 1; blank lines count
    custom_id: str
    model: str
    body: bytes
    wish: Wish | None = None
    live: bool = False  # its tokens are to be seen while they come
    models: tuple[str, ...] = ()  # OpenRouter's own fallbacks: any of them may answer, too


class Priced(msgspec.Struct, frozen=True):
    """A line that can be paid for: the body with a limit for its answer, its bound (nano-dollars) and its tokens.

    `model` is the lane that it goes to. Lines of one `group` have the same terms, and may share a shard. A routed line
    has `fares` in place of bound and tokens, one for each road of its route.
    """

    custom_id: str
    model: str
    body: bytes
    bound: int
    tokens: int
    group: str
    fares: tuple[Fare, ...] = ()
    live: bool = False


class BadLine(msgspec.Struct, frozen=True):
    """Why a line can't be used, in OpenAI's words for a batch's `errors.data[]`; never holds the line's content.

    `number` is None when the whole file is meant: then nothing of it should run.
    """

    number: int | None
    code: str
    param: str | None
    message: str
    custom_id: str | None = None  # the line's own, when it has one that can be read
