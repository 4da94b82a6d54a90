"""Completion answers as bytes: whole bodies and the events of a stream."""

from typing import Any

from batchmill.openrouter.prices import Billable
from batchmill.openrouter.simulator.answers import NO_CHARGE, Charge, Plan
from batchmill.openrouter.simulator.wire import (
    AnswerMessage,
    ChatCompletion,
    Choice,
    Chunk,
    ChunkChoice,
    CompletionTokensDetails,
    CostDetails,
    Delta,
    FunctionCall,
    PromptTokensDetails,
    ToolCall,
    WireUsage,
    encoder,
)

KEEP_ALIVE = b": OPENROUTER PROCESSING\n\n"
DONE = b"data: [DONE]\n\n"
WORDS_PER_EVENT = 8

_CONTENT = b'"content":'


def whole_answer(plan: Plan, generation_id: str, created: int, charge: Charge) -> bytes:
    """Return the body of a completion that went well."""
    return _body(plan, generation_id, created, plan.text, wire_usage(plan.usage, charge))


def broken_answer(plan: Plan, generation_id: str, created: int, error: dict[str, Any]) -> bytes:
    """Return the body of a completion that broke off half-way: partial content beside an error, not billed."""
    words = len(plan.words) // 2
    usage = wire_usage(plan.broken_off(words), NO_CHARGE)
    return _body(plan, generation_id, created, " ".join(plan.words[:words]), usage, error)


class Stream:
    """The events of one streamed completion."""

    def __init__(self, plan: Plan, generation_id: str, created: int) -> None:
        self._plan = plan
        self._id = generation_id
        self._created = created

    def content(self) -> list[bytes]:
        """Return one event for every few words, then the one that only says why it ended."""
        words = self._plan.words
        if self._plan.tool is not None:
            return self._tool_call(words, self._plan.tool)
        pieces = [" ".join(words[at : at + WORDS_PER_EVENT]) for at in range(0, len(words), WORDS_PER_EVENT)]
        # only the text differs, so the rest is encoded once
        before, _, after = self._event("").partition(_CONTENT + b'""')
        before += _CONTENT
        events = [before + encoder.encode(piece if at == 0 else " " + piece) + after for at, piece in enumerate(pieces)]
        events.append(self._event("", finished=True))
        return events

    def _tool_call(self, words: list[str], tool: str) -> list[bytes]:
        """Return one event for every few words of the arguments, of which the first names the function, and the end."""
        pieces = [" ".join(words[at : at + WORDS_PER_EVENT]) for at in range(0, len(words), WORDS_PER_EVENT)] or [""]
        calls = [ToolCall(FunctionCall(pieces[0], tool), _call_id(self._id), "function", 0)]
        calls += [ToolCall(FunctionCall(" " + piece), index=0) for piece in pieces[1:]]
        events = [self._encode(self._chunk(ChunkChoice(0, Delta("assistant", None, [call])))) for call in calls]
        return [*events, self._event("", finished=True)]

    def last(self, charge: Charge) -> bytes:
        """Return the event with the usage, which repeats the finish reason, and the end mark."""
        return self._event("", finished=True, usage=wire_usage(self._plan.usage, charge)) + DONE

    def error(self, error: dict[str, Any]) -> bytes:
        """Return the event that ends a broken stream."""
        choice = ChunkChoice(0, Delta("assistant", ""), "error", "error")
        chunk = self._chunk(choice)
        chunk.error = error
        return self._encode(chunk)

    def _event(self, text: str, *, finished: bool = False, usage: WireUsage | None = None) -> bytes:
        plan = self._plan
        ending = (plan.finish_reason, plan.native_finish_reason) if finished else (None, None)
        chunk = self._chunk(ChunkChoice(0, Delta("assistant", text), *ending))
        if usage is not None:
            chunk.usage = usage
        return self._encode(chunk)

    @staticmethod
    def _encode(chunk: Chunk) -> bytes:
        return b"data: " + encoder.encode(chunk) + b"\n\n"

    def _chunk(self, choice: ChunkChoice) -> Chunk:
        plan = self._plan
        return Chunk(self._id, "chat.completion.chunk", self._created, plan.model.id, plan.endpoint.provider, [choice])


def wire_usage(usage: Billable, charge: Charge) -> WireUsage:
    """Return the `usage` object of a call."""
    total, prompt, completion = charge.usd
    return WireUsage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        total,
        False,
        PromptTokensDetails(usage.cached_tokens, usage.cache_write_tokens),
        CompletionTokensDetails(usage.reasoning_tokens),
        CostDetails(total, prompt, completion),
    )


def _call_id(generation_id: str) -> str:
    return f"call_{generation_id.rpartition('-')[2]}"


def _body(
    plan: Plan, generation_id: str, created: int, text: str, usage: WireUsage, error: dict[str, Any] | None = None
) -> bytes:
    reasoning = "Let me think about that." if usage.completion_tokens_details.reasoning_tokens else None
    message = AnswerMessage("assistant", text, None, reasoning)
    if plan.tool is not None:
        message.content = None
        message.tool_calls = [ToolCall(FunctionCall(text, plan.tool), _call_id(generation_id), "function")]
    choice = Choice(0, None, plan.finish_reason, plan.native_finish_reason, message)
    if error is not None:
        choice.finish_reason = choice.native_finish_reason = "error"
        choice.error = error
    return encoder.encode(
        ChatCompletion(
            generation_id,
            "chat.completion",
            created,
            plan.model.id,
            plan.endpoint.provider,
            None,
            None,
            [choice],
            usage,
        )
    )
