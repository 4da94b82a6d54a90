"""The Batch API as OpenAI's clients know it: every error of the reference's tables, and every state that is shown."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.openrouter.simulator import Simulator
from batchmill.service.compat.batches import OPERATIONS
from batchmill.service.openapi import document

from .batch_api_helpers import MODEL, ask, create, finish, get, jsonl, line, submit, upload, when
from .service_helpers import in_process
from .waiting import wait_until

DAY = 86_400
MISSING = "missing_required_parameter"
TOO_LARGE = "line_too_large"
NO_MODEL = {"messages": [{"role": "user", "content": "Secret"}]}
DUPLICATE = (
    "The custom_id 'line-0' for this request is a duplicate of another request. "
    "The custom_id parameter must be unique for each request in a batch."
)
USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 8,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 28,
}


@pytest.fixture
async def client(redis: Redis, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with its tasks."""
    async with in_process(redis, settings) as client:
        yield client


def error_of(reply: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["x-should-retry"] == "false"
    assert reply.headers["x-request-id"].startswith("req_")
    found: dict[str, Any] = reply.json()["error"]
    assert found["type"] == "invalid_request_error"
    return found


async def faults(client: httpx.AsyncClient, *lines: Any, **fields: Any) -> list[dict[str, Any]]:
    """Return the errors of a batch of these lines, which must fail."""
    batch = await submit(client, lines, **fields)
    assert batch["status"] == "failed"
    assert batch["failed_at"] >= batch["created_at"]
    assert batch["in_progress_at"] is None
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert batch["errors"]["object"] == "list"
    found: list[dict[str, Any]] = batch["errors"]["data"]
    return found


async def test_a_batch_from_its_creation_to_its_end(client: httpx.AsyncClient, redis: Redis) -> None:
    file_id = await upload(client, jsonl([line(0), line(1)]))
    batch = await create(client, file_id, metadata={"who": "me"})
    assert batch["object"] == "batch"
    assert batch["id"].startswith("batch_")
    assert batch["status"] == "validating"
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert batch["expires_at"] == batch["created_at"] + DAY
    assert (batch["input_file_id"], batch["metadata"]) == (file_id, {"who": "me"})
    assert (batch["errors"], batch["output_file_id"], batch["error_file_id"]) == (None, None, None)
    batch = await when(client, batch["id"], "in_progress")
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    assert batch["model"] == MODEL
    await finish(redis, batch["id"])
    done = await when(client, batch["id"], "completed")
    assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert done["usage"] == USAGE
    assert done["created_at"] == batch["created_at"]
    assert done["created_at"] <= done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
    assert [done[name] for name in ("failed_at", "expired_at", "cancelling_at", "cancelled_at")] == [None] * 4
    assert done["output_file_id"] == done["x_output_file_id"]
    assert done["error_file_id"] is None
    assert done["x_cost"]["spent_usd"] == 0.003
    content = await client.get(f"/v1/files/{done['output_file_id']}/content")
    assert {msgspec.json.decode(one)["custom_id"] for one in content.content.splitlines()} == {"line-0", "line-1"}


async def test_a_batch_whose_lines_all_failed_is_completed_without_an_output_file(
    client: httpx.AsyncClient, redis: Redis
) -> None:
    batch = await submit(client, [line(0), line(1)])
    await finish(redis, batch["id"], fail=(0, 1))
    done = await when(client, batch["id"])
    assert done["status"] == "completed"
    assert done["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    assert done["output_file_id"] is None
    assert done["error_file_id"] == done["x_error_file_id"]


async def test_while_its_files_are_not_written_a_batch_is_finalizing(redis: Redis, settings: Settings) -> None:
    async with in_process(redis, settings) as client:
        batch = await submit(client, [line(0)])
    await finish(redis, batch["id"])
    async with in_process(redis, settings, tasks=False) as client:
        done = await get(client, batch["id"])
    assert done["status"] == "finalizing"
    assert done["finalizing_at"] is not None
    assert (done["completed_at"], done["output_file_id"]) == (None, None)


@pytest.mark.parametrize(
    ("fields", "param", "code", "message"),
    [
        (
            {"endpoint": "/v1/nothing"},
            "endpoint",
            "invalid_value",
            "Invalid value: '/v1/nothing'. Supported values are: '/v1/chat/completions'.",
        ),
        ({"completion_window": "1w"}, "completion_window", "invalid_value", None),
        ({"completion_window": ""}, "completion_window", "invalid_value", None),
        ({"completion_window": "0h"}, "completion_window", "invalid_value", None),
        ({"completion_window": "31d"}, "completion_window", "invalid_value", None),
        (
            {"metadata": {"tags": ["a"]}},
            "metadata.tags",
            "invalid_type",
            "Invalid type for 'metadata.tags': expected a string, but got an array instead.",
        ),
        (
            {"metadata": {"n": 1}},
            "metadata.n",
            "invalid_type",
            "Invalid type for 'metadata.n': expected a string, but got an integer instead.",
        ),
        ({"metadata": {f"k{n}": "" for n in range(17)}}, "metadata", "object_above_max_properties", None),
        ({"metadata": {"k" * 65: ""}}, "metadata", "string_above_max_length", None),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length", None),
        ({"input_file_id": ...}, "input_file_id", "missing_required_parameter", None),
        ({"endpoint": ...}, "endpoint", "missing_required_parameter", "Missing required parameter: 'endpoint'."),
        ({"completion_window": ...}, "completion_window", "missing_required_parameter", None),
        ({"input_file_id": 7}, "input_file_id", "invalid_type", None),
        (
            {"max_cost": 1},
            "max_cost",
            "unknown_parameter",
            "Unknown parameter: 'max_cost'; did you mean 'max_cost_usd'?",
        ),
        ({"nights": 1}, "nights", "unknown_parameter", "Unknown parameter: 'nights'."),
        ({"max_cost_usd": -1}, "max_cost_usd", "invalid_value", None),
        ({"max_cost_usd": "much"}, "max_cost_usd", "invalid_value", None),
        (
            {"priority": "urgent"},
            "priority",
            "invalid_value",
            "Invalid value: 'urgent'. Supported values are: 'high', 'normal', 'low'.",
        ),
        ({"strategy": "best"}, "strategy", "invalid_value", None),
        (
            {"on_invalid": "ignore"},
            "on_invalid",
            "invalid_value",
            "Invalid value: 'ignore'. Supported values are: 'fail', 'skip'.",
        ),
        ({"fallback_models": ["auto"]}, "fallback_models", "invalid_value", None),
        ({"tags": {"a b": "c"}}, "tags", "invalid_value", None),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 60}},
            "output_expires_after.seconds",
            "invalid_value",
            None,
        ),
    ],
)
async def test_what_can_t_be_created(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str, code: str, message: str | None
) -> None:
    error = error_of(await ask(client, **({"input_file_id": "file-1"} | fields)))
    assert (error["param"], error["code"]) == (param, code)
    assert param in error["message"] or error["message"].startswith("Invalid value: ")
    if message is not None:
        assert error["message"] == message
    assert (await client.get("/v1/batches")).json()["data"] == []


NO_BODIES = (
    b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"input_file_id":"\\ud83d"}', b'{"max_cost_usd":NaN}', b"[" * 9000,
    b'{"metadata":' + b'{"a":' * 9000, b'{"metadata":' + b'{"a":' * 9000 + b"1" + b"}" * 9001,
)  # fmt: skip


@pytest.mark.parametrize("body", NO_BODIES, ids=range(len(NO_BODIES)))
async def test_a_body_that_is_no_object(client: httpx.AsyncClient, body: bytes) -> None:
    error_of(await client.post("/v1/batches", content=body))


NASTY: list[Any] = [
    None, True, 0, -1, 10**30, 1e308, 1e-30, "", "\0", "é" * 300, "\U0001f600", [], {}, [None], [[]], {"a": None},
    {"": ""}, {"anchor": "created_at", "seconds": 1e9}, "NaN", "Infinity", "-Infinity", "sNaN", "-0", "1e400", "1e-400",
    "0.0000000001",
]  # fmt: skip
FIELDS = (
    "input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after", "max_cost_usd", "priority",
    "fallback_models", "strategy", "on_invalid", "cache", "webhook_url", "tags", "idempotency_key", "", "id",
)  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
async def test_whatever_is_in_a_body_it_is_no_defect(redis: Redis, settings: Settings, field: str) -> None:
    async with in_process(redis, settings, tasks=False) as client:
        for value in NASTY:
            fields: dict[str, Any] = {"input_file_id": "file-1", field: value}
            reply = await ask(client, **fields)
            assert reply.status_code in (200, 400), (value, reply.text)
            if reply.status_code == 400:
                assert reply.json()["error"]["message"]
                assert reply.json()["error"]["param"] is not None, (value, reply.text)


@pytest.mark.parametrize("after", ["", "(", "+", "-", "\0", "batch_", "é", "x" * 5000])
async def test_whatever_a_page_is_to_begin_after(client: httpx.AsyncClient, after: str) -> None:
    batch = await create(client, "file-none")
    reply = await client.get("/v1/batches", params={"after": after})
    assert reply.status_code == 200
    assert [one["id"] for one in reply.json()["data"]] in ([], [batch["id"]])
    if not after:
        assert reply.json()["data"]


async def test_an_unknown_input_file_fails_the_batch_later(client: httpx.AsyncClient) -> None:
    batch = await create(client, "file-none")
    assert batch["status"] == "validating"
    failed = await when(client, batch["id"])
    assert failed["errors"]["data"] == [
        {
            "code": "invalid_request",
            "message": "Cannot find file file-none, or organization batchmill does not have access to it.",
            "param": "file_id",
            "line": None,
        }
    ]


async def test_a_file_that_was_deleted_is_as_unknown_as_any(redis: Redis, settings: Settings) -> None:
    async with in_process(redis, settings, tasks=False) as client:
        file_id = await upload(client, jsonl([line(0)]))
        batch = await create(client, file_id)
        await client.delete(f"/v1/files/{file_id}")
    async with in_process(redis, settings) as client:
        failed = await when(client, batch["id"])
    assert failed["errors"]["data"][0]["param"] == "file_id"


async def test_a_file_of_another_purpose_is_refused(client: httpx.AsyncClient, redis: Redis) -> None:
    batch = await submit(client, [line(0)])
    await finish(redis, batch["id"])
    done = await when(client, batch["id"], "completed")
    error = error_of(await ask(client, input_file_id=done["output_file_id"]))
    assert error["param"] == "input_file_id"


@pytest.mark.parametrize(
    ("wrong", "code", "param", "message"),
    [
        (b"not json", "invalid_json_line", None, "This line is not parseable as valid JSON."),
        (
            line(1, custom_id=None),
            "missing_required_parameter",
            "custom_id",
            "Missing required parameter: 'custom_id'.",
        ),
        (line(1, method=None), "missing_required_parameter", "method", "Missing required parameter: 'method'."),
        (line(1, url=None), "missing_required_parameter", "url", "Missing required parameter: 'url'."),
        (line(1, body=None), "missing_required_parameter", "body", "Missing required parameter: 'body'."),
        (
            line(0),
            "duplicate_custom_id",
            "custom_id",
            DUPLICATE,
        ),
        (
            line(1, url="/v1/embeddings"),
            "invalid_url",
            "url",
            "The URL provided for this request does not match the batch endpoint.",
        ),
        (line(1, method="GET"), "invalid_method", "method", "Only the method POST is supported."),
        (line(1, method="post"), "invalid_method", "method", "Only the method POST is supported."),
        (
            line(1, body={"model": MODEL, "messages": [{"role": "user", "content": "Secret"}], "stream": True}),
            "streaming_unsupported",
            "body.stream",
            "Chat Completions: Streaming is not supported in the Batch API.",
        ),
        (
            line(1, body={"messages": [{"role": "user"}]}),
            "invalid_request",
            "body.model",
            "Model parameter is required.",
        ),
        (line(1, body={"model": MODEL}), "invalid_request", "body.messages", "Messages parameter is required."),
    ],
)
async def test_a_line_that_is_wrong(
    client: httpx.AsyncClient, wrong: Any, code: str, param: str | None, message: str
) -> None:
    (fault,) = await faults(client, line(0), b"", wrong, line(3))
    assert (fault["code"], fault["param"], fault["line"]) == (code, param, 3)
    assert fault["message"].startswith(message)
    assert "Secret" not in fault["message"]


async def test_lines_that_look_odd_and_are_good(client: httpx.AsyncClient) -> None:
    azure = line(3, custom_id="\U0001f600" * 128, url="/chat/completions")  # an id of 512 bytes
    content = b"\xef\xbb\xbf" + jsonl([line(0), b"", b"  \t", line(1), azure]).replace(b"\n", b"\r\n").rstrip()
    batch = await create(client, await upload(client, content))
    found = await when(client, batch["id"], "in_progress", "failed")
    assert (found["errors"], found["request_counts"]["total"]) == (None, 3)


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        (line(1, custom_id=""), "invalid_request", "custom_id"),
        (line(1, custom_id=7), "invalid_request", "custom_id"),
        (line(1, custom_id="x" * 513), "invalid_request", "custom_id"),
        (b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":null}', MISSING, "body"),
        (b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":[]}', "invalid_request", "body"),
        (b'{"custom_id":NaN}', "invalid_json_line", None),
        (b'{"custom_id":"\xff"}', "invalid_json_line", None),
        (b'{"custom_id":"\\ud800"}', "invalid_json_line", None),
        (b"[1]", "invalid_request", None),
        (b"[" * 5000, "invalid_request", None),
        (line(1, body={"model": MODEL, "messages": [{"role": "user", "content": "x" * (4 << 20)}]}), TOO_LARGE, None),
    ],
    ids=range(11),
)
async def test_lines_that_are_odd_and_wrong(client: httpx.AsyncClient, wrong: Any, code: str, param: str) -> None:
    (fault,) = await faults(client, line(0), wrong)
    assert (fault["code"], fault["param"], fault["line"]) == (code, param, 2)


async def test_fifty_thousand_lines_and_one(real_redis: Redis, settings: Settings) -> None:
    lines = [line(number) for number in range(50_001)]
    async with in_process(real_redis, settings) as client:
        (fault,) = await faults(client, *lines)
        assert (fault["code"], fault["line"]) == ("too_many_tasks", None)
        lines[39_999] = lines[1]
        (fault,) = await faults(client, *lines[:50_000])
        assert (fault["code"], fault["line"]) == ("duplicate_custom_id", 40_000)


async def test_an_input_file_with_too_many_lines(redis: Redis, settings: Settings) -> None:
    limits = msgspec.structs.replace(settings.service, max_batch_lines=2)
    async with in_process(redis, msgspec.structs.replace(settings, service=limits)) as client:
        (fault,) = await faults(client, line(0), line(1), line(2))
        assert (fault["code"], fault["line"], fault["param"]) == ("too_many_tasks", None, None)
        assert "2 requests" in fault["message"]


async def test_an_input_file_with_too_many_bytes(redis: Redis, settings: Settings) -> None:
    limits = msgspec.structs.replace(settings.service, max_batch_bytes=100)
    async with in_process(redis, msgspec.structs.replace(settings, service=limits)) as client:
        (fault,) = await faults(client, line(0))
        assert (fault["code"], fault["line"]) == ("file_too_large", None)


async def test_what_a_batch_costs_and_a_model_that_there_is_not(real_redis: Redis, settings: Settings) -> None:
    """At OpenRouter, whose prices are known."""
    async with Simulator() as simulator:
        upstream = msgspec.structs.replace(settings.upstream, base_url=simulator.base_url)
        rehearsed = msgspec.structs.replace(settings, upstream=upstream, simulate=True)
        async with in_process(real_redis, rehearsed) as client:
            body = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
            batch = await submit(client, [line(0, body=body)], max_cost_usd=0.5)
            cost: dict[str, Any] = {}

            async def estimated() -> bool:
                cost.update((await get(client, batch["id"]))["x_cost"])
                return cost["estimate_usd"] is not None

            await wait_until(estimated)
            assert 0 < cost["estimate_usd"] < 0.01
            assert (cost["spent_usd"], cost["held_usd"], cost["cap_usd"]) == (0, 0, 0.5)
            (fault,) = await faults(client, line(0, body=body | {"model": "no/such"}))
            assert (fault["code"], fault["param"], fault["line"]) == ("model_not_found", "body.model", 1)
            assert fault["message"].startswith("The provided model 'no/such' is not supported by the Batch API. ")
            (fault,) = await faults(client, line(0, body=body | {"max_tokens": 10_000}), max_cost_usd="0.000001")
            assert (fault["code"], fault["param"]) == ("over_budget", "body.max_tokens")
            assert "max_cost_usd" in fault["message"]
            assert "--" not in fault["message"]


@pytest.mark.parametrize("url", ["ftp://example.com", "http://127.0.0.1/hook", "http://me:secret@example.com/"])
async def test_a_webhook_that_can_t_be(client: httpx.AsyncClient, url: str) -> None:
    error = error_of(await ask(client, input_file_id="file-1", webhook_url=url))
    assert (error["param"], error["code"]) == ("webhook_url", "invalid_value")
    assert "secret" not in error["message"]


async def test_no_more_than_twenty_errors_are_told(client: httpx.AsyncClient) -> None:
    assert len(await faults(client, line(0), *[b"{" for _ in range(30)])) == 20


async def test_lines_that_are_wrong_can_be_skipped(client: httpx.AsyncClient, redis: Redis) -> None:
    batch = await submit(client, [line(0), line(1, method="GET"), line(2)], on_invalid="skip")
    assert batch["status"] == "in_progress"
    assert batch["request_counts"] == {"total": 3, "completed": 0, "failed": 1}
    await finish(redis, batch["id"])
    done = await when(client, batch["id"], "completed")
    assert done["request_counts"] == {"total": 3, "completed": 2, "failed": 1}


async def test_a_batch_may_mix_models(client: httpx.AsyncClient) -> None:
    other = {"model": "other/model", "messages": [{"role": "user", "content": "Hello"}]}
    batch = await submit(client, [line(0), line(1, body=other)])
    assert batch["status"] == "in_progress"
    assert batch["model"] is None
    assert batch["x_models"] == {MODEL: 1, "other/model": 1}


async def test_an_unknown_batch(client: httpx.AsyncClient) -> None:
    for reply in (
        await client.get("/v1/batches/batch_none"),
        await client.post("/v1/batches/batch_none/cancel"),
        await client.post("/v1/batches/batch_none/retry"),
        await client.get("/v1/batches/batch_none/errors"),
    ):
        assert error_of(reply, 404)["message"] == "No batch found with id 'batch_none'."


async def test_cancelling(client: httpx.AsyncClient, redis: Redis) -> None:
    batch = await submit(client, [line(0), line(1)])
    reply = await client.post(f"/v1/batches/{batch['id']}/cancel")
    assert reply.status_code == 200
    assert reply.json()["status"] in ("cancelling", "cancelled")
    done = await when(client, batch["id"], "cancelled")
    assert done["cancelling_at"] <= done["cancelled_at"]
    assert done["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    assert done["x_counts"]["cancelled"] == 2
    assert done["error_file_id"] is not None
    again = await client.post(f"/v1/batches/{batch['id']}/cancel")
    assert (again.status_code, again.json()) == (200, done)


async def test_what_is_over_can_t_be_cancelled(client: httpx.AsyncClient, redis: Redis) -> None:
    batch = await submit(client, [line(0)])
    await finish(redis, batch["id"])
    await when(client, batch["id"], "completed")
    failed = await submit(client, [b"{}"])
    for batch_id, status in ((batch["id"], "completed"), (failed["id"], "failed")):
        error = error_of(await client.post(f"/v1/batches/{batch_id}/cancel"), 409)
        assert error["message"] == f"Cannot cancel a batch with status '{status}'."


async def test_what_is_validating_can_be_cancelled(redis: Redis, settings: Settings) -> None:
    async with in_process(redis, settings, tasks=False) as client:
        batch = await create(client, await upload(client, jsonl([line(0)])))
        reply = await client.post(f"/v1/batches/{batch['id']}/cancel")
        assert reply.json()["status"] == "cancelled"
    async with in_process(redis, settings) as client:
        assert (await submit(client, [line(0)]))["status"] == "in_progress"  # whose turn comes after the other's
        assert (await get(client, batch["id"]))["status"] == "cancelled"


async def test_what_is_validating_has_no_lines_yet(redis: Redis, settings: Settings) -> None:
    async with in_process(redis, settings, tasks=False) as client:
        batch = await create(client, await upload(client, jsonl([line(0)])))
        path = f"/v1/batches/{batch['id']}/lines"
        assert (await client.get(path)).json() == {"data": [], "has_more": False, "next": None}
        assert "No line found" in error_of(await client.get(f"{path}/line-0"), 404)["message"]


async def test_pages_are_complete_and_stable(client: httpx.AsyncClient) -> None:
    made = [(await create(client, "file-none"))["id"] for _ in range(5)]
    first = (await client.get("/v1/batches", params={"limit": 2})).json()
    made.append((await create(client, "file-none"))["id"])
    found, page = [*first["data"]], first
    while page["has_more"]:
        page = (await client.get("/v1/batches", params={"limit": 2, "after": page["data"][-1]["id"]})).json()
        assert page["object"] == "list"
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        found += page["data"]
    assert [batch["id"] for batch in found] == made[4::-1]
    exact = (await client.get("/v1/batches", params={"limit": 6})).json()
    assert (len(exact["data"]), exact["has_more"]) == (6, False)
    assert (await client.get("/v1/batches", params={"after": made[0]})).json()["data"] == []


@pytest.mark.parametrize("limit", ["0", "101", "x"])
async def test_a_page_has_a_limit(client: httpx.AsyncClient, limit: str) -> None:
    assert error_of(await client.get("/v1/batches", params={"limit": limit}))["param"] == "limit"


async def test_failed_lines_are_grouped_and_tried_again(client: httpx.AsyncClient, redis: Redis) -> None:
    batch = await submit(client, [line(number) for number in range(8)], metadata={"a": "b"})
    early = error_of(await client.post(f"/v1/batches/{batch['id']}/retry"), 409)
    assert early["message"] == "Cannot retry a batch with status 'in_progress'."
    await finish(redis, batch["id"], fail=tuple(range(1, 8)))
    await when(client, batch["id"], "completed")
    causes = (await client.get(f"/v1/batches/{batch['id']}/errors")).json()
    assert causes["failed"] == 7
    (cause,) = causes["data"]
    assert (cause["code"], cause["message"], cause["count"]) == ("context_length_exceeded", "Too long.", 7)
    assert len(cause["custom_ids"]) == 5
    again = (await client.post(f"/v1/batches/{batch['id']}/retry")).json()
    assert again["request_counts"]["total"] == 7
    assert again["x_retry_of"] == batch["id"]
    assert (again["input_file_id"], again["metadata"]) == (batch["input_file_id"], {"a": "b"})
    assert again["expires_at"] == again["created_at"] + DAY
    assert (await client.post(f"/v1/batches/{batch['id']}/retry")).json()["id"] == again["id"]


async def test_nothing_to_try_again(client: httpx.AsyncClient, redis: Redis) -> None:
    batch = await submit(client, [line(0)])
    await finish(redis, batch["id"])
    await when(client, batch["id"], "completed")
    error_of(await client.post(f"/v1/batches/{batch['id']}/retry"))


async def test_why_a_batch_never_ran(client: httpx.AsyncClient) -> None:
    batch = await submit(client, [line(0), line(1, method="GET"), line(2, method="GET"), b"{"])
    causes = (await client.get(f"/v1/batches/{batch['id']}/errors")).json()
    assert [(cause["code"], cause["count"], cause["lines"]) for cause in causes["data"]] == [
        ("invalid_method", 2, [2, 3]),
        ("invalid_json_line", 1, [4]),
    ]


def test_the_document_says_what_is_sent() -> None:
    """Money is a number; a body names each of its fields with what it may be."""
    schemas = document(OPERATIONS, "1")["components"]["schemas"]
    assert schemas["Cost"]["properties"]["spent_usd"]["type"] == "number"
    assert schemas["CreateBatch"]["properties"]["max_cost_usd"]["anyOf"][0] == {"type": "number"}
    assert schemas["CreateBatch"]["properties"]["endpoint"]["enum"] == ["/v1/chat/completions"]
    assert schemas["CreateBatch"]["additionalProperties"] is False


async def test_what_only_we_know(client: httpx.AsyncClient) -> None:
    batch = await submit(
        client,
        [line(0)],
        priority="high",
        tags={"team": "blue"},
        completion_window="7d",
        fallback_models=["other/model"],
    )
    assert batch["expires_at"] == batch["created_at"] + 7 * DAY
    assert (batch["x_priority"], batch["x_tags"], batch["x_project"]) == ("high", {"team": "blue"}, "default")
    assert batch["x_blocked_on"].startswith("no worker")
    assert batch["x_counts"]["pending"] == 1
    assert batch["x_eta"] is None
    assert batch["x_cost"] == {"spent_usd": 0, "held_usd": 0, "cap_usd": None, "estimate_usd": None}
