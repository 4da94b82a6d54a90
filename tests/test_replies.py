"""What a whole HTTP answer means: answers, failures inside a 200, messages; and no body is too strange."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.openrouter.errors import CODES, read_error
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Fault, Retry, Scope, Usage
from batchmill.openrouter.replies import Reply, judge

NOW = 1_788_900_000.0  # 2026-09-08 20:40 UTC
DEEP = b'{"error":' + b"[" * 200_000
UNSURE = (Retry.BACKOFF, Fault.PROVIDER, Billed.MAYBE, Scope.MODEL)


def error(code: Any, message: str = "no", top: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "metadata": metadata, **(top or {})}, "user_id": "u"}


def judged(status: int, body: Any, headers: dict[str, str] | None = None) -> Answer | Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge(Reply(status, headers or {}, raw, 7), NOW)


def failed(status: int, body: Any, headers: dict[str, str] | None = None) -> Failure:
    outcome = judged(status, body, headers)
    assert isinstance(outcome, Failure)
    return outcome


def sorts(failure: Failure) -> tuple[Retry, Fault, Billed, Scope]:
    return (failure.retry, failure.fault, failure.billed, failure.scope)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"choices": null}',
        b"\xff\xfe",
        pytest.param(DEEP, id="deep"),
        b'{"choices":7}',
    ],
)
def test_a_200_that_is_no_completion_may_have_been_billed(body: bytes) -> None:
    failure = failed(200, body)
    assert (failure.code, sorts(failure)) == ("invalid_response", UNSURE)


PARTIAL = {"role": "assistant", "content": "half a sen"}
EMPTY = {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("choice", "usage", "billed", "cost"),
    [
        ({"finish_reason": "error", "message": EMPTY}, None, Billed.NO, None),
        ({"finish_reason": "error", "message": PARTIAL}, None, Billed.MAYBE, None),
        ({"finish_reason": "error", "message": PARTIAL}, {"cost": 0.000132}, Billed.YES, 132_000),
        ({"finish_reason": "error", "message": PARTIAL}, {"cost": 0}, Billed.NO, 0),
        ({"error": {"code": 502, "message": "gone"}, "message": PARTIAL}, None, Billed.MAYBE, None),
        ({"error": {"code": 502, "message": "gone"}, "message": EMPTY}, None, Billed.NO, None),
        ({"error": {"code": 504, "message": "late"}, "message": EMPTY}, None, Billed.MAYBE, None),
    ],
)
def test_what_a_choice_that_failed_cost(choice: dict[str, Any], usage: Any, billed: Billed, cost: int | None) -> None:
    failure = failed(200, {"id": "gen-2", "model": "a/b", "provider": "P", "choices": [choice], "usage": usage})
    assert (failure.retry, failure.fault, failure.billed, failure.cost) == (
        Retry.BACKOFF,
        Fault.PROVIDER,
        billed,
        cost,
    )
    assert (failure.generation_id, failure.provider) == ("gen-2", "P")


def test_an_answer_with_one_good_choice_is_kept() -> None:
    choices = [{"finish_reason": "error"}, {"finish_reason": "stop", "message": PARTIAL}]
    assert isinstance(judged(200, {"choices": choices}), Answer)


def test_an_answer() -> None:
    body = (
        b'\n  {"id":"gen-3","model":"a/b","provider":"P","future":[1],"choices":[{"finish_reason":"stop",'
        b'\n "error":null,"message":{"content":"hi\\n"}}],"usage":{"prompt_tokens":15,"completion_tokens":51,'
        b'"cost":0.0001320001,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":null}}\n'
    )
    answer = judged(200, body)
    assert isinstance(answer, Answer)
    assert answer.body == msgspec.json.format(body, indent=-1)
    assert b"\n" not in answer.body
    assert (answer.model, answer.provider, answer.generation_id) == ("a/b", "P", "gen-3")
    assert (answer.finish_reason, answer.latency_ms) == ("stop", 7)
    assert answer.usage == Usage(15, 51, 4, 0)
    assert answer.cost == 132_001  # 132,000.1 nano-dollars, rounded up


@pytest.mark.parametrize(
    ("usage", "cost", "tokens"),
    [
        (b"null", None, 0),
        (b'{"prompt_tokens":null,"cost":null}', None, 0),
        (b'{"prompt_tokens":3}', None, 3),
        (b'{"prompt_tokens":3,"cost":"0.5"}', 500_000_000, 3),
        (b'{"prompt_tokens":"3","cost":1e-9}', 1, 0),
        (b'{"prompt_tokens":3,"cost":{"usd":1}}', None, 3),
        (b'{"prompt_tokens":3,"cost":-1}', None, 3),
        (b'{"prompt_tokens":-3,"cost":1}', 1_000_000_000, 0),
        (b'{"prompt_tokens":3,"cost":1e999999}', None, 3),
        (b'{"prompt_tokens":3,"cost":"NaN"}', None, 3),
        (b'{"prompt_tokens":3,"cost":2,"prompt_tokens_details":[]}', 2_000_000_000, 3),
        (b'"none"', None, 0),
    ],
)
def test_a_damaged_field_is_lost_alone(usage: bytes, cost: int | None, tokens: int) -> None:
    answer = judged(200, b'{"id":7,"model":null,"choices":[{"finish_reason":"stop"}],"usage":%b}' % usage)
    assert isinstance(answer, Answer)
    assert (answer.cost, answer.usage.prompt_tokens, answer.model, answer.generation_id) == (cost, tokens, "", None)


@pytest.mark.parametrize("body", [b'  {"choices":[{}]} ', b'\n\n{"choices":[{}]}\n', b'{"choices":\n[{}]}'])
def test_an_answer_can_be_a_line_of_a_file(body: bytes) -> None:
    answer = judged(200, body)
    assert isinstance(answer, Answer)
    assert answer.body == b'{"choices":[{}]}'


def test_the_generation_id_may_come_in_a_header() -> None:
    headers = {"x-generation-id": "gen-4"}
    assert judged(200, b'{"choices":[{}]}', headers).generation_id == "gen-4"
    assert judged(502, error(502), headers).generation_id == "gen-4"


def test_a_message_holds_no_prompt() -> None:
    body = error(
        403, 'flagged: "SECRET PROMPT"', reasons=["violence"], flagged_input="SECRET PROMPT", raw="SECRET PROMPT"
    )
    failure = failed(403, body)
    assert "SECRET" not in failure.message
    assert "violence" in failure.message


def test_a_message_is_one_short_line() -> None:
    message = failed(400, error(400, "two\nlines\t" + "x" * 1000)).message
    assert message.startswith("two lines x")
    assert len(message) <= 300


def test_a_message_is_never_empty() -> None:
    assert failed(503, b"").message == "the provider failed, or none is available (HTTP 503)"


KEYS = [
    "error",
    "code",
    "message",
    "metadata",
    "error_type",
    "headers",
    "reasons",
    "retry_after_seconds",
    "availability",
    "retryable",
    "choices",
    "usage",
    "cost",
    "finish_reason",
    "limit_source",
    "resets_at",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.integers(100, 999), json_values)
def test_no_body_is_too_strange(status: int, body: Any) -> None:
    outcome = judged(status, body)
    if isinstance(outcome, Failure):
        assert outcome.code in CODES
        assert outcome.message
        assert outcome.body is None or "error" in msgspec.json.decode(outcome.body)


@given(st.integers(300, 999), st.binary())
def test_bytes_that_are_no_json_say_nothing(status: int, body: bytes) -> None:
    if read_error(body) is None:
        assert judged(status, body) == judged(status, b"")
