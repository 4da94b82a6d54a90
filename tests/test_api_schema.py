"""The API keeps to its own document: whatever is asked of an operation, the answer is one that the document tells of.

Requests are made from the document (Schemathesis), half of them for things that exist; beside them, in each place
where a client puts something, go the values that break services: NUL, half characters, numbers without end.
"""

import asyncio
import http.client
import re
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from redis.asyncio import Redis
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from batchmill.config.alerting import AlertKind
from batchmill.config.policy import Limit
from batchmill.config.settings import Settings, load
from batchmill.openrouter.simulator import Simulator
from batchmill.service.app import OPERATIONS
from batchmill.service.compat import chat_waiting
from batchmill.service.openapi import document
from batchmill.service.operations import Operation
from batchmill.service.problems import ErrorObject
from batchmill.service.serving import serve
from batchmill.spend.alerts import Alert, Due
from batchmill.store import alerts, api_keys, policy
from batchmill.store.api_keys import Wanted
from batchmill.store.connection import connect
from batchmill.store.embedded import EmbeddedServer

from .batch_api_helpers import create, finish, jsonl, line, upload, when
from .conftest import check_leaks
from .gate_helpers import budget, policy_of

EXAMPLES = 20
MODEL = "openai/gpt-4o-mini"
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
SCHEMA = schemathesis.openapi.from_dict(document(OPERATIONS, "1.2.3"))
PARTS = re.compile(r"{(\w+)(?::\w+)?}")
ENDLESS = {"events"}
"""What never ends of itself, and has nothing in it that could be generated."""

GENERATED = [each for each in OPERATIONS if each.name not in ENDLESS]
MODES = [(each, GenerationMode.POSITIVE) for each in GENERATED] + [
    (each, GenerationMode.NEGATIVE)
    for each in GENERATED
    if each.query or each.body  # paths have a test of their own
]
JSON_BODIES = [each for each in OPERATIONS if each.body is not None and each.media == "application/json"]

IN_PATHS = (
    "%00", "a%00b", "%FF", "%ED%A0%80", "%C3%28", "%0A", "%0D%0Ax-a:%20b", "%7F", "%2E%2E%2F%2E%2E", "..%5C",
    "%F0%9F%9A%80", "%E2%80%AE", "9" * 99, "-1", "0", "1e9999", "NaN", "a" * 5000, "*", "%25s%25n", "{batch_id}",
    "batch_", "file-", "file-batch_out", "%3Fa=b", "%23", "%20", "batch_%00", "file-%00", "bm%3A%7Bgate%7D",
)  # fmt: skip
IN_QUERIES = (
    "%00", "%FF", "%ED%A0%80", "9" * 400, "-" + "9" * 400, "-1", "0", "1e9999", "1.5", "NaN", "inf", "", "%20",
    "%F0%9F%9A%80",
    "a" * 5000, "null", "true", "%D9%A1", "%C2%B2", "1_0", "0x10", "2026-13-45", "0000-00-00",
    "99999999d", "9999-12-31", "0-0", "18446744073709551616-0",
)  # fmt: skip
IN_BODIES: tuple[bytes, ...] = (
    b"", b" ", b"null", b"[]", b"{}", b"1", b'"a"', b"{", b"\xff", b"\xef\xbb\xbf{}", b"NaN", b'{"a":NaN}',
    b"[" * 100_000,
    b'{"a":' * 50_000, b'{"\\ud800":1}', b'{"\x00":1}', b"\x00", b'{"a":1}' * 2, b"9" * 5000,
)  # fmt: skip
IN_FIELDS: tuple[bytes, ...] = (
    b"null", b"true", b"-1", b"0", b"1e400", b"1e999999999", b"-0.0", b"9" * 400, b"0." + b"0" * 400 + b"1",
    b'"NaN"', b'"Infinity"', b'"1e999999999"',
    b'"\\u0000"', b'"\\ud800"', b'"\xed\xa0\x80"', b'"\xff"', b'"' + b"a" * 5000 + b'"', b'""', b"[]", b"{}", b"[null]",
    b'["\\u0000"]', b'["\\ud800"]',
    b'{"a":"\\u0000"}', b'{"\\ud800":"\\ud800"}', b'{"":""}', b"[[[[]]]]", '"\N{ROCKET}"'.encode(), b'"http://[::1"', b'"https://\\ud800/"',
    b'"https://example.com:99999/"', b'"https://\\u0000.example/"', b"9223372036854775808", b"18446744073709551616",
)  # fmt: skip
HEADERS: tuple[tuple[str, bytes], ...] = (
    *(
        (name, value)
        for name in (
            "x-stainless-retry-count", "idempotency-key", "range", "if-range", "if-none-match", "x-wait",
            "content-type", "x-csrf-token", "cookie", "accept", "origin", "sec-fetch-site", "x-forwarded-for", "expect",
        )
        for value in (b"\xb2", b"\xff\xfe", b"", b"9" * 5000, b"-1", b"nan", b"1e999", b"a" * 5000, b"*")
    ),
    *(("range", value) for value in (b"bytes=\xb2-", b"bytes=" + b"9" * 5000 + b"-", b"bytes=-" + b"9" * 5000)),
)  # fmt: skip
LONG = (("x-wait", b"9" * 5000), ("x-wait", b"1e999"))
"""What is meant to take long."""


class Place(msgspec.Struct, frozen=True):
    """A gateway that listens, a key for all it can do, and the names of what is there."""

    url: str
    key: str
    known: dict[str, dict[str, str]]
    file_id: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}", "x-wait": "0"}

    def path(self, operation: Operation, names: dict[str, str] | None = None) -> str:
        """Return a path to what is there, but for these names."""
        named = self.names(operation) | (names or {})
        return PARTS.sub(lambda part: named[part[1]], operation.path)

    def names(self, operation: Operation) -> dict[str, str]:
        return {name: self.known.get(operation.name, {}).get(name, self.known[""][name])
                for name in PARTS.findall(operation.path)}  # fmt: skip

    def ask(
        self,
        operation: Operation,
        target: str,
        body: bytes | None = None,
        media: str = "",
        header: tuple[str, bytes] | None = None,
    ) -> httpx.Response:
        """Send exactly this: what a client library would mend or refuse, too."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        headers = self.headers | ({"content-type": media or operation.media} if body is not None else {})
        whole = {name: value.encode() for name, value in headers.items()} | (dict([header]) if header else {})
        connection.request(operation.method, target, body, whole)
        reply = connection.getresponse()
        answer = httpx.Response(reply.status, headers=reply.getheaders(), content=reply.read())
        connection.close()
        return answer


@pytest.fixture(scope="module")
def place(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A gateway in a thread of its own, so that what asks may be slow or synchronous."""
    stop, data = threading.Event(), tmp_path_factory.mktemp("gateway")
    made: Future[Place] = Future()
    ended: Future[None] = Future()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_waiting, "_LOOK", 0.02)
        patch.setattr(chat_waiting, "_LEAST", 0.02)  # nobody works here: no chat need wait to learn that
        thread = threading.Thread(target=lambda: _run(_gateway(server.url, data, made, stop), made, ended))
        thread.start()
        yield made.result(60)
        stop.set()
        thread.join()
        ended.result()


def _run(gateway: Coroutine[None, None, None], *waited_for: Future[Any]) -> None:
    """Run a gateway; whoever waits for something of it hears of its errors."""
    try:
        asyncio.run(gateway)
        waited_for[-1].set_result(None)
    except BaseException as error:  # noqa: BLE001 - told to the test, where pytest would only say that a thread failed
        for each in waited_for:
            if not each.done():
                each.set_exception(error)


async def _gateway(redis_url: str, data: Path, made: "Future[Place]", stop: threading.Event) -> None:
    redis = connect(redis_url)
    await redis.flushall()
    stopping, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with Simulator() as simulator:
        environ = {"BATCHMILL_DATA_DIR": str(data), "BATCHMILL_BASE_URL": simulator.base_url}
        settings = load(environ=environ)
        settings = msgspec.structs.replace(settings, service=msgspec.structs.replace(settings.service, port=0))
        serving = asyncio.create_task(serve(redis, settings, listening.set_result, stopping))
        try:
            made.set_result(await _furnish(redis, settings, await listening))
            await asyncio.to_thread(stop.wait)
        finally:
            stopping.set()
            await serving
    await check_leaks(redis)  # whatever was asked for, no key is left without an end
    await redis.flushall()
    await redis.aclose()


async def _furnish(redis: Redis, settings: Settings, url: str) -> Place:
    """Put one of everything there."""
    upstream = settings.upstream_name
    rules = policy_of(
        budget("all", 10**10),
        budget("web-cap", 10**10, project="web"),
        Limit(match="*", name="rate", requests_per_minute=60),
    )
    await policy.apply(redis, upstream, rules, "test.toml")
    wanted = Wanted(name="fuzz", project=None, scopes=api_keys.SCOPES, requests_per_minute=10**9)
    made = await api_keys.create(redis, upstream, wanted, "test")
    other = await api_keys.create(redis, upstream, Wanted(name="other", project="web"), "test")
    alert = Alert(kind=AlertKind.BUDGET_WARNING, subject="all", period="p", text="nearly", amount=1, limit=2)
    alert_id = await alerts.raise_once(redis, upstream, Due(alert, None))
    headers = {"authorization": f"Bearer {made.text}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        file_id, doomed = [await upload(client, jsonl([_line(number)])) for number in range(2)]
        file_id = await upload(client, jsonl([_line(number) for number in range(3)]))
        ended = await create(client, file_id)
        await when(client, ended["id"], "in_progress")
        await finish(redis, ended["id"], fail=(1,))
        await when(client, ended["id"])
        waiting = await create(client, file_id, max_cost_usd=1)
        await when(client, waiting["id"], "in_progress")
    known = {
        "": {
            "batch_id": ended["id"], "file_id": file_id, "custom_id": "line-1", "model": MODEL, "key_id": other.key.id,
            "alert_id": str(alert_id), "name": "web-cap",
        },
        "delete_file": {"file_id": doomed},
        "cancel_batch": {"batch_id": waiting["id"]},
        "change_limit_rates": {"name": "rate"},
    }  # fmt: skip
    return Place(url, made.text, known, file_id)


def _line(number: int) -> dict[str, Any]:
    return line(number, body={"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": f"{number}"}]})


def _documented(operation: Operation, answer: httpx.Response, asked: object) -> None:
    """Fail for an answer that the document does not tell of, or that says nothing a client understands."""
    told = SCHEMA.raw_schema["paths"][PARTS.sub(r"{\1}", operation.path)][operation.method.lower()]["responses"]
    what = (operation.name, asked, answer.status_code, answer.text[:300])
    assert answer.status_code != 500, what
    assert str(answer.status_code) in told, what
    media = answer.headers["content-type"].partition(";")[0]
    assert media in told[str(answer.status_code)].get("content", {"application/json": {}}), what
    if answer.status_code >= 400:
        assert msgspec.json.decode(answer.content, type=ErrorObject).error.message, what


def _unrouted(answer: httpx.Response) -> bool:
    """Whether a path led to no operation, or to another one than was meant."""
    return answer.status_code == 405 or (answer.status_code == 404 and "Invalid URL" in answer.text)


@pytest.mark.parametrize(("operation", "mode"), MODES, ids=lambda each: each.name.lower())
def test_whatever_is_asked_the_answer_is_documented(place: Place, operation: Operation, mode: GenerationMode) -> None:
    told = SCHEMA[PARTS.sub(r"{\1}", operation.path)][operation.method]
    names = place.names(operation)
    anything, known = told.as_strategy(mode), told.as_strategy(mode, path_parameters=names) if names else None

    @bounded(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(known if known is not None and data.draw(st.booleans()) else anything)
        response = case.call(base_url=place.url, headers=place.headers, timeout=30)
        assert response.status_code != 500, (case.as_curl_command(), response.text)
        case.validate_response(response, checks=CHECKS)

    ask()


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if PARTS.search(each.path)], ids=lambda operation: operation.name
)
def test_no_name_in_a_path_breaks_it(place: Place, operation: Operation) -> None:
    for name in PARTS.findall(operation.path):
        for value in IN_PATHS:
            answer = place.ask(operation, place.path(operation, {name: value}), b"{}" if operation.body else None)
            if not _unrouted(answer):
                _documented(operation, answer, value)
            assert answer.status_code >= 400 or operation.name in ("reset_breaker", "trip_breaker"), (
                value,
                answer.text,
            )


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if each.query is not None], ids=lambda operation: operation.name
)
def test_no_query_breaks_it(place: Place, operation: Operation) -> None:
    assert operation.query is not None
    path = place.path(operation)
    for name in operation.query.__struct_fields__:
        for value in IN_QUERIES:
            if (name, value) == ("wait", "true"):
                continue  # it would wait
            _documented(operation, place.ask(operation, f"{path}?{name}={value}"), (name, value))
        _documented(operation, place.ask(operation, f"{path}?{name}=1&{name}=2&%00=%FF&&="), name)


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if each.body is not None], ids=lambda operation: operation.name
)
def test_no_body_breaks_it(place: Place, operation: Operation) -> None:
    path = place.path(operation)
    for body in IN_BODIES:
        for media in (operation.media, "text/plain", "multipart/form-data; boundary=x", "x/\xff; charset=\xff"):
            _documented(operation, place.ask(operation, path, body, media), (body[:40], media))


@pytest.mark.parametrize("operation", JSON_BODIES, ids=lambda operation: operation.name)
def test_no_value_of_a_field_breaks_it(place: Place, operation: Operation) -> None:
    path, good = place.path(operation), _good(place)[operation.name]
    for name in operation.body.__struct_encode_fields__:
        for value in IN_FIELDS:
            fields = [f'"{key}":'.encode() + msgspec.json.encode(each) for key, each in good.items() if key != name]
            body = b"{" + b",".join([*fields, f'"{name}":'.encode() + value]) + b"}"
            _documented(operation, place.ask(operation, path, body), (name, value[:40]))


@pytest.mark.parametrize("operation", GENERATED, ids=lambda operation: operation.name)
def test_no_header_breaks_it(place: Place, operation: Operation) -> None:
    path = place.path(operation)
    good = _good(place).get(operation.name)
    body = msgspec.json.encode(good) if good else b"" if operation.body else None
    for header in HEADERS:
        if header not in LONG or operation.name != "create_chat_completion":
            _documented(operation, place.ask(operation, path, body, header=header), header)


def _good(place: Place) -> dict[str, dict[str, Any]]:
    """Return a good body for each operation that has one of JSON."""
    window = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return {
        "create_batch": {"input_file_id": place.file_id} | window,
        "create_chat_completion": {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]},
        "create_key": {"name": "made"},
        "change_budget": {"limit_usd": 10},
        "change_limit_rates": {"requests_per_minute": 60},
        "pause_model": {"model": MODEL},
        "release_suspects": {"holds": ["x"]},
    }


def test_what_never_ends_has_nothing_to_generate_and_begins_as_documented(place: Place) -> None:
    for operation in OPERATIONS:
        if operation.name in ENDLESS:
            assert operation.query is operation.body is None
            assert not PARTS.search(operation.path)
            with httpx.stream(operation.method, place.url + operation.path, headers=place.headers) as answer:
                assert answer.status_code == operation.status
                assert answer.headers["content-type"].startswith(operation.answer_media)
