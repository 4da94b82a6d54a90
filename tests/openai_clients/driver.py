"""What a program does with OpenAI's client, unmodified: run by itself against a gateway, with each major version.

    driver.py BASE_URL STEP...      every step by default; prints each as it passes, and ends with 1 when one did not

Nothing here is ours but the fields that begin with `x_`, and what goes through `extra_body` and `extra_headers`.
"""

import base64
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
from openai import OpenAI

MODEL = "openai/gpt-4o-mini"
OTHER = "anthropic/claude-haiku-4.5"
_PATIENCE = 60.0
_FINAL = ("completed", "failed", "expired", "cancelled")

STEPS: dict[str, Callable[[OpenAI], None]] = {}


def step(function: Callable[[OpenAI], None]) -> Callable[[OpenAI], None]:
    STEPS[function.__name__] = function
    return function


def line(custom_id: str, *, model: str = MODEL, prompt: str | None = None, **fields: Any) -> dict[str, Any]:
    body = {"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": prompt or f"Say {custom_id}"}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": {**body, **fields}}


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


def handed(client: OpenAI, *lines: dict[str, Any], **extra: Any) -> Any:
    """Upload the lines and create a batch of them."""
    file = client.files.create(file=("lines.jsonl", jsonl(*lines)), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **extra
    )


def ended(client: OpenAI, batch: Any) -> Any:
    """Poll until the batch is over."""
    deadline = time.monotonic() + _PATIENCE
    while batch.status not in _FINAL:
        assert time.monotonic() < deadline, f"still {batch.status}"
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def raised(kind: type[openai.APIStatusError], call: Callable[[], Any]) -> Any:
    """Return the exception that a call raises."""
    found: openai.APIStatusError | None = None
    try:
        call()
    except kind as error:
        found = error
    assert found is not None, f"no {kind.__name__}"
    assert found.request_id, "an error without its request's id"
    return found


@step
def upload_by_path_and_by_tuple(client: OpenAI) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.jsonl"
        path.write_bytes(jsonl(line("a")))
        by_path = client.files.create(file=path, purpose="batch")
    assert by_path.filename == "mine.jsonl"
    assert (by_path.object, by_path.purpose, by_path.status) == ("file", "batch", "processed")
    by_tuple = client.files.create(file=("other.jsonl", jsonl(line("b")), "application/jsonl"), purpose="batch")
    assert by_tuple.id != by_path.id
    found = client.files.retrieve(by_path.id)
    assert found.bytes == by_path.bytes == len(jsonl(line("a")))
    assert client.files.content(by_path.id).content == jsonl(line("a"))
    assert {by_path.id, by_tuple.id} <= {file.id for file in client.files.list(purpose="batch")}
    gone = client.files.delete(by_path.id)
    assert (gone.id, gone.deleted) == (by_path.id, True)
    raised(openai.NotFoundError, lambda: client.files.retrieve(by_path.id))


@step
def a_batch_from_submit_to_its_files(client: OpenAI) -> None:
    lines = [line(f"line-{number}", model=MODEL if number % 2 else OTHER) for number in range(12)]
    batch = handed(client, *lines, metadata={"job": "nightly"}, extra_body={"max_cost_usd": 1.5})
    assert batch.id.startswith("batch_")
    assert (batch.object, batch.endpoint, batch.completion_window) == ("batch", "/v1/chat/completions", "24h")
    assert batch.metadata == {"job": "nightly"}
    assert batch.expires_at == batch.created_at + 86_400
    batch = ended(client, batch)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (12, 12, 0)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.error_file_id is None
    assert batch.x_cost["spent_usd"] > 0
    assert batch.x_cost["cap_usd"] == 1.5
    usage = batch.usage if isinstance(batch.usage, dict) else batch.usage.model_dump()
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    whole = client.files.content(batch.output_file_id).text
    answers = {answer["custom_id"]: answer for answer in map(json.loads, whole.splitlines())}
    assert answers.keys() == {each["custom_id"] for each in lines}
    assert {answer["response"]["status_code"] for answer in answers.values()} == {200}
    assert answers["line-1"]["response"]["body"]["choices"][0]["message"]["content"]
    with client.files.with_streaming_response.content(batch.output_file_id) as response:
        assert list(response.iter_lines()) == whole.splitlines()
    with client.files.with_streaming_response.content(batch.output_file_id) as response:
        assert b"".join(response.iter_bytes()) == whole.encode()


@step
def lines_that_fail_are_in_the_error_file(client: OpenAI) -> None:
    bad = line("bad", model="no/such-model")
    batch = ended(client, handed(client, line("good"), bad, extra_body={"on_invalid": "skip"}))
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (2, 1, 1)
    (failed,) = map(json.loads, client.files.content(batch.error_file_id).text.splitlines())
    assert failed["custom_id"] == "bad"
    assert (failed["error"] or failed["response"]["body"]["error"])["message"]


@step
def bad_lines_fail_the_batch_and_are_named(client: OpenAI) -> None:
    batch = ended(client, handed(client, line("same"), line("same"), line("third", stream=True)))
    assert batch.status == "failed"
    assert batch.failed_at
    assert batch.request_counts.completed == 0
    told = [(error.code, error.line, error.param) for error in batch.errors.data]
    assert told == [("duplicate_custom_id", 2, "custom_id"), ("streaming_unsupported", 3, "body.stream")]


@step
def an_unknown_file_fails_the_batch_later(client: OpenAI) -> None:
    batch = client.batches.create(
        input_file_id="file-nowhere", endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert batch.status == "validating"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (0, 0, 0)
    (error,) = ended(client, batch).errors.data
    assert (error.code, error.line) == ("invalid_request", None)
    assert "Cannot find file file-nowhere" in error.message


@step
def what_openai_does_not_have(client: OpenAI) -> None:
    """Longer windows, and results that can be read while the others still run."""
    lines = [line(f"growing-{number}") for number in range(300)]
    file = client.files.create(file=("lines.jsonl", jsonl(*lines)), purpose="batch")
    week: Any = "7d"
    batch: Any = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=week, extra_body={"priority": "high"}
    )
    assert (batch.expires_at - batch.created_at, batch.x_priority) == (7 * 86_400, "high")
    while not batch.request_counts.completed:
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    assert batch.output_file_id is None
    raw = client.files.with_raw_response.content(batch.x_output_file_id)
    early = raw.text if isinstance(raw.text, str) else raw.text()
    done = ended(client, batch)
    whole = client.files.content(done.output_file_id).text
    assert done.output_file_id == batch.x_output_file_id
    assert early
    assert whole.startswith(early), "what was there once stays as it is"
    assert len(whole.splitlines()) == 300


@step
def pages_of_batches_and_of_files(client: OpenAI) -> None:
    made = [handed(client, line(f"page-{number}")).id for number in range(5)]
    newest = [batch.id for _, batch in zip(range(5), client.batches.list(limit=2))]  # noqa: B905 - the list goes on
    assert newest == made[::-1]
    everything = [batch.id for batch in client.batches.list(limit=2)]
    assert len(everything) == len(set(everything)) >= 5
    page = client.batches.list(limit=2)
    assert page.has_more
    files = [file.id for file in client.files.list(limit=3)]
    assert len(files) == len(set(files)) >= 5


@step
def cancel(client: OpenAI) -> None:
    batch = handed(client, *(line(f"cancel-{number}") for number in range(400)))
    stopped = client.batches.cancel(batch.id)
    assert stopped.status in ("cancelling", "cancelled")
    assert client.batches.cancel(batch.id).id == batch.id  # asked twice is no error
    stopped = ended(client, stopped)
    assert stopped.status == "cancelled"
    assert stopped.cancelled_at >= stopped.cancelling_at
    done = ended(client, handed(client, line("quick")))
    began = time.monotonic()
    error = raised(openai.ConflictError, lambda: client.batches.cancel(done.id))
    assert "Cannot cancel a batch with status 'completed'." in str(error)
    assert time.monotonic() - began < 0.5, "the client tried again"


@step
def errors_are_the_client_s_exceptions(client: OpenAI) -> None:
    missing = raised(openai.NotFoundError, lambda: client.batches.retrieve("batch_nowhere"))
    assert "No batch found with id 'batch_nowhere'." in str(missing)
    assert missing.type == "invalid_request_error"
    raised(openai.NotFoundError, lambda: client.files.content("file-nowhere"))
    wrong: Any = {"input_file_id": "file-x", "endpoint": "/v1/nothing", "completion_window": "24h"}
    error = raised(openai.BadRequestError, lambda: client.batches.create(**wrong))
    assert (error.param, error.code) == ("endpoint", "invalid_value")
    wrong = {"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "completion_window": "1m"}
    assert raised(openai.BadRequestError, lambda: client.batches.create(**wrong)).param == "completion_window"
    wrong |= {"completion_window": "24h", "metadata": {"tags": ["a"]}}
    error = raised(openai.BadRequestError, lambda: client.batches.create(**wrong))
    assert (error.param, error.code) == ("metadata.tags", "invalid_type")
    error = raised(openai.BadRequestError, lambda: client.files.create(file=("x.jsonl", b"not json"), purpose="batch"))
    assert "Invalid file format for Batch API. Must be .jsonl" in str(error)


@step
def models(client: OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    model: Any = client.models.retrieve(MODEL)
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "openai")
    assert model.created == listed[MODEL].created > 1_600_000_000
    assert model.x_prices["input"] == 0.15
    error = raised(openai.NotFoundError, lambda: client.models.retrieve("no/such-model"))
    assert (error.param, error.code) == ("model", "model_not_found")


@step
def chat(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Hello"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=10)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 10
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=messages, max_tokens=10, extra_body={"max_cost_usd": 0.5, "fallback_models": [OTHER]}
    )
    assert float(raw.headers["x-cost-usd"]) > 0
    assert raw.headers["x-batch-id"].startswith("batch_")
    assert raw.parse().choices[0].message.content
    error = raised(
        openai.NotFoundError, lambda: client.chat.completions.create(model="no/such-model", messages=messages)
    )
    assert error.code == "model_not_found"
    error = raised(openai.BadRequestError, lambda: client.chat.completions.create(model=MODEL, messages=[]))
    assert error.param == "messages"


@step
def streamed_chat(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Hello"}]
    chunks = list(client.chat.completions.create(model=MODEL, messages=messages, max_tokens=10, stream=True))
    assert all(chunk.object == "chat.completion.chunk" and chunk.usage is None for chunk in chunks)
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks).split()) == 10
    assert chunks[-1].choices[0].finish_reason == "length"
    *_, last = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=10, stream=True, stream_options={"include_usage": True}
    )
    assert not last.choices
    assert last.usage is not None
    assert last.usage.completion_tokens == 10


@step
def a_response_that_got_lost(client: OpenAI) -> None:
    """The proxy at PROXY_URL drops the first answer to every creation, so that the client asks again."""
    proxied = client.with_options(base_url=os.environ["PROXY_URL"])
    before = {batch.id for batch in client.batches.list()}
    files = {file.id for file in client.files.list()}
    batch = handed(proxied, line("lost"))
    assert {each.id for each in client.batches.list()} - before == {batch.id}
    assert {each.id for each in client.files.list(purpose="batch")} - files == {batch.input_file_id}
    assert ended(client, batch).request_counts.completed == 1


@step
def webhook(client: OpenAI) -> None:
    """The test's server at HOOK_URL keeps what it was sent at HOOK_FILE."""
    batch = handed(client, line("hook"), extra_body={"webhook_url": os.environ["HOOK_URL"]})
    ended(client, batch)
    kept = Path(os.environ["HOOK_FILE"])
    deadline = time.monotonic() + _PATIENCE
    while not kept.exists():
        assert time.monotonic() < deadline, "no webhook came"
        time.sleep(0.1)
    sent = json.loads(kept.read_bytes())
    verifier = client.with_options(webhook_secret=os.environ["HOOK_SECRET"])
    event: Any = verifier.webhooks.unwrap(sent["body"], sent["headers"])
    assert (event.object, event.type, event.data.id) == ("event", "batch.completed", batch.id)
    wrong = "whsec_" + base64.b64encode(bytes(32)).decode()
    try:
        client.with_options(webhook_secret=wrong).webhooks.unwrap(sent["body"], sent["headers"])
    except openai.InvalidWebhookSignatureError:
        return
    raise AssertionError("a wrong secret opened it")


def main() -> int:
    base_url, *named = sys.argv[1:]
    client = OpenAI(base_url=base_url, api_key=os.environ.get("CLIENT_KEY", "none"))
    failed = 0
    for name in named or STEPS:
        began = time.monotonic()
        try:
            STEPS[name](client)
            print(f"ok {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception:  # noqa: BLE001 - told, and counted
            failed += 1
            print("FAILED", name, flush=True)
            traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
