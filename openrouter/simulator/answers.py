"""What a simulated model answers, how many tokens that is, and what it costs: a function of (seed, model, body).

Tokens are counted the cheap way: a prompt's are a quarter of its UTF-8 bytes and an overhead for each message (never
more than one a byte, overhead aside), a completion's are its words.
"""

import math
import random
from datetime import datetime
from decimal import Decimal

import msgspec

from batchmill.openrouter.money import to_nano, to_usd
from batchmill.openrouter.prices import Bill, Billable, bill
from batchmill.openrouter.simulator.catalogue import Endpoint, Model
from batchmill.openrouter.simulator.draws import Draws
from batchmill.openrouter.simulator.latency import quantile
from batchmill.openrouter.simulator.options import SimulatorOptions
from batchmill.openrouter.simulator.wire import CompletionRequest, Tool

BYTES_PER_TOKEN = 4
MESSAGE_TOKENS = 4  # of the chat template, for each message
REPLY_TOKENS = 3  # that open the assistant's turn
IMAGE_TOKENS = 258

_SIGMA = 0.6  # of the lengths' lognormal distribution
_LONGEST = 8192  # words of an answer that nobody cut
_CACHE_MINIMUM = 1024  # tokens; shorter prompts are not cached
_CACHE_STEP = 128

_LENGTH, _PLACE, _REASONING, _CACHED = range(4)  # slots of a body's draws; the endpoint's is the next

_POOL = (
    "a about above across after again all also always an and another any are as at away back be because been before "
    "began below between both but by came can change close come could country cover cross day different do does done "
    "down draw during each earth end enough even every example far father feet few find first follow food form found "
    "four from full gave get give go good great ground group grow had half hand hard has have he head hear help her "
    "here high him his home hot house how idea if important in interest into is it just keep kind know land large "
    "last late learn leave left less letter life light like line list little live long look made make man many map "
    "may me mean men might mile miss more most mother mountain move much music must name near need never new next "
    "night no north not note nothing now number of off often oil old on once one only open or order other our out "
    "over own page paper part pattern people place plain plan plant play point port press problem produce question"
)

_FINISH_WORDS = {
    "Anthropic": {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"},
    "Google": {"stop": "STOP", "length": "MAX_TOKENS"},
}


class Plan(msgspec.Struct, frozen=True):
    """What will be answered: the visible words, and everything that is billed for."""

    model: Model
    endpoint: Endpoint
    words: list[str]
    usage: Billable
    finish_reason: str
    tool: str | None = None  # the function that is called; the words are its arguments then

    @property
    def text(self) -> str:
        """The whole answer."""
        return " ".join(self.words)

    @property
    def native_finish_reason(self) -> str:
        """The finish reason in the provider's own words."""
        return _FINISH_WORDS.get(self.endpoint.provider, {}).get(self.finish_reason, self.finish_reason)

    def broken_off(self, words: int) -> Billable:
        """Return what is billed when generation stopped after this many visible words: nothing when after none."""
        if words == 0:
            return Billable()
        completion = self.usage.reasoning_tokens + words
        return msgspec.structs.replace(self.usage, completion_tokens=completion)


class Charge(msgspec.Struct, frozen=True):
    """A bill in nano-dollars, each item rounded up."""

    total: int
    prompt: int
    completion: int

    @property
    def usd(self) -> tuple[Decimal, Decimal, Decimal]:
        """The total, the prompt's and the completion's part in USD."""
        return to_usd(self.total), to_usd(self.prompt), to_usd(self.completion)


NO_CHARGE = Charge(0, 0, 0)


def charge(endpoint: Endpoint, usage: Billable, at: datetime) -> Charge:
    """Bill a call at an endpoint's price, which must be known."""
    billed: Bill | None = bill(endpoint.price, usage, at)
    if billed is None:
        raise ValueError(f"{endpoint.tag} has no usable price")
    return Charge(to_nano(billed.total), to_nano(billed.prompt), to_nano(billed.completion))


def prompt_tokens(request: CompletionRequest) -> tuple[int, int]:
    """Return the prompt's tokens and how many images are in it."""
    size = len(request.tools)
    images = 0
    for message in request.messages:
        content = message.content
        if isinstance(content, str):
            size += _bytes(content)
        elif content is not None:
            for part in content:
                if part.type == "image_url":
                    images += 1
                size += _bytes(part.text)
    overhead = MESSAGE_TOKENS * len(request.messages) + REPLY_TOKENS
    return size // BYTES_PER_TOKEN + overhead + images * IMAGE_TOKENS, images


class Answerer:
    """Writes the answers. One pool of words, so that an answer costs a slice."""

    def __init__(self, options: SimulatorOptions) -> None:
        self._options = options
        pool = random.Random(options.seed).choices(_POOL.split(), k=_LONGEST)  # noqa: S311 - it only chooses words
        self._words = pool + pool
        self._median = options.mean_output_tokens * math.exp(-_SIGMA * _SIGMA / 2)

    def plan(self, request: CompletionRequest, model: Model, endpoint: Endpoint, draws: Draws) -> Plan:
        """Decide the answer. `draws` must stem from (seed, model, body)."""
        prompt, images = prompt_tokens(request)
        natural = min(_LONGEST, max(1, round(self._median * math.exp(_SIGMA * quantile(draws.fraction(_LENGTH))))))
        reasoning = round(natural * draws.fraction(_REASONING)) if _thinks(model, request) else 0
        limit = model.max_completion_tokens if request.output_limit is None else request.output_limit
        finish_reason = "stop"
        visible = natural
        if limit is not None and reasoning + visible > limit:
            finish_reason = "length"
            reasoning = min(reasoning, limit)
            visible = limit - reasoning
        start = int(draws.fraction(_PLACE) * _LONGEST)
        words = self._words[start : start + visible]
        tool = _demanded_tool(request)
        if tool is not None or (request.response_format and request.response_format.type.startswith("json")):
            words = _as_json(words, finish_reason)
        cached, written = self._cache_use(prompt, model, endpoint, draws)
        usage = Billable(
            prompt_tokens=prompt,
            completion_tokens=visible + reasoning,
            cached_tokens=cached,
            cache_write_tokens=written,
            reasoning_tokens=reasoning,
            images=images,
        )
        if tool is not None and finish_reason == "stop":
            finish_reason = "tool_calls"
        return Plan(model, endpoint, words, usage, finish_reason, tool)

    def _cache_use(self, prompt: int, model: Model, endpoint: Endpoint, draws: Draws) -> tuple[int, int]:
        """Return the cached and the written tokens of a prompt; only long ones are cached, in whole steps."""
        if prompt < _CACHE_MINIMUM:
            return 0, 0
        cacheable = prompt // _CACHE_STEP * _CACHE_STEP
        if endpoint.price.base.input_cache_read and draws.fraction(_CACHED) < self._options.cached_share:
            return cacheable, 0
        return (0, cacheable) if model.writes_cache else (0, 0)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _demanded_tool(request: CompletionRequest) -> str | None:
    """Return the function that must be called: the one named, or the first; None when the model may choose to speak."""
    choice = request.tool_choice
    if isinstance(choice, Tool):
        return choice.function.name or None
    if choice != "required" or not request.tools:
        return None
    try:
        tools = msgspec.json.decode(request.tools, type=list[Tool])
    except msgspec.DecodeError:
        return None
    return next((tool.function.name for tool in tools if tool.function.name), None)


def _thinks(model: Model, request: CompletionRequest) -> bool:
    if not model.reasons:
        return False
    wishes = request.reasoning
    effort = (wishes.effort if wishes else None) or request.reasoning_effort
    if effort == "none" or (wishes and wishes.enabled is False):
        return False
    return model.always_reasons or effort is not None or bool(wishes and wishes.enabled)


def _as_json(words: list[str], finish_reason: str) -> list[str]:
    """Wrap the words into an object; an answer that was cut off lacks its end, as a real one does."""
    if not words:
        return words
    framed = ['{"answer":"' + words[0], *words[1:]]
    if finish_reason == "stop":
        framed[-1] += '"}'
    return framed
