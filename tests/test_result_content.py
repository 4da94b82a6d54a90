"""What a program sees of an answer: its text, whatever shape the upstream chose, and never an exception."""

import msgspec
import pytest

from batchmill.openrouter.outcomes import Answer
from batchmill.openrouter.replies import Reply, judge
from batchmill.producer.render import openai_line, simple_line
from batchmill.store.model import LineState, Result

TEXT = b'{"choices":[{"message":{"content":"yes"}}]}'


def result(response: bytes | None, state: LineState = LineState.SUCCEEDED) -> Result:
    """Return a result with that response."""
    return Result(index=0, custom_id="a", model="m", state=state, status_code=200, response=response)


@pytest.mark.parametrize(
    ("response", "content"),
    [
        (TEXT, "yes"),
        (b'{"choices":[{"message":{"content":null,"tool_calls":[]}}]}', None),
        (b'{"choices":[{"message":null}]}', None),
        (b'{"choices":[]}', None),
        (b'{"choices":null}', None),
        (b'{"choices":[{"message":{"content":[{"type":"text","text":"a"},{"type":"image"},{"text":"b"}]}}]}', "ab"),
        (b'{"choices":[{"message":{"content":7}}]}', None),
        (b'{"choices":[{"message":{"content":"\xff"}}]}', None),
        (b"no JSON at all", None),
        (None, None),
    ],
)
def test_content_of_every_shape(response: bytes | None, content: str | None) -> None:
    assert result(response).content == content


def test_a_failed_line_has_no_content() -> None:
    assert result(TEXT, LineState.FAILED).content is None


def test_bytes_that_are_no_text_are_replaced_and_the_paid_answer_kept() -> None:
    body = b'{"id":"gen-1","choices":[{"finish_reason":"stop","message":{"content":"caf\xe9"}}]}'
    answer = judge(Reply(200, {}, body, 5), 0.0)
    assert isinstance(answer, Answer)
    kept = result(answer.body)
    assert kept.content == "caf�"
    assert msgspec.json.decode(simple_line(kept))["content"] == "caf�"
    assert openai_line("batch_1", kept).decode().count("caf�") == 1
