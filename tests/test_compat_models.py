"""The list of models over HTTP: OpenAI's shape, with what decides between models in `x_` fields."""

from decimal import Decimal

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Alias, Policy
from batchmill.config.settings import Settings
from batchmill.routing.health import FOR_EVER, ModelHealth
from batchmill.service.compat.models import Model, ModelList, _health
from batchmill.store import policy

from .service_helpers import in_process

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def rehearsal(settings: Settings) -> Settings:
    """Settings whose catalogue is the packaged one."""
    return msgspec.structs.replace(settings, simulate=True)


async def test_every_model_is_listed_in_openai_s_shape(redis: Redis, rehearsal: Settings) -> None:
    async with in_process(redis, rehearsal, tasks=False) as client:
        response = await client.get("/v1/models")
    listed = msgspec.json.decode(response.content, type=ModelList)
    assert listed.object == "list"
    assert {model.object for model in listed.data} == {"model"}
    assert len({model.id for model in listed.data}) == len(listed.data) > 300
    raw = {model["id"]: model for model in response.json()["data"]}[MODEL]
    assert {"id", "object", "created", "owned_by"} <= raw.keys()
    assert all(name.startswith("x_") for name in raw.keys() - {"id", "object", "created", "owned_by"})
    assert (raw["owned_by"], raw["created"] > 1_600_000_000) == ("openai", True)


async def test_one_model_says_what_it_costs_and_can(redis: Redis, rehearsal: Settings) -> None:
    async with in_process(redis, rehearsal, tasks=False) as client:
        response = await client.get(f"/v1/models/{MODEL}")
    model = msgspec.json.decode(response.content, type=Model)
    assert model.x_prices is not None
    assert (model.x_prices.input, model.x_prices.output) == (Decimal("0.15"), Decimal("0.6"))
    assert (model.x_context_length, model.x_free, model.x_health) == (128_000, False, None)
    assert "tools" in model.x_capabilities


async def test_variants_know_each_other(redis: Redis, rehearsal: Settings) -> None:
    async with in_process(redis, rehearsal, tasks=False) as client:
        listed = msgspec.json.decode((await client.get("/v1/models")).content, type=ModelList)
        free = next(model for model in listed.data if model.x_variant == "free" and model.x_variants)
        (base,) = [model for model in listed.data if model.id == free.x_variants[0]]
        assert free.x_free
        assert free.id in base.x_variants
        alone = await client.get(f"/v1/models/{free.id}")
        assert msgspec.json.decode(alone.content, type=Model) == free


async def test_names_that_stand_for_several_are_models_too(redis: Redis, rehearsal: Settings) -> None:
    rules = Policy(aliases=(Alias(name="quick", models=(MODEL, "anthropic/claude-haiku-4.5")),))
    await policy.apply(redis, rehearsal.upstream_name, rules, "test")
    async with in_process(redis, rehearsal, tasks=False) as client:
        listed = msgspec.json.decode((await client.get("/v1/models")).content, type=ModelList)
        assert [model.id for model in listed.data[:2]] == ["auto", "quick"]
        alias = msgspec.json.decode((await client.get("/v1/models/quick")).content, type=Model)
        assert alias.x_models == (MODEL, "anthropic/claude-haiku-4.5")
        assert (await client.get("/v1/models/auto")).status_code == 200


async def test_an_unknown_model_is_a_404_that_names_the_nearest(redis: Redis, rehearsal: Settings) -> None:
    async with in_process(redis, rehearsal, tasks=False) as client:
        response = await client.get("/v1/models/openai/gpt-4o-minx")
    error = response.json()["error"]
    assert response.status_code == 404
    assert (error["param"], error["code"], error["type"]) == ("model", "model_not_found", "invalid_request_error")
    assert error["message"].startswith("The model 'openai/gpt-4o-minx' does not exist; did you mean openai/gpt-4o-mini")


async def test_an_endpoint_that_names_no_models_has_an_empty_list(redis: Redis, settings: Settings) -> None:
    async with in_process(redis, settings, tasks=False) as client:  # nobody is at the upstream's address
        response = await client.get("/v1/models")
    assert response.json() == {"object": "list", "data": []}


async def test_openrouter_out_of_reach_is_a_503(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "speaks_openrouter", property(lambda _: True))
    async with in_process(redis, settings, tasks=False) as client:
        response = await client.get("/v1/models")
    assert response.status_code == 503
    assert response.json()["error"]["message"].startswith("The list of models can't be read just now")


@pytest.mark.parametrize(
    ("known", "breaker", "until"),
    [
        (ModelHealth(model=MODEL, calls=4, failures=1), "closed", None),
        (ModelHealth(model=MODEL, half_open=True), "half_open", None),
        (ModelHealth(model=MODEL, open=1_800_000_000_500), "open", 1_800_000_000),
        (ModelHealth(model=MODEL, open=FOR_EVER), "open", None),
    ],
)
def test_health_says_whether_the_breaker_lets_anything_through(
    known: ModelHealth, breaker: str, until: int | None
) -> None:
    told = _health(known)
    assert told is not None
    assert (told.breaker, told.open_until) == (breaker, until)
    assert told.success_rate == (0.75 if known.calls else None)
    assert _health(ModelHealth(model=MODEL)) is None
