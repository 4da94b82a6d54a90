"""The simulator answers as OpenRouter does: completions, streams, lookups, money."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from batchmill.openrouter.money import to_nano
from batchmill.openrouter.prices import Billable, cost, decode_price

from .simulator_helpers import MODEL, desk

REASONER = "google/gemini-2.5-pro"
CLAUDE = "anthropic/claude-haiku-4.5"
OPEN_WEIGHTS = "meta-llama/llama-3.3-70b-instruct"


async def test_a_completion_has_the_documented_shape() -> None:
    async with desk() as at:
        reply = await at.ask()
    answer = reply.json
    assert list(answer) == [
        "id",
        "object",
        "created",
        "model",
        "provider",
        "system_fingerprint",
        "service_tier",
        "choices",
        "usage",
    ]
    (choice,) = answer["choices"]
    assert (answer["object"], answer["model"], answer["provider"]) == ("chat.completion", MODEL, "OpenAI")
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("stop", "stop")
    assert choice["message"]["role"] == "assistant"
    assert len(choice["message"]["content"].split()) == answer["usage"]["completion_tokens"]
    assert reply.headers["X-Generation-Id"] == answer["id"]


async def test_ids_look_like_openrouters() -> None:
    async with desk(clock=lambda: 1_768_414_327.5) as at:
        answer = (await at.ask()).json
    prefix, created, name = answer["id"].split("-")
    assert (prefix, created, answer["created"]) == ("gen", "1768414327", 1768414327)
    assert len(name) == 20
    assert name.isalnum()


async def test_the_cost_is_exactly_the_bill_in_nano_dollars() -> None:
    async with desk() as at:
        reply = await at.ask("x" * 997)
        usage = reply.json["usage"]
        model = (await at.get(f"/model/{MODEL}")).json["data"]
    price = decode_price(json.dumps(model["pricing"]).encode())
    billable = Billable(prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"])
    expected = cost(price, billable, datetime.now(UTC))
    assert expected is not None
    assert to_nano(Decimal(usage["cost"])) == to_nano(expected) == at.simulator.stats.billed_nano
    written = reply.body.partition(b'"cost":')[2].partition(b",")[0].decode()
    assert Decimal(written) == Decimal(to_nano(expected)) / 10**9
    assert len(written) < 16, "a float's noise"


async def test_usage_adds_up() -> None:
    async with desk() as at:
        usage = (await at.ask(model=REASONER)).json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    parts = usage["cost_details"]
    inputs = parts["upstream_inference_prompt_cost"]
    assert inputs + parts["upstream_inference_completions_cost"] == usage["cost"]
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


async def test_prompt_tokens_are_a_quarter_of_the_bytes_and_an_overhead() -> None:
    async with desk() as at:
        plain = (await at.ask("x" * 400)).json["usage"]["prompt_tokens"]
        wide = (await at.ask("\u00e9" * 400)).json["usage"]["prompt_tokens"]
        parts = [{"type": "text", "text": "x" * 400}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
        image = await at.ask(messages=[{"role": "user", "content": parts}])
    assert (plain, wide) == (107, 207)
    assert image.json["usage"]["prompt_tokens"] == 107 + 258


async def test_the_same_body_gets_the_same_answer_and_another_seed_another() -> None:
    async with desk(seed=1) as at:
        first, again, other = await at.ask("a"), await at.ask("a"), await at.ask("b")
    async with desk(seed=1) as at:
        later = await at.ask("a")
    async with desk(seed=2) as at:
        seeded = await at.ask("a")
    text = first.json["choices"][0]["message"]["content"]
    assert again.json["choices"][0]["message"]["content"] == text
    assert later.json["choices"][0]["message"]["content"] == text
    assert other.json["choices"][0]["message"]["content"] != text
    assert seeded.json["choices"][0]["message"]["content"] != text
    assert first.json["id"] != again.json["id"]


async def test_answers_are_as_long_as_asked_for_on_average() -> None:
    async with desk(mean_output_tokens=40) as at:
        lengths = [(await at.ask(str(n))).json["usage"]["completion_tokens"] for n in range(300)]
    assert 34 < sum(lengths) / len(lengths) < 46
    assert len(set(lengths)) > 20


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(("model", "native"), [(MODEL, "length"), (CLAUDE, "max_tokens"), (REASONER, "MAX_TOKENS")])
async def test_a_limit_on_tokens_cuts_the_answer(name: str, model: str, native: str) -> None:
    limit: dict[str, Any] = {name: 5}
    async with desk() as at:
        answer = (await at.ask(model=model, **limit)).json
    choice = answer["choices"][0]
    assert answer["usage"]["completion_tokens"] == 5
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("length", native)


async def test_thinking_can_use_up_the_limit_before_the_first_word() -> None:
    async with desk() as at:
        answer = (await at.ask(model=REASONER, max_tokens=1)).json
    assert answer["choices"][0]["message"]["content"] == ""
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 1
    assert answer["usage"]["cost_details"]["upstream_inference_completions_cost"] == Decimal("0.00001")


async def test_thinking_can_be_switched_off() -> None:
    async with desk() as at:
        answer = (await at.ask(model=REASONER, reasoning={"effort": "none"})).json
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


async def test_json_is_answered_as_json() -> None:
    async with desk() as at:
        whole = (await at.ask(response_format={"type": "json_object"})).json["choices"][0]["message"]["content"]
    assert list(json.loads(whole)) == ["answer"]


async def test_a_stream_says_what_the_whole_answer_says() -> None:
    async with desk() as at:
        reply = await at.ask(stream=True)
    lines = reply.body.decode().split("\n\n")
    assert reply.headers["Content-Type"] == "text/event-stream"
    assert lines[0] == ": OPENROUTER PROCESSING"
    assert lines[-2:] == ["data: [DONE]", ""]
    *content, finish, last = reply.events
    assert {event["id"] for event in reply.events} == {reply.headers["X-Generation-Id"]}
    assert {event["object"] for event in reply.events} == {"chat.completion.chunk"}
    text = "".join(event["choices"][0]["delta"]["content"] for event in content)
    assert len(content) > 1
    assert len(text.split()) == last["usage"]["completion_tokens"]
    assert "usage" not in finish
    assert [event["choices"][0]["finish_reason"] for event in (content[0], finish, last)] == [None, "stop", "stop"]
    assert last["choices"][0]["delta"]["content"] == ""
    assert at.simulator.stats.billed_nano == to_nano(Decimal(last["usage"]["cost"])) > 0


async def test_a_paced_stream_is_the_same_stream() -> None:
    async with desk(clock=lambda: 0.0) as at:
        fast = await at.ask(stream=True)
    async with desk(latency="2", clock=lambda: 0.0) as at:
        slow = await at.ask(stream=True)
    assert slow.body == fast.body


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "Invalid request body"),
        (b'{"model":"openai/gpt-4o-mini"}', "messages"),
        (b'{"model":"openai/gpt-4o-mini","messages":[]}', "messages"),
        (b'{"model":"openai/gpt-4o-mini","messages":[{"content":"x"}]}', "role"),
        (b'{"messages":[{"role":"user","content":"x"}]}', "No models"),
        (b'{"model":"a/b","models":["a","b","c","d"],"messages":[{"role":"user","content":"x"}]}', "3 items"),
        (b'{"model":"openai/gpt-4o-mini","max_tokens":0,"messages":[{"role":"user","content":"x"}]}', "max_tokens"),
    ],
)
async def test_bad_requests_are_refused(body: bytes, says: str) -> None:
    async with desk() as at:
        reply = await at.post("/chat/completions", body)
    assert reply.status == reply.error["code"] == 400
    assert says in reply.error["message"]
    assert at.simulator.stats.billed_nano == 0


async def test_an_unknown_model_is_a_bad_request() -> None:
    async with desk() as at:
        reply = await at.ask(model="nobody/nothing")
    assert reply.status == 400
    assert reply.error["message"] == "nobody/nothing is not a valid model ID"
    assert reply.metadata["error_type"] == "model_not_found"


async def test_what_does_not_fit_into_the_context_is_refused() -> None:
    async with desk() as at:
        reply = await at.ask("x" * 40, max_tokens=128_000)
    assert reply.status == 400
    assert reply.metadata["error_type"] == "context_length_exceeded"
    assert "maximum context length is 128000 tokens" in reply.error["message"]


@pytest.mark.parametrize("path", ["/key", "/credits", "/generation?id=x", "/models/user"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-or-v1-invalid"}, {"Authorization": "Basic x"}])
async def test_private_paths_need_a_key(path: str, headers: dict[str, str]) -> None:
    async with desk() as at:
        reply = await at.get(path, headers)
        completion = await at.ask(headers=headers)
    assert reply.status == completion.status == 401
    assert reply.error == completion.error
    assert reply.error["message"] == ("User not found." if "Bearer" in str(headers) else "No auth credentials found")


async def test_too_dear_for_max_price_is_404() -> None:
    async with desk() as at:
        dear = await at.ask(provider={"max_price": {"prompt": 0.14}})
        text = await at.ask(provider={"max_price": {"completion": "0.59"}})
        cheap = await at.ask(provider={"max_price": {"prompt": 0.15, "completion": "0.6", "request": 0}})
    assert (dear.status, text.status, cheap.status) == (404, 404, 200)
    assert dear.metadata["error_type"] == "not_found"
    assert dear.error["availability"]["code"] == "constraint_filtered"


async def test_max_price_keeps_a_call_from_the_dearer_endpoint() -> None:
    async with desk(spill_rate=1.0) as at:
        dear = (await at.ask(model=OPEN_WEIGHTS)).json
        capped = (await at.ask(model=OPEN_WEIGHTS, provider={"max_price": {"prompt": 0.108}})).json
        listed = (await at.get(f"/models/{OPEN_WEIGHTS}/endpoints")).json["data"]["endpoints"]
    assert [dear["provider"], capped["provider"]] == ["Together", "DeepInfra"]
    assert [endpoint["provider_name"] for endpoint in listed] == ["DeepInfra", "Together"]
    assert Decimal(listed[1]["pricing"]["prompt"]) == Decimal(listed[0]["pricing"]["prompt"]) * Decimal("1.25")


async def test_providers_can_be_chosen_and_ruled_out() -> None:
    async with desk() as at:
        only = (await at.ask(model=OPEN_WEIGHTS, provider={"only": ["together"]})).json
        without = (await at.ask(model=OPEN_WEIGHTS, provider={"ignore": ["deepinfra"]})).json
        nobody = await at.ask(provider={"only": ["together"]})
    assert (only["provider"], without["provider"], nobody.status) == ("Together", "Together", 404)


async def test_a_fallback_answers_for_a_model_that_can_not() -> None:
    async with desk() as at:
        answer = await at.ask(models=[MODEL, "openai/gpt-5-nano"], provider={"max_price": {"prompt": 0.05}})
    assert answer.json["model"] == "openai/gpt-5-nano"
    assert set(at.simulator.stats.by_model) == {"openai/gpt-5-nano"}


@pytest.mark.parametrize("model", ["openrouter/auto", "typesafe/jev-router"])
async def test_a_router_names_the_model_that_answered(model: str) -> None:
    async with desk() as at:
        answer = (await at.ask(model=model)).json
    assert answer["model"] == MODEL
    assert answer["usage"]["cost"] > 0


async def test_a_routing_suffix_is_no_other_model() -> None:
    async with desk() as at:
        assert (await at.ask(model=f"{MODEL}:floor")).json["model"] == MODEL


async def test_long_prompts_are_cached_when_the_options_say_so() -> None:
    async with desk(cached_share=1.0) as at:
        long = (await at.ask("x" * 8000)).json["usage"]
        short = (await at.ask("x" * 800)).json["usage"]
    assert long["prompt_tokens_details"]["cached_tokens"] == 1920
    assert short["prompt_tokens_details"]["cached_tokens"] == 0
    full = Decimal("0.00000015") * 87 + Decimal("0.000000075") * 1920
    assert to_nano(Decimal(long["cost_details"]["upstream_inference_prompt_cost"])) == to_nano(full)


async def test_a_long_prompt_is_written_to_the_cache_where_that_costs() -> None:
    async with desk() as at:
        usage = (await at.ask("x" * 8000, model="openai/gpt-6-luna-pro")).json["usage"]
    assert usage["prompt_tokens_details"]["cache_write_tokens"] == 1920
    expected = Decimal("0.0000001") * 87 + Decimal("0.000000125") * 1920
    assert to_nano(Decimal(usage["cost_details"]["upstream_inference_prompt_cost"])) == to_nano(expected)
