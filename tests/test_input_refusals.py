"""What is said about bad lines, and that a report never holds what the line held."""

import io
import json

import pytest

from batchmill.producer.input import BadLine, InputOptions, Request, read

from .test_input import BATCH, CHAT, bad, batch_line, body_line, good, run

SECRET = "SECRET-PROMPT"
NO_MESSAGES: list[object] = ["x", {}, {"role": None}, {"role": 1}, [], None]
NO_LIMITS: list[object] = [0, -1, 1.0, 1.5, "100", True, [], 10**15]


@pytest.mark.parametrize(
    ("line", "code", "param", "says"),
    [
        (b"nonsense", "invalid_json_line", None, "not parseable as valid JSON. Invalid character at byte offset"),
        (b'{"a":1', "invalid_json_line", None, "ends before its object does"),
        (b"{", "invalid_json_line", None, "one line must hold one whole object"),
        (b'{"a":1} x', "invalid_json_line", None, "Trailing characters at byte offset 9"),
        (b"{'a':1}", "invalid_json_line", None, "double quotes (at byte offset 1)"),
        (b'{"a":NaN}', "invalid_json_line", None, "no NaN and no Infinity (at byte offset 5)"),
        (b'{"a":-Infinity}', "invalid_json_line", None, "no NaN and no Infinity"),
        (b'{"a":[1,]}', "invalid_json_line", None, "Trailing comma in array"),
        (b'{"a":"\\ud800"}', "invalid_json_line", None, "half of a surrogate pair"),
        (b'{"a":{"b":"x\\udc00 y z"}}', "invalid_json_line", None, "half of a surrogate pair"),
        (b'{"\\ud800":1}', "invalid_json_line", None, "half of a surrogate pair"),
        (b'{"a":"\x01"}', "invalid_json_line", None, "byte offset 6"),
        (b'{"a":"xyz\xff"}', "invalid_json_line", None, "not UTF-8 at byte offset 9"),
        (b'{"a":"\xed\xa0\x80"}', "invalid_json_line", None, "not UTF-8 at byte offset 6"),
        ('{"a":1}'.encode("utf-16"), "invalid_json_line", None, "UTF-16; save it as UTF-8"),
        (b"[1]", "invalid_request", None, "a JSON object, not an array"),
        (b'"a"', "invalid_request", None, "not a string"),
        (b"17", "invalid_request", None, "not a number"),
        (b"true", "invalid_request", None, "not a boolean"),
        (b"null", "invalid_request", None, "not null"),
        (b"[" * 100_000, "invalid_request", None, "not an array"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_request", None, "deeper than 128 levels"),
        (b'{"a":' + b"[" * 128 + b"]" * 128 + b"}", "invalid_request", None, "deeper than 128 levels"),
    ],
    ids=str,
)
def test_lines_that_are_no_objects(line: bytes, code: str, param: str | None, says: str) -> None:
    value = bad(line)
    assert (value.number, value.code, value.param) == (1, code, param)
    assert says in value.message


@pytest.mark.parametrize(
    ("line", "code", "param", "message"),
    [
        *(
            (
                batch_line(**{name: None}),
                "missing_required_parameter",
                name,
                f"Missing required parameter: '{name}'.",
            )
            for name in ("custom_id", "method", "url", "body")
        ),
        (
            BATCH.replace(CHAT, b"null"),
            "missing_required_parameter",
            "body",
            "Missing required parameter: 'body'.",
        ),
        (
            b'{"custom_id":"r-1","method":"POST","url":"/v1/chat/completions","model":"m","messages":[{"role":"user"}]}',
            "missing_required_parameter",
            "body",
            "Missing required parameter: 'body'.",
        ),
        (batch_line(custom_id=17), "invalid_request", "custom_id", "custom_id must be a string, not a number."),
        (batch_line(custom_id=["r"]), "invalid_request", "custom_id", "custom_id must be a string, not an array."),
        (batch_line(custom_id=""), "invalid_request", "custom_id", "custom_id must have 1 to 512 bytes, not 0."),
        (
            batch_line(custom_id="é" * 257),
            "invalid_request",
            "custom_id",
            "custom_id must have 1 to 512 bytes, not 514.",
        ),
        (
            batch_line(method="post"),
            "invalid_method",
            "method",
            "Only the method POST is supported. Write it in capital letters.",
        ),
        (batch_line(method="GET"), "invalid_method", "method", "Only the method POST is supported."),
        (batch_line(method=1), "invalid_method", "method", "Only the method POST is supported."),
        *(
            (
                batch_line(url=url),
                "invalid_url",
                "url",
                "The URL provided for this request does not match the batch endpoint. It must be /v1/chat/completions.",
            )
            for url in ("/v1/embeddings", "chat/completions", "/v1/chat/completions/", "", 5)
        ),
        (batch_line(body="x"), "invalid_request", "body", "Body must be a JSON object, not a string."),
        (batch_line(body=[1]), "invalid_request", "body", "Body must be a JSON object, not an array."),
        (
            body_line(stream=True),
            "streaming_unsupported",
            "body.stream",
            "Chat Completions: Streaming is not supported in the Batch API.",
        ),
        (body_line(stream="true"), "invalid_request", "body.stream", "stream must be a boolean, not a string."),
        (
            body_line(model=None),
            "invalid_request",
            "body.model",
            "Model parameter is required. Name it in the line, or one for all lines with --model.",
        ),
        (body_line(model=3), "invalid_request", "body.model", "Model must be a string, not a number."),
        (body_line(model=" "), "invalid_request", "body.model", "Model must not be empty."),
        (body_line(model="m" * 257), "invalid_request", "body.model", "Model must have at most 256 bytes."),
        *(  # which would be a word to workers, a scope of pauses, or a line of the gate's books
            (
                body_line(model=model),
                "invalid_request",
                "body.model",
                "Model must be the name of a model: without control characters, and none of our own words.",
            )
            for model in (
                "!batch_1",
                "!batch_1|expired",
                "op:maker/model",
                "account",
                "refused",
                "m\n0",
                "m\n1\nkey",
                "m\0",
            )
        ),
        (body_line(messages=None), "invalid_request", "body.messages", "Messages parameter is required."),
        (body_line(messages=[]), "invalid_request", "body.messages", "Messages must hold at least one message."),
        (body_line(messages={}), "invalid_request", "body.messages", "Messages must be an array, not an object."),
        *(
            (
                body_line(messages=[{"role": "user"}, message]),
                "invalid_request",
                "body.messages[1]",
                "Each message must be an object with a string 'role'.",
            )
            for message in NO_MESSAGES
        ),
        *(
            (body_line(**{name: limit}), "invalid_request", f"body.{name}", f"{name} must be a positive integer.")
            for name in ("max_tokens", "max_completion_tokens")
            for limit in NO_LIMITS
        ),
        (b'{"custom_id":"r-1"}', "invalid_request", "model", None),
        (b'{"model":"m","custom_id":"r-1"}', "invalid_request", "messages", "Messages parameter is required."),
        (
            b'{"model":"m","custom_id":"r-1","prompt":["a"]}',
            "invalid_request",
            "prompt",
            "prompt must be a string, not an array.",
        ),
        (b'{"model":"m","custom_id":"r-1","prompt":" "}', "invalid_request", "prompt", "The prompt is empty."),
        (
            b'{"model":"m","custom_id":"r-1","prompt":"a","messages":[{"role":"user"}]}',
            "invalid_request",
            "prompt",
            "Give either 'prompt' or 'messages', not both.",
        ),
        (
            b'{"model":"m","custom_id":"r-1","prompt":"a","stream":true}',
            "streaming_unsupported",
            "stream",
            "Chat Completions: Streaming is not supported in the Batch API.",
        ),
    ],
    ids=str,
)
def test_fields_that_are_wrong(line: bytes, code: str, param: str, message: str | None) -> None:
    value = bad(line)
    assert (value.number, value.code, value.param) == (1, code, param)
    assert message is None or value.message == message
    assert value.custom_id == (None if param == "custom_id" else "r-1")


@pytest.mark.parametrize("custom_id", ["x", "🎈" * 128, "a" * 512, "line\nbreak", "0"])
def test_ids_that_are_fine(custom_id: str) -> None:
    assert good(batch_line(custom_id=custom_id)).custom_id == custom_id


@pytest.mark.parametrize("url", ["/v1/chat/completions", "/chat/completions"])
def test_urls_that_are_fine(url: str) -> None:
    assert good(batch_line(url=url)).body
    assert good(batch_line(url=url).replace(b"/", b"\\/")).body


def test_a_method_with_escapes_is_the_same_method() -> None:
    assert good(BATCH.replace(b"POST", b"\\u0050OST")).custom_id == "r-1"


def test_nesting_up_to_the_limit_and_brackets_in_strings_are_fine() -> None:
    body = CHAT[:-1] + b',"a":' + b"[" * 127 + b"]" * 127 + b',"b":"' + b'[{\\"' * 500 + b'"}'
    assert good(body).body == body
    many = CHAT[:-1] + b',"a":[' + b"[1],{}," * 500 + b"1]}"
    assert good(many).body == many


def test_a_duplicate_is_named() -> None:
    values = run(BATCH + b"\n" + batch_line(custom_id="r-2") + b"\n" + BATCH)
    assert [type(value) for value in values] == [Request, Request, BadLine]
    assert values[2] == BadLine(
        3,
        "duplicate_custom_id",
        "custom_id",
        "The custom_id 'r-1' for this request is a duplicate of another request. "
        "The custom_id parameter must be unique for each request in a batch.",
        "r-1",
    )


def test_a_bad_line_claims_its_id_too() -> None:
    values = run(batch_line(method="GET") + b"\n" + BATCH)
    assert [value.code for value in values if isinstance(value, BadLine)] == ["invalid_method", "duplicate_custom_id"]


def test_an_id_may_not_be_the_one_that_another_line_was_given() -> None:
    [_, value] = run(CHAT + b"\n" + batch_line(custom_id="line-1"))
    assert isinstance(value, BadLine)
    assert "'line-1'" in value.message


def test_a_duplicate_40_000_lines_later_is_found_and_nothing_else() -> None:
    lines = [b'{"custom_id":"r-%d",' % number + CHAT[1:] for number in range(1, 60_001)]
    lines[39_999] = lines[1]
    found = [value for value in run(b"\n".join(lines)) if isinstance(value, BadLine)]
    assert [(value.number, value.code, value.custom_id) for value in found] == [(40_000, "duplicate_custom_id", "r-2")]


@pytest.mark.parametrize(
    "line",
    [
        SECRET.encode(),
        b"{'" + SECRET.encode() + b"':1}",
        b'{"a":' + SECRET.encode() + b"}",
        b'"' + SECRET.encode() + b'"',
        batch_line(method=SECRET),
        batch_line(url=SECRET),
        batch_line(body=SECRET),
        body_line(model=[SECRET]),
        body_line(messages=SECRET),
        body_line(messages=[SECRET]),
        body_line(messages=[{"role": [SECRET]}]),
        body_line(stream=SECRET),
        body_line(max_tokens=SECRET),
        json.dumps({"prompt": [SECRET], "model": "m"}).encode(),
    ],
    ids=str,
)
def test_a_report_never_holds_what_the_line_held(line: bytes) -> None:
    value = bad(line)
    assert SECRET not in repr(value)


def test_one_bad_line_loses_nothing_else() -> None:
    values = run(b"\n".join([CHAT, b"\xff", CHAT, body_line(stream=True), b"", CHAT]))
    assert [(value.number, type(value)) for value in values] == [
        (1, Request),
        (2, BadLine),
        (3, Request),
        (4, BadLine),
        (6, Request),
    ]


def test_what_the_source_raises_passes_through() -> None:
    class Broken(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(read(Broken(), InputOptions()))
