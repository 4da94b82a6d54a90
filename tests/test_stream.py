"""Streams without a socket: events cut anywhere, chunks merged into one answer."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.openrouter.stream import EventReader, Gathering, streaming_body

from .upstream_helpers import COMMENT, HELLO, chunk

BODY = b'{"model":"a/b","messages":[],"temperature":1.10}'
AT_ONCE = 0.05


@given(st.integers(1, 9), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_events_are_the_same_wherever_the_network_cut_them(size: int, newline: bytes) -> None:
    raw = b"".join([*HELLO, b"event: x\nid: 1\ndata:no blank\ndata:  two\n\n"]).replace(b"\n", newline)
    reader = EventReader()
    events = [data for at in range(0, len(raw), size) for data in reader.feed(raw[at : at + size])]
    events += reader.finish()
    expected = [each[6:-2] for each in HELLO if each != COMMENT]
    assert events == [*expected, b"no blank\n two"]


def test_the_last_event_needs_no_blank_line() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\n\ndata: [DONE]") == [b"a"]
    assert reader.finish() == [b"[DONE]"]
    assert reader.finish() == []


def test_an_event_does_not_wait_for_the_next_line_break() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\r\r") == []  # it may yet become \r\n, as part of the same line break
    assert reader.feed(b"d") == [b"a"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a":1.10}', b'{"a":1.10,"stream":true,"stream_options":{"include_usage":true}}'),
        (b' {"a":1.10 } \n', b' {"a":1.10,"stream":true,"stream_options":{"include_usage":true}}'),
        (b"{ }", b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (
            b'{"stream":false,"a":1.10,"stream_options":{"x":1.0,"include_usage":false}}',
            b'{"stream":true,"a":1.10,"stream_options":{"x":1.0,"include_usage":true}}',
        ),
        (b'{"stream_options":7}', b'{"stream_options":{"include_usage":true},"stream":true}'),
    ],
)
def test_a_request_becomes_a_stream_and_keeps_every_value_as_it_was(body: bytes, expected: bytes) -> None:
    assert streaming_body(body) == expected


def gathered(*chunks: bytes) -> dict[str, Any]:
    gathering = Gathering()
    for each in chunks:
        gathering.add(each)
    whole = msgspec.json.decode(gathering.body())
    assert isinstance(whole, dict)
    return whole


def test_tool_calls_are_joined_by_their_index() -> None:
    whole = gathered(
        chunk(
            {"tool_calls": [{"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": ""}}]}
        ),
        chunk({"tool_calls": [{"index": 0, "id": "", "function": {"name": None, "arguments": '{"a"'}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "c1", "function": {"name": "g", "arguments": "{}"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}, "tool_calls"),
    )
    message = whole["choices"][0]["message"]
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "f", "arguments": '{"a":1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert message["tool_calls"][0]["id"] == "c0"
    assert message["content"] is None
    assert whole["choices"][0]["finish_reason"] == "tool_calls"


def test_choices_lists_and_unknown_fields_survive() -> None:
    whole = gathered(
        chunk({"reasoning": "th", "reasoning_details": [{"i": 1}]}, service_tier="flex", odd=1.10),
        chunk({"reasoning": "ink", "reasoning_details": [{"i": 2}]}, service_tier=None),
        b'{"choices":[{"index":1,"delta":{"content":"b"},"logprobs":{"content":[1]}}]}',
        b'{"choices":[{"index":1,"delta":{"content":"c"},"logprobs":{"content":[2]}}]}',
        b'{"choices":[{"delta":null},{"index":{},"delta":{"content":"x"}}]}',
        b'{"choices":null}',
    )
    first, second = whole["choices"]
    assert first["message"]["reasoning"] == "think"
    assert first["message"]["reasoning_details"] == [{"i": 1}, {"i": 2}]
    assert first["message"]["content"] == "x"
    assert (second["message"]["content"], second["logprobs"]) == ("bc", {"content": [1, 2]})
    assert (whole["object"], whole["service_tier"], whole["odd"]) == ("chat.completion", "flex", 1.10)
