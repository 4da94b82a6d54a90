"""API keys in Redis: made once, told once, kept as hashes; and what ends them."""

import asyncio
import hashlib
from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis

from batchmill.config.policy import Policy
from batchmill.config.windows import WindowKind
from batchmill.store import api_keys, audit, key_budgets, keys, policy, rates, service_keys, sessions
from batchmill.store.api_keys import ApiKeyError, Made, Wanted
from batchmill.store.policy import raise_budget

from .store_helpers import UPSTREAM

USD = 10**9


async def make(redis: Redis, name: str = "ci", **more: Any) -> Made:
    return await api_keys.create(redis, UPSTREAM, Wanted(**{"name": name, "project": "web"} | more), "me")


async def test_only_a_hash_of_the_secret_is_kept(redis: Redis) -> None:
    made = await make(redis, budget_usd=Decimal(5))
    _, key_id, secret = made.text.split("-", 2)
    assert (key_id, made.key.id) == (made.key.id, key_id)
    assert made.key.digest == hashlib.sha256(secret.encode()).hexdigest()
    for name in await redis.keys("*"):
        assert secret.encode() not in (await redis.dump(name) or b"")
    assert secret not in repr(made)
    assert made.key.digest not in repr(made)


async def test_a_key_opens_by_its_whole_text_alone(redis: Redis) -> None:
    made, other = await make(redis), await make(redis, "other")
    assert api_keys.opens(made.key, made.text)
    wrong = (made.text[:-1] + ("A" if made.text[-1] != "A" else "B"), made.text + "x", "", "bm-", "sk-or-v1-x")
    for text in (*wrong, other.text, made.text.upper()):
        assert not api_keys.opens(made.key, text)
    assert not api_keys.opens(None, made.text)
    mixed = other.text.replace(other.key.id, made.key.id)
    assert api_keys.id_in(mixed) == made.key.id
    assert not api_keys.opens(made.key, mixed)


async def test_a_name_is_given_once_even_by_two_at_once(redis: Redis) -> None:
    tries = await asyncio.gather(*(make(redis, budget_usd=Decimal(n + 1)) for n in range(5)), return_exceptions=True)
    made = [one for one in tries if isinstance(one, Made)]
    assert len(made) == 1
    assert all(isinstance(one, Made | ApiKeyError) for one in tries)
    assert len(await api_keys.every(redis, UPSTREAM)) == 1
    (budget,) = (await key_budgets.every(redis, UPSTREAM)).values()
    assert budget.key == made[0].key.id


async def test_a_revoked_name_is_not_given_again_for_its_money_is_still_in_the_books(redis: Redis) -> None:
    made = await make(redis)
    await api_keys.revoke(redis, UPSTREAM, made.key.id, "me")
    with pytest.raises(ApiKeyError, match="another name"):
        await make(redis)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"name": "a b"}, "a name has letters"),
        ({"name": "key:x"}, "a name has letters"),
        ({"scopes": ()}, "at least one"),
        ({"scopes": ("root",)}, "at least one"),
        ({"lasts": 0}, "at least 1"),
        ({"budget_usd": Decimal(-1)}, "limit_usd"),
        ({"requests_per_minute": -5}, "at least 1"),
    ],
)
async def test_what_no_key_can_be_is_refused(redis: Redis, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiKeyError, match=said):
        await make(redis, **more)
    assert await api_keys.every(redis, UPSTREAM) == []


async def test_revoking_is_once_and_audited(redis: Redis) -> None:
    made = await make(redis)
    first = await api_keys.revoke(redis, UPSTREAM, made.key.id, "me")
    assert first.state(first.created_at) == "revoked"
    assert await api_keys.revoke(redis, UPSTREAM, made.key.id, "you") == first
    with pytest.raises(ApiKeyError, match="no API key"):
        await api_keys.revoke(redis, UPSTREAM, "nobody", "me")
    told = [(entry.what, entry.who) for entry in await audit.entries(redis, UPSTREAM, 9)]
    assert told == [("key.revoked", "me"), ("key.created", "me")]
    assert await api_keys.any_made(redis, UPSTREAM)  # who has no key stays outside


async def test_a_key_ends_at_its_time(redis: Redis) -> None:
    key = (await make(redis, lasts=60)).key
    assert key.expires_at == key.created_at + 60
    assert (key.state(key.created_at + 59), key.state(key.created_at + 60)) == ("active", "expired")


async def test_a_budget_is_part_of_the_policy_in_force(redis: Redis) -> None:
    before = await policy.live(redis, UPSTREAM)
    made = await make(redis, budget_usd=Decimal("1.5"), window=WindowKind.MONTH)
    after = await policy.live(redis, UPSTREAM)
    assert after.version > before.version
    (budget,) = after.policy.budgets
    assert (budget.name, budget.limit, budget.window) == ("key:ci", 1_500_000_000, WindowKind.MONTH)
    assert after.policy.budgets_for("any/model", "other", made.key.id) == (budget,)
    assert after.policy.budgets_for("any/model", "web") == ()
    raised = await raise_budget(redis, UPSTREAM, "key:ci", 3 * USD, "me")
    assert (raised.before, raised.after) == (1_500_000_000, 3 * USD)
    assert (await policy.live(redis, UPSTREAM)).version > after.version
    await api_keys.set_budget(redis, UPSTREAM, made.key.id, None, None, "me")
    assert (await policy.live(redis, UPSTREAM)).policy.budgets == ()


async def test_a_budget_keeps_its_window_when_its_limit_changes(redis: Redis) -> None:
    made = await make(redis, budget_usd=Decimal(1), window=WindowKind.DAY)
    await api_keys.set_budget(redis, UPSTREAM, made.key.id, Decimal(2), None, "me")
    budget = (await key_budgets.every(redis, UPSTREAM))[made.key.id]
    assert (budget.limit, budget.window) == (2 * USD, WindowKind.DAY)


async def test_a_file_applied_later_leaves_budgets_of_keys(redis: Redis) -> None:
    await make(redis, budget_usd=Decimal(1))
    applied = await policy.apply(redis, UPSTREAM, Policy(), "a file")
    assert [budget.name for budget in applied.policy.budgets] == ["key:ci"]
    assert applied == await policy.live(redis, UPSTREAM)


async def test_a_session_lasts_as_long_as_it_is_used(redis: Redis) -> None:
    token = await sessions.create(redis, "abc")
    (name,) = await redis.keys("bm:session:*")
    assert token.encode() not in name
    await redis.expire(name, 60)
    assert await sessions.key_of(redis, token) == "abc"
    assert await redis.ttl(name) == sessions.LASTS
    await sessions.delete(redis, token)
    assert await sessions.key_of(redis, token) is None
    assert await sessions.key_of(redis, "another") is None
    assert not await redis.keys("*")


async def test_a_bucket_lets_a_minute_s_requests_through_and_fills_evenly(redis: Redis) -> None:
    turns = [await rates.take(redis, UPSTREAM, "abc", 3) for _ in range(4)]
    assert [turn.granted for turn in turns] == [True, True, True, False]
    assert [turn.left for turn in turns] == [2, 1, 0, 0]
    assert 15_000 < turns[-1].wait_ms <= 20_000
    name = service_keys.api_key_rate(UPSTREAM, "abc")
    at = int(await redis.execute_command("HGET", name, "at"))
    await redis.execute_command("HSET", name, "at", at - 20_000)  # as if it were twenty seconds later
    assert (await rates.take(redis, UPSTREAM, "abc", 3)).granted
    assert not (await rates.take(redis, UPSTREAM, "abc", 3)).granted
    assert 0 < await redis.ttl(name) <= 61


async def test_keys_of_another_upstream_are_others(redis: Redis) -> None:
    made = await make(redis)
    assert await api_keys.by_id(redis, "another", made.key.id) is None
    assert not await api_keys.any_made(redis, "another")
    assert keys.books(UPSTREAM).rsplit(":", 1)[0] == service_keys.api_keys(UPSTREAM).rsplit(":", 1)[0]
