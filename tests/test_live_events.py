"""Events of one line: what a reader is told, whatever came, got lost, came twice or was begun anew."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.producer.live import Ended, Event, Gap, Restarted, Started, Text, _Watch, asking
from batchmill.store.live import Chunks, End, Said, Start
from batchmill.store.model import LineState, Result

from .store_helpers import result
from .upstream_helpers import chunk


def answer(content: str | None) -> Result:
    body = msgspec.json.encode({"choices": [{"message": {"content": content}}]})
    return result(0, response=body)


def words(call: str, first: int, *texts: str) -> Chunks:
    return Chunks(call, first, tuple(chunk({"content": text}) for text in texts))


def heard(*said: Said, ending: Result | None = None) -> list[Event]:
    watch = _Watch()
    events = [event for one in said for event in watch.hear(one)]
    return events + (list(watch.close(ending)) if ending else [])


def brief(events: list[Event]) -> list[object]:
    """Return texts as texts, and other events as they are."""
    return [event.text if isinstance(event, Text) else event for event in events]


FIRST, SECOND = Start("one", 1, "a/b"), Start("two", 2, "c/d")


def test_what_came_whole_is_told_once() -> None:
    ending = answer("Hello")
    events = heard(FIRST, words("one", 0, "Hel"), words("one", 1, "lo"), End("one", 2, "ok"), ending=ending)
    assert brief(events) == [Started(1, "a/b"), "Hel", "lo", Ended(ending)]
    assert isinstance(events[1], Text)
    assert events[1].chunk is not None
    assert bytes(events[1].chunk) == chunk({"content": "Hel"})


def test_a_new_call_begins_anew_and_says_how_the_last_one_ended() -> None:
    events = heard(FIRST, words("one", 0, "Hel"), End("one", 1, "timeout"), SECOND, words("two", 0, "Hi"))
    assert brief(events) == [Started(1, "a/b"), "Hel", Restarted("timeout"), Started(2, "c/d"), "Hi"]
    killed = heard(FIRST, words("one", 0, "Hel"), SECOND)
    assert Restarted(None) in killed


def test_a_call_that_another_one_has_replaced_is_not_heard() -> None:
    events = heard(FIRST, SECOND, words("one", 0, "ghost"), End("one", 1, "ok"), words("two", 0, "Hi"))
    assert "ghost" not in brief(events)
    assert brief(events)[-1] == "Hi"


def test_what_comes_twice_is_told_once() -> None:
    events = heard(FIRST, words("one", 0, "a", "b"), FIRST, words("one", 0, "a", "b", "c"), words("one", 2, "c", "d"))
    assert brief(events) == [Started(1, "a/b"), "a", "b", "c", "d"]


def test_what_is_missing_is_told_and_mended_at_the_end() -> None:
    ending = answer("abcd")
    events = heard(FIRST, words("one", 0, "a"), words("one", 2, "c"), End("one", 4, "ok"), ending=ending)
    assert brief(events) == [Started(1, "a/b"), "a", Gap(1), "c", Gap(1), Restarted(), "abcd", Ended(ending)]


def test_an_answer_that_came_whole_or_is_long_over_is_told_as_one_text() -> None:
    ending = answer("Hello")
    assert brief(heard(FIRST, End("one", 0, "ok"), ending=ending)) == [Started(1, "a/b"), "Hello", Ended(ending)]
    assert heard(ending=ending) == [Text("Hello"), Ended(ending)]


@pytest.mark.parametrize("ending", [answer(None), result(0, LineState.FAILED), result(0, LineState.CANCELLED)])
def test_a_result_without_text_adds_none(ending: Result) -> None:
    assert heard(FIRST, words("one", 0, "Hel"), ending=ending)[-1] == Ended(ending)
    assert heard(ending=ending) == [Ended(ending)]


@pytest.mark.parametrize(
    "strange",
    [
        b"{}",
        b"[]",
        b'{"choices":null}',
        b'{"choices":[]}',
        b'{"choices":[{"delta":null}]}',
        b'{"choices":[{"index":1,"delta":{"content":"another answer"}}]}',
        b'{"choices":[{"delta":{"content":null,"reasoning":"hm"}}]}',
        b'{"choices":[{"delta":{"content":[{"text":"part"}]}}]}',
        b'{"choices":"none"}',
    ],
)
def test_a_chunk_without_text_is_passed_on_as_it_is(strange: bytes) -> None:
    (event,) = heard(FIRST, Chunks("one", 0, (strange,)))[1:]
    assert event == Text("", msgspec.Raw(strange))


@pytest.mark.parametrize(
    ("line", "asking_line"),
    [
        ({"custom_id": "a", "body": {"model": "m"}}, {"custom_id": "a", "body": {"model": "m", "stream_to": True}}),
        (b'{"model":"m","seed":1}', {"model": "m", "seed": 1, "stream_to": True}),
        ('{"body":{"model":"m"}}', {"body": {"model": "m", "stream_to": True}}),
        ({"prompt": "Hello"}, {"prompt": "Hello", "stream_to": True}),
        ({"body": None, "prompt": "Hello"}, {"body": None, "prompt": "Hello", "stream_to": True}),
    ],
)
def test_a_line_of_any_form_can_ask_for_live_tokens(line: Any, asking_line: Any) -> None:
    assert msgspec.json.decode(msgspec.json.encode(asking(line))) == asking_line


@pytest.mark.parametrize("line", [b"no JSON", "[1]", b'"text"'])
def test_a_line_that_can_not_be_read_is_left_to_whoever_takes_it_in(line: bytes | str) -> None:
    assert asking(line) is line


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=3)), max_size=12), st.text(max_size=5))
def test_the_texts_since_the_last_start_are_what_the_result_says(sent: list[tuple[bool, str]], content: str) -> None:
    """Whatever was lost on the way, and even if the result is another call's."""
    entries = [words("one", number, text) for number, (arrives, text) in enumerate(sent) if arrives]
    text = ""
    for event in heard(FIRST, *entries, End("one", len(sent), "ok"), ending=answer(content)):
        if isinstance(event, Started | Restarted):
            text = ""
        elif isinstance(event, Text):
            text += event.text
    assert text == content
