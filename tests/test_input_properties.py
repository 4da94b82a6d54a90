"""What holds for any input at all: bytes kept, nothing raised, every line accounted for, memory bounded."""

import io
import json
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.producer.forms import _closer_look
from batchmill.producer.identities import Identities
from batchmill.producer.input import BadLine, InputOptions, Request, read
from batchmill.producer.usual import usual_request

texts = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
_DECIDED = {"model", "messages", "stream", "max_tokens", "max_completion_tokens"}
_OUTER = {"custom_id", "method", "url", "body", "prompt", "error", "response"}
bodies = st.builds(
    lambda extra, model, messages: {**extra, "model": model, "messages": messages},
    st.dictionaries(texts.filter(lambda name: name not in _DECIDED | _OUTER), values, max_size=6),
    st.text(string.ascii_letters + "/-.:", min_size=1, max_size=60),
    st.lists(st.builds(lambda content: {"role": "user", "content": content}, values), min_size=1, max_size=4),
)
separators = st.sampled_from([(",", ":"), (", ", ": "), (" ,  ", " :\t")])

pieces = st.sampled_from(
    [
        *(
            b"\n",
            b"\r\n",
            b" ",
            b"{",
            b"}",
            b"[",
            b"]",
            b'"',
            b",",
            b":",
            b"null",
            b"true",
            b"1",
            b"\\u",
            b"\xef\xbb\xbf",
        ),
        *(b'"custom_id":', b'"method":"POST"', b'"url":"/chat/completions"', b'"body":', b'"model":"m"'),
        *(b'"messages":[{"role":"user"}]', b'"prompt":"p"', b'"error":{}', b'{"model":"m","messages":[{"role":"u"}]}'),
    ]
)
files = st.lists(pieces | st.binary(max_size=6), max_size=40).map(b"".join)


@settings(deadline=None)  # a busy machine is no finding
@given(bodies, separators, st.booleans())
def test_any_body_travels_byte_for_byte(body: dict[str, object], marks: tuple[str, str], ascii_only: bool) -> None:
    written = json.dumps(body, separators=marks, ensure_ascii=ascii_only)
    line = f'{{"custom_id":"r","method":"POST","url":"/v1/chat/completions","body": {written} }}'
    for text in (line, written):
        [value] = read(io.BytesIO(text.encode()), InputOptions())
        assert isinstance(value, Request)
        assert value.body == written.encode()
        assert value.model == body["model"]


_odd: st.SearchStrategy[object] = st.sampled_from(
    [None, "", " ", "x" * 300, "x" * 600, 0, 1, -1, 1.0, 5.5, 10**15, True, False, [], {}]
)
_messages: st.SearchStrategy[object] = st.lists(
    st.sampled_from([{"role": "user"}, {"role": 1}, {}, None, "x", [[[[]]]]]), max_size=3
)
_slips = st.tuples(
    st.sampled_from(["custom_id", "method", "url", "body", "error", "prompt", "other"]),
    st.sampled_from(["model", "messages", "stream", "max_tokens", "max_completion_tokens", "other"]),
)


@settings(deadline=None)  # a busy machine is no finding
@given(_slips, _odd | texts, _odd | _messages, st.booleans(), st.booleans(), st.none() | st.just(8))
def test_the_usual_line_read_at_once_is_what_a_closer_look_makes_of_it(
    slips: tuple[str, str], outer: object, inner: object, drop: bool, ascii_only: bool, max_tokens: int | None
) -> None:
    body = {"model": "m", "messages": [{"role": "user"}], "max_tokens": 5, slips[1]: inner}
    line = {"custom_id": "r", "method": "POST", "url": "/v1/chat/completions", "body": body, slips[0]: outer}
    if drop:
        del body[slips[1]]
    text = json.dumps(line, ensure_ascii=ascii_only).encode()
    options = InputOptions(max_tokens=max_tokens)
    seen, seen_closely = Identities(), Identities()
    for number in (1, 2):  # the second time its id is taken
        at_once = usual_request(text, number, options, seen)
        closely = _closer_look(text, number, options, seen_closely)
        assert at_once in (closely, None)
        if at_once is None and isinstance(closely, Request):
            seen.add(closely.custom_id)


def test_the_usual_line_is_read_at_once() -> None:
    body = b'{"model":"m","messages":[{"role":"u"}]}'
    line = b'{"custom_id":"r","method":"POST","url":"/v1/chat/completions","body":' + body + b"}"
    assert usual_request(line, 1, InputOptions(), Identities()) == Request(1, "r", "m", body)


@settings(deadline=None)  # a busy machine is no finding
@given(files)
def test_no_bytes_are_read_at_once_that_a_closer_look_refuses(line: bytes) -> None:
    at_once = usual_request(line, 1, InputOptions(), Identities())
    assert at_once in (None, _closer_look(line, 1, InputOptions(), Identities()))


@settings(deadline=None)  # a busy machine is no finding
@given(bodies, separators, st.booleans(), texts.filter(str.strip))
def test_what_is_added_and_taken_changes_nothing_else(
    body: dict[str, object], marks: tuple[str, str], with_prompt: bool, prompt: str
) -> None:
    given_fields = {name: value for name, value in body.items() if name != "model"}
    expected = {**given_fields, "model": "d/m", "max_tokens": 8}
    if with_prompt:
        del given_fields["messages"]
        given_fields["prompt"] = prompt
        expected["messages"] = [{"role": "user", "content": prompt}]
    line = json.dumps({"custom_id": "r", **given_fields}, separators=marks).encode()
    [value] = read(io.BytesIO(line), InputOptions(model="d/m", max_tokens=8))
    assert isinstance(value, Request)
    pairs = json.loads(value.body, object_pairs_hook=list)
    assert len(pairs) == len(expected)  # no key twice
    assert json.loads(value.body) == expected


@settings(deadline=None)  # a busy machine is no finding
@given(
    files | st.binary(),
    st.sampled_from(["jsonl", "text"]),
    st.none() | st.just("d/m"),
    st.integers(1, 60),
    st.integers(1, 8),
)
def test_any_bytes_give_one_value_for_each_line_and_never_raise(
    data: bytes, form: str, model: str | None, max_line_bytes: int, max_lines: int
) -> None:
    options = InputOptions(
        form=form,  # type: ignore[arg-type]
        model=model,
        max_tokens=3,
        max_lines=max_lines,
        max_line_bytes=max_line_bytes,
    )
    found = list(read(io.BytesIO(data), options))
    assert found
    numbered = [value for value in found if value.number is not None]
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    filled = [number for number, line in enumerate(lines, 1) if line.strip()]
    if not (form == "text" and model is None):
        # an oversized line of nothing but blanks is reported too
        assert set(filled[:max_lines]) <= {value.number for value in numbered} or len(numbered) == max_lines
        assert len(numbered) <= max_lines
    assert len(found) - len(numbered) <= 1
    assert len({value.number for value in found}) == len(found)
    for value in found:
        if isinstance(value, Request):
            body = json.loads(value.body)
            assert body["model"] == value.model
            assert body["messages"]
            assert len({one.custom_id for one in found if isinstance(one, Request)}) == sum(
                isinstance(one, Request) for one in found
            )


@settings(deadline=None)  # a busy machine is no finding
@given(st.lists(texts, max_size=3000))
def test_identities_are_a_set(ids: list[str]) -> None:
    seen = Identities()
    known: set[str] = set()
    for identity in ids:
        assert seen.add(identity) == (identity not in known)
        known.add(identity)
    assert len(seen) == len(known)


def test_identities_grow() -> None:
    seen = Identities()
    assert all(seen.add(f"id-{number}") for number in range(10_000))
    assert not any(seen.add(f"id-{number}") for number in range(10_000))
    assert len(seen) == 10_000


_READ_AND_MEASURE = """
import pathlib, resource, sys
from batchmill.producer.input import InputOptions, Request, read

def peak():
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # on Linux ru_maxrss starts from what the parent had
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))

before = peak()
with open(sys.argv[1], "rb") as source:
    requests = sum(isinstance(value, Request) for value in read(source, InputOptions()))
print(requests, peak() - before)
"""


def _peak_memory(file: Path) -> tuple[int, int]:
    """Requests read, and by how many bytes reading raised the peak of resident memory."""
    answer = subprocess.run(
        [sys.executable, "-c", _READ_AND_MEASURE, str(file)], capture_output=True, text=True, check=True, timeout=100
    )
    requests, peak = map(int, answer.stdout.split())
    return requests, peak


@pytest.mark.parametrize(
    ("lines", "prompt"), [(200_000, 860), (45, 4_100_000)], ids=["many small lines", "few large lines"]
)
def test_a_file_of_200_megabytes_is_read_in_little_memory(tmp_path: Path, lines: int, prompt: int) -> None:
    file = tmp_path / "large.jsonl"
    template = json.dumps(
        {
            "custom_id": "request-%09d",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "a/b", "messages": [{"role": "user", "content": "x" * prompt}], "max_tokens": 10},
        }
    )
    with file.open("w") as target:
        for number in range(lines):
            target.write(template % number + "\n")
    assert file.stat().st_size > 180_000_000
    requests, peak = _peak_memory(file)
    assert requests == lines
    assert peak < 40_000_000


def test_a_line_that_never_ends_is_not_held_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "endless.jsonl"
    with file.open("wb") as target:
        target.truncate(400_000_000)  # sparse: zeros that take no disk
    requests, peak = _peak_memory(file)
    assert requests == 0
    assert peak < 40_000_000


def test_reports_come_while_the_file_is_still_read() -> None:
    source = io.BytesIO(b"bad\n" * 10)
    first = next(read(source, InputOptions()))
    assert isinstance(first, BadLine)
    assert source.tell() == 4
