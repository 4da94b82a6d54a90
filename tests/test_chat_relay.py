"""Chunks of a chat completion's stream, whatever came, got lost or was begun anew."""

import json
from typing import Any

import msgspec
import pytest

from batchmill.producer.live import Ended, Event, Gap, Restarted, Started, Text
from batchmill.service.compat.chat_relay import DONE, BrokenError, Relay
from batchmill.store.model import Result

from .store_helpers import result
from .upstream_helpers import USAGE, chunk

STARTED = Started(1, "a/b")


def text(words: str, finish: str | None = None, **top: Any) -> Text:
    return Text(words, msgspec.Raw(chunk({"content": words}, finish, **top)))


def ended(content: str | None, **message: Any) -> Ended:
    body = {
        "id": "gen-1",
        "created": 7,
        "model": "a/b",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": content, **message}}],
        "usage": USAGE,
    }
    return Ended(answer(msgspec.json.encode(body)))


def answer(body: bytes) -> Result:
    return result(0, response=body, status_code=200)


def relayed(*events: Event, include_usage: bool = False) -> list[Any]:
    """Return the chunks that go out, decoded; the end mark as it is."""
    relay = Relay(include_usage=include_usage)
    out: list[bytes] = []
    for event in events:
        out += relay.end(event) if isinstance(event, Ended) else relay.take(event)
    return [each if each == DONE else json.loads(each) for each in out]


def said(chunks: list[Any]) -> str:
    """Return the text that a client reads."""
    deltas = [each["choices"][0]["delta"] for each in chunks if each != DONE and each["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def finishes(chunks: list[Any]) -> list[str]:
    choices = [choice for each in chunks if each != DONE for choice in each["choices"]]
    return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


def test_chunks_go_out_as_they_came_and_the_end_is_marked() -> None:
    chunks = relayed(STARTED, text("Hel"), text("lo", "stop"), ended("Hello"))
    assert chunks == [json.loads(chunk({"content": "Hel"})), json.loads(chunk({"content": "lo"}, "stop")), DONE]


@pytest.mark.parametrize("asked", [True, False])
def test_usage_is_a_last_chunk_without_choices_for_who_asked(asked: bool) -> None:
    chunks = relayed(STARTED, text("Hello", "stop"), text("", "stop", usage=USAGE), ended("Hello"), include_usage=asked)
    assert [each["usage"] for each in chunks if each != DONE and "usage" in each] == ([USAGE] if asked else [])
    assert finishes(chunks) == ["stop"]
    assert chunks[-1] == DONE
    if asked:
        assert chunks[-2]["choices"] == []


def test_usage_that_came_with_the_last_words_leaves_them_in_place() -> None:
    chunks = relayed(STARTED, text("Hello", "stop", usage=USAGE), ended("Hello"), include_usage=True)
    assert (said(chunks), finishes(chunks)) == ("Hello", ["stop"])
    assert "usage" not in chunks[0]
    assert chunks[1]["usage"] == USAGE


def test_an_answer_of_which_nothing_was_seen_comes_whole() -> None:
    chunks = relayed(Text("Hello"), ended("Hello"), include_usage=True)
    assert (said(chunks), finishes(chunks)) == ("Hello", ["stop"])
    assert (chunks[0]["object"], chunks[0]["id"], chunks[0]["created"]) == ("chat.completion.chunk", "gen-1", 7)
    assert chunks[-2]["usage"] == USAGE


def test_tool_calls_of_which_nothing_was_seen_come_with_their_index() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chunks = relayed(ended(None, tool_calls=[call]))
    assert chunks[0]["choices"][0]["delta"]["tool_calls"] == [{"index": 0, **call}]


def test_after_lost_chunks_the_rest_comes_at_the_end() -> None:
    chunks = relayed(STARTED, text("Hel"), Gap(1), text("wor"), Restarted(), Text("Hello world"), ended("Hello world"))
    assert (said(chunks), finishes(chunks), chunks[-1]) == ("Hello world", ["stop"], DONE)


def test_an_answer_that_began_anew_after_something_was_sent_is_an_error() -> None:
    with pytest.raises(BrokenError):
        relayed(STARTED, text("Hel"), Restarted("timeout"), Started(2, "c/d"), text("Good day"))


def test_an_answer_that_began_anew_before_anything_was_sent_is_none() -> None:
    chunks = relayed(STARTED, Restarted("timeout"), Started(2, "c/d"), text("Hi", "stop"), ended("Hi"))
    assert (said(chunks), chunks[-1]) == ("Hi", DONE)


def test_words_that_were_sent_and_are_not_in_the_answer_are_an_error() -> None:
    with pytest.raises(BrokenError):
        relayed(STARTED, text("Hel"), Gap(2), ended("Good day"))


def test_an_error_among_the_chunks_is_not_passed_on() -> None:
    broken = Text("", msgspec.Raw(chunk({"content": ""}, "error", error={"code": 502, "message": "gone"})))
    assert relayed(STARTED, broken) == []
    assert relayed(STARTED, Text("", msgspec.Raw(b"[]"))) == []
