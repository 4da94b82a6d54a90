"""Every way that a line can be good or bad, as tables."""

import io
import json

import pytest

from batchmill.producer.input import BadLine, InputOptions, Request, form_of, read

CHAT = b'{"model":"a/b","messages":[{"role":"user","content":"hi"}]}'
BATCH = b'{"custom_id":"r-1","method":"POST","url":"/v1/chat/completions","body":' + CHAT + b"}"


def run(data: bytes, **options: object) -> list[Request | BadLine]:
    return list(read(io.BytesIO(data), InputOptions(**options)))  # type: ignore[arg-type]


def one(data: bytes, **options: object) -> Request | BadLine:
    [value] = run(data, **options)
    return value


def good(data: bytes, **options: object) -> Request:
    value = one(data, **options)
    assert isinstance(value, Request), value
    return value


def bad(data: bytes, **options: object) -> BadLine:
    value = one(data, **options)
    assert isinstance(value, BadLine), value
    return value


def batch_line(**changes: object) -> bytes:
    """A line in OpenAI's form with some members changed; None takes a member away."""
    members: dict[str, object] = {
        "custom_id": "r-1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": json.loads(CHAT),
        **changes,
    }
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode()


def body_line(**changes: object) -> bytes:
    return batch_line(body={**json.loads(CHAT), **changes})


# --- the forms ---


def test_a_batch_line_gives_its_body_byte_for_byte() -> None:
    body = b'{ "messages" : [ {"role":"user","content":"\\u00e9 \xc3\xa9"} ],"zz":1.50e1, "model":"a/b" }'
    line = b'{"url":"/v1/chat/completions", "body": ' + body + b' ,"custom_id":"r-1","method":"POST"}\n'
    assert one(line) == Request(1, "r-1", "a/b", body)


def test_a_bare_chat_body_is_sent_as_it_stands() -> None:
    assert one(b"  " + CHAT + b" \r\n") == Request(1, "line-1", "a/b", CHAT)


def test_the_id_of_a_bare_body_is_taken_and_not_sent() -> None:
    line = b'{"custom_id":"x","model":"a/b","messages":[{"role":"user" , "content":"hi"}],"top_p":0.10}'
    assert one(line) == Request(
        1, "x", "a/b", b'{"model":"a/b","messages":[{"role":"user" , "content":"hi"}],"top_p":0.10}'
    )


def test_a_prompt_becomes_one_user_message() -> None:
    request = good(b'{"prompt":"say \\"hi\\"","temperature":0,"custom_id":"p"}', model="a/b", max_tokens=9)
    assert request.custom_id == "p"
    assert request.body == (
        b'{"temperature":0,"messages":[{"role":"user","content":"say \\"hi\\""}],"model":"a/b","max_tokens":9}'
    )


def test_a_prompt_may_name_its_own_model() -> None:
    assert good(b'{"prompt":"hi","model":"c/d"}', model="a/b").model == "c/d"


def test_a_text_line_is_a_prompt() -> None:
    values = run(b'\xef\xbb\xbf say "hi" \r\n\n \t\n\xc3\xa9', form="text", model="a/b", max_tokens=7)
    assert values == [
        Request(
            1,
            "line-1",
            "a/b",
            b'{"model":"a/b","messages":[{"role":"user","content":" say \\"hi\\" "}],"max_tokens":7}',
        ),
        Request(
            4,
            "line-4",
            "a/b",
            b'{"model":"a/b","messages":[{"role":"user","content":"\xc3\xa9"}],"max_tokens":7}',
        ),
    ]


def test_a_text_line_of_nothing_but_wide_blanks_is_no_prompt() -> None:
    value = bad("\u3000\u00a0".encode(), form="text", model="a/b")
    assert (value.number, value.code, value.param) == (1, "invalid_request", "prompt")
    assert bad(b"caf\xe9", form="text", model="a/b").code == "invalid_json_line"


def test_text_without_a_model_is_refused_as_a_whole() -> None:
    value = bad(b"hi\nho\n", form="text")
    assert (value.number, value.code, value.param) == (None, "invalid_request", "model")


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.txt", "text"), ("A.TXT", "text"), ("a.jsonl", "jsonl"), ("-", "jsonl"), ("txt", "jsonl")],
)
def test_the_form_is_told_from_the_name(name: str, form: str) -> None:
    assert form_of(name) == form


def test_a_failed_line_of_our_errors_file_is_a_request_again() -> None:
    line = batch_line(
        id="batch_req_1", response={"status_code": 500, "request_id": "x", "body": {"error": {}}}, error=None
    )
    again = json.loads(line) | {"error": {"code": "batch_cancelled", "message": "…"}}
    for text in (line, json.dumps(again).encode()):
        request = good(text)
        assert request.custom_id == "r-1"
        assert json.loads(request.body) == json.loads(CHAT)


@pytest.mark.parametrize("body", [{}, {"body": None}, {"method": "POST", "url": "/v1/chat/completions"}])
@pytest.mark.parametrize("custom_id", [{"custom_id": "r-1"}, {"custom_id": None}])
def test_an_invalid_line_of_an_errors_file_is_called_that(
    body: dict[str, object], custom_id: dict[str, object]
) -> None:
    line = {"id": "x", "response": None, "error": {"code": "c", "message": "m"}, **custom_id, **body}
    value = bad(json.dumps(line).encode())
    assert (value.code, value.param) == ("invalid_request", "body")
    assert "never was a valid request" in value.message
    assert value.custom_id == custom_id["custom_id"]


def test_a_line_of_a_results_file_is_called_that() -> None:
    value = bad(b'{"id":"x","custom_id":"r","response":{"status_code":200},"error":null}')
    assert "result without the request" in value.message


def test_a_result_does_not_claim_its_id() -> None:
    values = run(b'{"custom_id":"r-1","error":{}}\n' + BATCH)
    assert [type(value) for value in values] == [BadLine, Request]


# --- what is added ---


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b'{"messages":[{"role":"user"}]}', b'{"messages":[{"role":"user"}],"model":"d/m","max_tokens":5}'),
        (b'{"messages":[{"role":"user"}] }', b'{"messages":[{"role":"user"}] ,"model":"d/m","max_tokens":5}'),
        (
            b'{"model":null,"messages": [{"role":"user"}],"max_tokens":null}',
            b'{"messages":[{"role":"user"}],"model":"d/m","max_tokens":5}',
        ),
        (
            b'{"model":"a","messages":[{"role":"user"}],"max_completion_tokens":null}',
            b'{"model":"a","messages":[{"role":"user"}],"max_tokens":5}',
        ),
        (b'{"model":"a","messages":[{"role":"user"}],"max_tokens":1}', None),
        (b'{"model":"a","messages":[{"role":"user"}],"max_completion_tokens":1}', None),
        (b'{"model":"a","messages":[{"role":"user"}],"max_tokens":null,"max_completion_tokens":1}', None),
    ],
)
def test_defaults_are_added_only_where_the_body_says_nothing(body: bytes, sent: bytes | None) -> None:
    line = b'{"custom_id":"r","method":"POST","url":"/v1/chat/completions","body":' + body + b"}"
    for text in (line, body):
        assert good(text, model="d/m", max_tokens=5).body == (sent or body)


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    body = b'{"model":"cheap","messages":[{"role":"user"}],"model":"dear","max_tokens":1,"max_tokens":2}'
    request = good(body, max_tokens=5)
    assert request.model == json.loads(request.body)["model"] == "dear"
    assert request.body == body
    # and not a null that comes last
    request = good(b'{"model":"cheap","messages":[{"role":"user"}],"model":null}', model="d/m")
    assert request.model == json.loads(request.body)["model"] == "d/m"
    assert b"cheap" not in request.body


def test_a_key_written_with_escapes_is_the_same_key() -> None:
    assert good(b'{"\\u006dodel":"a/b","messages":[{"role":"user"}]}', model="d/m").model == "a/b"
    assert bad(body_line().replace(b'"model"', b'"\\u0073tream":true,"model"')).code == "streaming_unsupported"


@pytest.mark.parametrize(
    "field",
    ['"n":3', '"x":1e999', '"x":' + "9" * 500, '"stream":false', '"stream":null', '"\\ud83d\\ude00":"\\ud83d\\ude00"'],
)
def test_other_fields_travel_untouched(field: str) -> None:
    body = CHAT[:-1] + b"," + field.encode() + b"}"
    assert good(body).body == body


# --- lines ---


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        (CHAT, [1]),
        (CHAT + b"\n", [1]),
        (CHAT + b"\r\n" + CHAT + b"\r\n", [1, 2]),
        (b"\xef\xbb\xbf" + CHAT + b"\n" + CHAT, [1, 2]),
        (b"\n\r\n  \n" + CHAT + b"\n\n\t\n" + CHAT + b"\n\n\n", [4, 7]),
    ],
)
def test_line_ends_blank_lines_and_the_bom(data: bytes, numbers: list[int]) -> None:
    values = run(data)
    assert [value.number for value in values if isinstance(value, Request)] == numbers
    assert all(isinstance(value, Request) and value.body == CHAT for value in values)


def test_a_bom_elsewhere_is_bad_json() -> None:
    [_, value] = run(CHAT + b"\n\xef\xbb\xbf" + CHAT)
    assert isinstance(value, BadLine)
    assert value.code == "invalid_json_line"


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n \n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_an_empty_file(data: bytes) -> None:
    assert one(data) == BadLine(
        None,
        "empty_file",
        None,
        "The input file is empty. Please ensure that the batch contains at least one request.",
    )


def test_a_limit_counts_good_and_bad_lines_and_reads_no_further() -> None:
    source = io.BytesIO(b"\nbad\n\n" + CHAT + b"\n" + CHAT + b"\n")
    values = list(read(source, InputOptions(limit=2)))
    assert [value.number for value in values] == [2, 4]
    assert source.read() == CHAT + b"\n"


def test_more_lines_than_are_allowed() -> None:
    values = run(b"\n".join([CHAT] * 5), max_lines=3)
    assert [value.number for value in values] == [1, 2, 3, None]
    assert isinstance(values[-1], BadLine)
    assert values[-1].code == "too_many_tasks"
    assert "more than 3 requests" in values[-1].message
    assert len(run(b"\n".join([CHAT] * 3) + b"\n\n", max_lines=3)) == 3
    assert len(run(b"\n".join([CHAT] * 5), max_lines=3, limit=3)) == 3


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("over", [0, 1, 2, 3, 4, 5, 6, 65_536, 65_537, 65_540, 65_541, 200_000])
def test_a_line_too_large_is_counted_and_passed_over(start: bytes, end: bytes, over: int) -> None:
    line = CHAT[:-1] + b" " * over + b"}"
    after = CHAT if end else b""
    values = run(start + line + end + after, max_line_bytes=len(CHAT))
    expected: list[object] = [1, 2] if end else [1]
    assert [value.number for value in values] == expected
    if over:
        assert values[0] == BadLine(
            1, "line_too_large", None, f"This line has {len(line):,} bytes; at most {len(CHAT):,} are allowed."
        )
    assert all(isinstance(value, Request) for value in values[bool(over) :])


@pytest.mark.parametrize(
    "option", [{"limit": 0}, {"max_tokens": 0}, {"max_lines": 0}, {"max_line_bytes": -1}, {"model": " "}]
)
def test_options_that_could_never_be_meant(option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        InputOptions(**option)  # type: ignore[arg-type]
