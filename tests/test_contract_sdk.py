"""The simulator against OpenRouter's official SDK, which is generated from OpenRouter's schema: every answer decodes.

Strictly: no value may be of another type than the SDK declares, none may fall into its net for unknown values. What
we send and it does not declare, and the reverse, is listed here, so that neither list grows unseen. Our own client
reads the same answers, and must have understood the same.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from batchmill.config.settings import Secret, UpstreamSettings
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.money import to_nano
from batchmill.openrouter.outcomes import Answer, Failure
from batchmill.openrouter.simulator import FaultKind, Faults
from batchmill.openrouter.simulator.account import KeyLimit

from .sdk_helpers import KEY, SdkDesk, differences, sdk, sdk_desk

MODEL = "openai/gpt-4o-mini"
THINKER = "deepseek/deepseek-v3.2"
MESSAGES = [{"role": "user", "content": "Say something."}]
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
PROVIDER = {
    "only": ["openai"],
    "ignore": ["azure"],
    "order": ["openai"],
    "allow_fallbacks": False,
    "require_parameters": True,
    "data_collection": "deny",
    "sort": "price",
    "max_price": {"prompt": "0.15", "completion": "0.6"},
}

# on the wire since long, and in the reference, but not in the schema
UNDECLARED_IN_RESULT = {".provider", ".choices[].native_finish_reason"}
UNDECLARED_IN_USAGE = {".usage.completion_tokens_details.image_tokens"}

# in the schema, but we have no use for it: plugins, server tools, media, predictions
ABSENT_IN_RESULT = {
    ".alignment",
    ".openrouter_metadata",
    ".safeguard_results",
    ".choices[].message.audio",
    ".choices[].message.images",
    ".choices[].message.model",
    ".choices[].message.name",
    ".choices[].message.reasoning_details",
    ".choices[].message.tool_calls",
    ".usage.completion_tokens_details.accepted_prediction_tokens",
    ".usage.completion_tokens_details.rejected_prediction_tokens",
    ".usage.cost_details.server_tool_cost",
    ".usage.server_tool_use_details",
}

DEPRECATED = pytest.mark.filterwarnings("ignore:.*DEPRECATED:DeprecationWarning")  # two fields of `GET /key`

ERRORS = {
    FaultKind.BAD_REQUEST: "BadRequestResponseError",
    FaultKind.CONTEXT: "BadRequestResponseError",
    FaultKind.UNAUTHORIZED: "UnauthorizedResponseError",
    FaultKind.OUT_OF_CREDITS: "PaymentRequiredResponseError",
    FaultKind.IN_FLIGHT_BUDGET: "PaymentRequiredResponseError",
    FaultKind.MODERATION: "ForbiddenResponseError",
    FaultKind.BUDGET_SPENT: "ForbiddenResponseError",
    FaultKind.NO_ENDPOINT: "NotFoundResponseError",
    FaultKind.REQUEST_TIMEOUT: "RequestTimeoutResponseError",
    FaultKind.TOO_LARGE: "PayloadTooLargeResponseError",
    FaultKind.UNPROCESSABLE: "UnprocessableEntityResponseError",
    FaultKind.RATE_LIMIT: "TooManyRequestsResponseError",
    FaultKind.INTERNAL: "InternalServerResponseError",
    FaultKind.BAD_GATEWAY: "BadGatewayResponseError",
    FaultKind.UNAVAILABLE: "ServiceUnavailableResponseError",
    FaultKind.EDGE_TIMEOUT: "EdgeNetworkTimeoutResponseError",
    FaultKind.OVERLOADED: "ProviderOverloadedResponseError",
}


@asynccontextmanager
async def ours(at: SdkDesk) -> AsyncIterator[Upstream]:
    settings = UpstreamSettings(base_url=at.simulator.base_url)
    async with Upstream(settings, Secret(KEY), max_connections=2) as upstream:
        yield upstream


@pytest.mark.parametrize(
    "fields",
    [
        {"model": MODEL},
        {"model": MODEL, "max_tokens": 3},
        {"model": THINKER, "reasoning": {"effort": "high"}},
        {"model": MODEL, "response_format": SCHEMA},
        {"model": MODEL, "tools": [TOOL], "tool_choice": "required"},
        {"model": MODEL, "models": ["x-ai/grok-4-fast"], "provider": PROVIDER},
    ],
    ids=["plain", "cut off", "thinking", "json_schema", "tools", "models and provider"],
)
async def test_a_completion_decodes_and_our_client_reads_the_same(fields: dict[str, Any]) -> None:
    async with sdk_desk() as at, ours(at) as upstream:
        result = await at.client.chat.send_async(messages=MESSAGES, **fields)
        found = differences(result, at.wire.json)
        answer = await upstream.complete(at.wire.sent)
    assert found.wrong == []
    assert found.undeclared == UNDECLARED_IN_RESULT | UNDECLARED_IN_USAGE
    assert found.absent <= ABSENT_IN_RESULT
    assert isinstance(answer, Answer)
    assert_same(answer, result)


async def test_a_stream_decodes_and_our_client_gathers_the_same() -> None:
    async with sdk_desk() as at, ours(at) as upstream:
        # what our client asks for, so that its body is the same to the byte, and the answer with it
        chunks = await chunks_of(at, model=MODEL, stream_options={"include_usage": True})
        sent = at.wire.events
        answer = await upstream.stream(at.wire.sent)
    assert len(chunks) == len(sent) > 2
    for chunk, event in zip(chunks, sent, strict=True):
        found = differences(chunk, event)
        assert found.wrong == []
        assert found.undeclared <= UNDECLARED_IN_RESULT | UNDECLARED_IN_USAGE
    assert isinstance(answer, Answer)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == text
    assert_usage(answer, chunks[-1])


async def test_a_demanded_tool_is_called_whole_and_streamed() -> None:
    asked: dict[str, Any] = {"model": MODEL, "tools": [TOOL], "tool_choice": "required"}
    async with sdk_desk() as at, ours(at) as upstream:
        whole = await at.client.chat.send_async(messages=MESSAGES, **asked)
        chunks = await chunks_of(at, **asked, stream_options={"include_usage": True})
        assert [differences(*pair).wrong for pair in zip(chunks, at.wire.events, strict=True)] == [[]] * len(chunks)
        answer = await upstream.stream(at.wire.sent)
    (call,) = whole.choices[0].message.tool_calls
    assert (call.function.name, whole.choices[0].finish_reason) == ("look_up", "tool_calls")
    assert json.loads(call.function.arguments).keys() == {"answer"}
    assert isinstance(answer, Answer)
    (gathered,) = json.loads(answer.body)["choices"][0]["message"]["tool_calls"]
    streamed = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert gathered["function"]["name"] == streamed[0].function.name == "look_up"
    assert gathered["function"]["arguments"] == "".join(call.function.arguments for call in streamed)
    assert json.loads(gathered["function"]["arguments"]).keys() == {"answer"}


@pytest.mark.parametrize("kind", [FaultKind.IN_BAND, FaultKind.MID_STREAM])
async def test_an_error_inside_a_stream_decodes(kind: FaultKind) -> None:
    async with sdk_desk(faults=Faults(rates={kind: 1.0})) as at, ours(at) as upstream:
        chunks = await chunks_of(at, model=MODEL)
        found = differences(chunks[-1], at.wire.events[-1])
        failure = await upstream.stream(at.wire.sent)
    assert found.wrong == []
    assert found.undeclared == UNDECLARED_IN_RESULT | {
        ".error.metadata.provider_name",
        ".error.metadata.raw",
        ".error.metadata.is_byok",
    }
    assert isinstance(failure, Failure)
    assert (failure.status, failure.message) == (chunks[-1].error.code, chunks[-1].error.message)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("kind", "error"), ERRORS.items())
async def test_an_error_is_the_one_that_the_sdk_has_for_it(kind: FaultKind, error: str, stream: bool) -> None:
    errors = sdk().errors
    async with sdk_desk(faults=Faults(rates={kind: 1.0})) as at, ours(at) as upstream:
        with pytest.raises(getattr(errors, error)) as raised:
            await at.client.chat.send_async(messages=MESSAGES, model=MODEL, stream=stream)
        found = differences(raised.value.data, at.wire.json)
        failure = await upstream.complete(at.wire.sent)
    assert found.wrong == []
    assert found.undeclared <= {".error.availability"}
    assert isinstance(failure, Failure)
    assert failure.status == raised.value.data.error.code
    if kind is not FaultKind.MODERATION:  # our message names the reasons, which are in the metadata
        assert failure.message == raised.value.data.error.message


@pytest.mark.parametrize("kind", ERRORS)
async def test_an_error_type_is_one_of_the_schemas(kind: FaultKind) -> None:
    (known, _) = sdk().components.APIErrorType.__args__
    async with sdk_desk(faults=Faults(rates={kind: 1.0})) as at:
        with pytest.raises(sdk().errors.OpenRouterError):
            await at.client.chat.send_async(messages=MESSAGES, model=MODEL)
    assert at.wire.json["error"]["metadata"]["error_type"] in known.__args__


async def test_the_catalogue_decodes_and_our_client_reads_the_same() -> None:
    async with sdk_desk() as at, ours(at) as upstream:
        listed = (await at.client.models.list_async()).result
        found = differences(listed, at.wire.json)
        user = (await at.client.models.list_for_user_async(security={"bearer": KEY})).result
        counted = await at.client.models.count_async()
        one = await at.client.models.get_async(author="openai", slug="gpt-4o-mini")
        assert differences(one, at.wire.json).wrong == []
        facts = await upstream.models()
    assert (found.wrong, found.undeclared) == ([], set())
    assert counted.data.count == len(listed.data) == len(user.data)
    by_id = {model.id: model for model in listed.data}
    assert one.data == by_id[MODEL]
    assert facts.keys() <= by_id.keys()
    for model_id, known in facts.items():
        model = by_id[model_id]
        priced = json.loads(known.pricing)
        assert (priced["prompt"], priced["completion"]) == (model.pricing.prompt, model.pricing.completion)
        assert known.context_length in (model.context_length, None)
        assert known.max_completion_tokens in (model.top_provider.max_completion_tokens, None)
        assert (known.name, known.created, known.canonical_slug) == (model.name, model.created, model.canonical_slug)
        assert set(known.input_modalities) == set(model.architecture.input_modalities)
        assert set(known.parameters) == set(model.supported_parameters)


async def test_endpoints_decode_with_their_statistics_and_our_client_reads_the_same() -> None:
    async with sdk_desk(latency="20", faults=Faults(rates={FaultKind.INTERNAL: 0.1})) as at, ours(at) as upstream:
        for number in range(12):
            with_fault = at.client.chat.send_async(messages=[{"role": "user", "content": str(number)}], model=MODEL)
            await asyncio.gather(with_fault, return_exceptions=True)
        listed = await at.client.endpoints.list_async(author="openai", slug="gpt-4o-mini")
        found = differences(listed, at.wire.json)
        own = await upstream.endpoints(MODEL)
        private = await at.client.endpoints.list_zdr_endpoints_async()
        assert differences(private, at.wire.json).wrong == []
    assert found.wrong == []
    assert found.undeclared == set()
    (endpoint,) = listed.data.endpoints
    assert endpoint.latency_last_30m.p50 == pytest.approx(0.006)
    assert endpoint.throughput_last_30m.p50 > 0
    assert own is not None
    assert [(each.provider_name, each.tag, each.context_length, each.status) for each in own] == [
        (endpoint.provider_name, endpoint.tag, endpoint.context_length, endpoint.status)
    ]
    assert own[0].uptime_last_5m == endpoint.uptime_last_5m
    assert own[0].latency_ms is not None
    assert own[0].latency_ms.p50 == pytest.approx(1000 * endpoint.latency_last_30m.p50)
    assert len(private.data) > len({each.model_id for each in private.data})


async def test_providers_decode() -> None:
    async with sdk_desk() as at:
        listed = await at.client.providers.list_async()
        found = differences(listed, at.wire.json)
    assert found.wrong == []
    assert {"OpenAI", "DeepInfra", "Together"} <= {each.name for each in listed.data}


@DEPRECATED
@pytest.mark.parametrize("limit", [None, KeyLimit(Decimal("2.5"), "monthly"), KeyLimit(Decimal(1))])
async def test_the_key_decodes_and_our_client_reads_the_same(limit: KeyLimit | None) -> None:
    async with sdk_desk(key_limit=limit) as at, ours(at) as upstream:
        await at.client.chat.send_async(messages=MESSAGES, model=MODEL)
        key = (await at.client.api_keys.get_current_key_metadata_async()).data
        found = differences(key, at.wire.json["data"])
        info = await upstream.key()
    assert found.wrong == []
    assert (found.undeclared, found.absent) == (set(), set())
    assert info is not None
    for name in ("label", "limit_reset", "is_free_tier", "expires_at"):
        assert getattr(info, name) == getattr(key, name)
    for name in ("limit", "limit_remaining", "usage", "usage_daily", "usage_monthly"):
        assert_same_money(getattr(info, name), getattr(key, name))
    assert len(info.budgets or ()) == len(key.budgets) == (limit is not None)


async def test_credits_and_generations_decode_and_our_client_reads_the_same() -> None:
    async with sdk_desk() as at, ours(at) as upstream:
        result = await at.client.chat.send_async(messages=MESSAGES, model=MODEL)
        balance = await at.client.credits.get_credits_async()
        assert differences(balance, at.wire.json).wrong == []
        generation = (await at.client.generations.get_generation_async(id=result.id)).data
        found = differences(generation, at.wire.json["data"])
        info = await upstream.generation(result.id)
    assert found.wrong == []
    assert found.undeclared == set()
    assert info is not None
    assert (info.id, info.model, info.provider) == (generation.id, generation.model, generation.provider_name)
    assert_same_money(info.total_cost, generation.total_cost)
    assert balance.data.total_usage == generation.total_cost == result.usage.cost


async def test_a_spent_key_limit_is_refused_as_the_sdk_has_it() -> None:
    async with sdk_desk(key_limit=KeyLimit(Decimal(0), "daily")) as at:
        with pytest.raises(sdk().errors.ForbiddenResponseError) as raised:
            await at.client.chat.send_async(messages=MESSAGES, model=MODEL)
    assert raised.value.data.error.metadata["limit_source"] == "openrouter_key_limit"


async def chunks_of(at: SdkDesk, **fields: Any) -> list[Any]:
    async with await at.client.chat.send_async(messages=MESSAGES, stream=True, **fields) as stream:
        return [chunk async for chunk in stream]


def assert_same(answer: Answer, result: Any) -> None:
    (choice,) = result.choices
    body = json.loads(answer.body)
    assert (answer.model, answer.finish_reason) == (result.model, choice.finish_reason)
    assert body["choices"][0]["message"]["content"] == choice.message.content
    assert_usage(answer, result)


def assert_usage(answer: Answer, result: Any) -> None:
    usage = result.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )
    assert answer.usage.reasoning_tokens == usage.completion_tokens_details.reasoning_tokens
    assert answer.usage.cached_tokens == usage.prompt_tokens_details.cached_tokens
    assert answer.cost == to_nano(Decimal(str(usage.cost)))


def assert_same_money(ours: Decimal | None, theirs: float | None) -> None:
    """Ours is exact, the SDK's the nearest float."""
    assert theirs == (None if ours is None else float(ours))
