"""Looks at the key: who looks when, what is parked and let go, and what of it is never touched."""

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.settings import Settings
from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError
from batchmill.openrouter.outcomes import Retry
from batchmill.openrouter.wire import FreeRequests, KeyBudget, KeyInfo
from batchmill.store import account, batches, gauges, keys, operators, pauses
from batchmill.store.presence import forget_refusal
from batchmill.workers.account import AccountWatch

from .workers_helpers import failure

GOOD = KeyInfo(usage=Decimal("2.75"))
NO_FREE = KeyInfo(free_model_daily_requests=FreeRequests(50, 50, 0))
FAR = "2099-01-01T00:00:00Z"
FAR_MS = round(datetime(2099, 1, 1, tzinfo=UTC).timestamp() * 1000)
KEY = "sk-or-v1-test"  # that of the settings


def spent(resets_at: str | None = FAR) -> KeyInfo:
    return KeyInfo(effective_budget=KeyBudget(scope="workspace", remaining_usd=Decimal(0), resets_at=resets_at))


class Keeper:
    """An upstream that tells of the key what the test says."""

    def __init__(self) -> None:
        self.answer: KeyInfo | Exception | None = GOOD
        self.asked = 0

    async def key(self) -> KeyInfo | None:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Eye:
    """A watch over a scripted upstream, and what it left in Redis."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.upstream = Keeper()
        self.name = settings.upstream_name
        self.watch = AccountWatch(redis, self.upstream, settings, "worker-1")  # type: ignore[arg-type]  # all it asks

    async def look(self, answer: KeyInfo | Exception | None) -> None:
        """Look at once, whatever the interval."""
        self.upstream.answer = answer
        await self.redis.delete(keys.account_turn(self.name))
        await self.watch.look()

    async def paused(self) -> dict[str, str]:
        return {pause.scope: pause.reason for pause in await gauges.pauses(self.redis, self.name)}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings for OpenRouter itself; nothing is sent there."""
    openrouter = msgspec.structs.replace(settings.upstream, base_url="https://openrouter.ai/api/v1")
    return msgspec.structs.replace(settings, upstream=openrouter)


@pytest.fixture
def eye(redis: Redis, settings: Settings) -> Eye:
    return Eye(redis, settings)


async def test_one_worker_looks_in_an_interval(redis: Redis, settings: Settings, eye: Eye) -> None:
    other = Eye(redis, settings)
    for one in (eye, other, eye):
        await one.watch.look()
    assert (eye.upstream.asked, other.upstream.asked) == (1, 0)
    assert 59_000 < await redis.pttl(keys.account_turn(eye.name)) <= 60_000
    await forget_refusal(redis, eye.name)  # what a command does that begins anew
    await other.watch.look()
    assert other.upstream.asked == 1


async def test_what_was_told_is_kept_with_its_time(redis: Redis, eye: Eye) -> None:
    assert await account.read(redis, eye.name) is None
    await eye.look(GOOD)
    known = await account.read(redis, eye.name)
    assert known is not None
    assert known.key == GOOD
    assert known.looked_ms is not None
    await eye.look(UpstreamUnavailableError(failure(Retry.BACKOFF, code="timeout", message="no answer")))
    after = await account.read(redis, eye.name)
    assert after is not None
    assert (after.key, after.looked_ms) == (GOOD, known.looked_ms)
    assert after.failure == "the upstream can't be used now (timeout): no answer"
    assert after.failed_ms is not None
    assert await redis.pttl(keys.account_turn(eye.name)) <= 30_000


async def test_what_another_version_kept_is_as_good_as_nothing(redis: Redis, eye: Eye) -> None:
    await redis.set(keys.account(eye.name), b"[1]", ex=60)
    assert await account.read(redis, eye.name) is None


@pytest.mark.parametrize("switch", ["no check", "no key"])
async def test_nobody_looks_who_was_not_asked_to(redis: Redis, settings: Settings, switch: str) -> None:
    off = msgspec.structs.replace(settings.account, check=False)
    told = msgspec.structs.replace(settings, account=off) if switch == "no check" else settings
    eye = Eye(redis, msgspec.structs.replace(told, api_key=None) if switch == "no key" else told)
    await eye.watch.look()
    assert eye.upstream.asked == 0
    assert not await redis.keys("*")


async def test_an_upstream_without_the_call_is_left_alone_for_an_hour(redis: Redis, eye: Eye) -> None:
    await eye.look(None)
    assert await redis.pttl(keys.account_turn(eye.name)) > 3_590_000
    assert await eye.paused() == {}


async def test_a_spent_budget_parks_everything_until_its_reset(redis: Redis, eye: Eye) -> None:
    await eye.look(spent())
    (pause,) = await gauges.pauses(redis, eye.name)
    assert (pause.scope, pause.until_ms) == ("refused", FAR_MS)
    assert pause.reason == f"workspace_budget_spent: spent: workspace budget (lifetime), $0.00 remaining, resets {FAR}"
    said = await batches.account_refusal(redis, eye.name)
    assert (
        said == f"the upstream refuses the account: spent: workspace budget (lifetime), $0.00 remaining, resets {FAR}"
    )
    await eye.look(GOOD)
    assert await eye.paused() == {}
    assert await batches.account_refusal(redis, eye.name) is None


async def test_one_without_a_reset_parks_until_after_the_next_look(redis: Redis, eye: Eye) -> None:
    await eye.look(spent(None))
    (pause,) = await gauges.pauses(redis, eye.name)
    seconds, _ = await redis.time()
    assert pause.until_ms is not None
    assert 60 < pause.until_ms / 1000 - seconds <= 91


async def test_no_free_requests_park_the_free_models_alone(eye: Eye) -> None:
    await eye.look(NO_FREE)
    assert list(await eye.paused()) == [":free"]
    await eye.look(GOOD)
    assert await eye.paused() == {}


async def test_a_look_ends_what_a_refusal_began_if_it_knows_better(redis: Redis, eye: Eye) -> None:
    async def refuse(code: str) -> None:
        await pauses.pause(redis, eye.name, "a/b", "refused", code, seconds=3600, cut=False)

    await refuse("key_limit_reached")
    await eye.look(GOOD)
    assert await eye.paused() == {}
    await refuse("insufficient_credits")  # of credits the key's books say nothing
    await eye.look(GOOD)
    assert await eye.paused() == {"refused": "insufficient_credits"}
    await eye.look(spent())
    assert await eye.paused() == {"refused": "insufficient_credits"}


async def test_a_refusal_during_the_look_stands(redis: Redis, eye: Eye, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused_meanwhile() -> KeyInfo:
        await pauses.pause(redis, eye.name, "a/b", "refused", "key_limit_reached", seconds=3600, cut=False)
        return GOOD

    monkeypatch.setattr(eye.upstream, "key", refused_meanwhile)
    await eye.look(GOOD)
    assert await eye.paused() == {"refused": "key_limit_reached"}


async def test_an_operator_s_pause_is_not_ours_to_end(redis: Redis, eye: Eye) -> None:
    await operators.pause(redis, eye.name, "a/b", "ops@desk")
    await pauses.pause(redis, eye.name, "a/b", "a/b", "rate_limit_exceeded", seconds=60, cut=False)
    await eye.look(spent())
    await eye.look(GOOD)
    assert set(await eye.paused()) == {"op:a/b", "a/b"}


async def test_a_pause_is_made_longer_and_shorter_as_the_books_say(redis: Redis, eye: Eye) -> None:
    for resets_at in ("2098-01-01T00:00:00Z", FAR, "2098-01-01T00:00:00Z"):
        await eye.look(spent(resets_at))
        (pause,) = await gauges.pauses(redis, eye.name)
        assert resets_at in pause.reason
    assert pause.until_ms is not None
    assert pause.until_ms < FAR_MS


async def test_a_refused_key_parks_everything_until_it_is_taken_again(eye: Eye) -> None:
    await eye.look(UpstreamRefusedError(failure(Retry.ACCOUNT, code="authentication", message="User not found.")))
    assert await eye.paused() == {"refused": "authentication: User not found."}
    await eye.look(GOOD)
    assert await eye.paused() == {}


async def test_elsewhere_a_refused_look_says_nothing_about_completions(redis: Redis, settings: Settings) -> None:
    elsewhere = msgspec.structs.replace(settings.upstream, base_url="https://proxy.test/v1")
    eye = Eye(redis, msgspec.structs.replace(settings, upstream=elsewhere))
    await eye.look(UpstreamRefusedError(failure(Retry.ACCOUNT, code="authentication", message="no")))
    assert await eye.paused() == {}


@pytest.mark.parametrize("label", [f"the key {KEY}", "sk-or-v1-te...est"])
async def test_nothing_of_the_key_goes_to_redis(redis: Redis, eye: Eye, label: str) -> None:
    await eye.look(KeyInfo(label=label, usage=Decimal(3)))
    kept = await redis.get(keys.account(eye.name))
    assert b'"usage":"3"' in kept
    assert b"sk-or" not in kept
