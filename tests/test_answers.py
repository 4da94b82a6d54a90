"""The answer cache in Redis: who leads, what is kept, for whom, and for how long."""

import pytest
from redis.asyncio import Redis

from batchmill.store import answers, keys
from batchmill.store.answers import Answers, Kept, Landing, Lead, Look, Sought

from .store_helpers import UPSTREAM

KEPT = Kept(b'{"choices":[]}', "maker/model", "maker/model-2", "somebody", "gen-1", "stop")
A, B = Lead("name", "hold-a"), Lead("name", "hold-b")


def cache(redis: Redis, *, lease: int = 10_000, life: int = 60_000, most: int = 100) -> Answers:
    return Answers(redis, UPSTREAM, lease=lease, life=life, most=most)


def landing(lead: Lead, kept: Kept | None = KEPT, project: str = "p", batch: str = "batch_1") -> Landing:
    return Landing(lead, project, batch, kept)


async def test_one_line_leads_until_it_brings_an_answer(redis: Redis) -> None:
    shelf = cache(redis)
    assert await shelf.seek([A, B]) == [Sought(leads=True), Sought()]
    assert await shelf.look(["name", "other"]) == {"name": Look(False, True), "other": Look(False, False)}
    await shelf.keep([landing(A)])
    assert await shelf.seek([B]) == [Sought(kept=KEPT)]
    assert await shelf.look(["name"]) == {"name": Look(True, False)}


async def test_a_repeated_call_leads_as_before(redis: Redis) -> None:
    shelf = cache(redis)
    assert await shelf.seek([A]) == await shelf.seek([A]) == [Sought(leads=True)]


async def test_who_lands_without_an_answer_lets_the_next_one_lead(redis: Redis) -> None:
    shelf = cache(redis)
    await shelf.seek([A])
    await shelf.keep([landing(A, None)])
    assert await shelf.seek([B]) == [Sought(leads=True)]


async def test_a_lead_ends_with_its_lease_and_is_not_taken_back(redis: Redis) -> None:
    shelf = cache(redis)
    await shelf.seek([A])
    await redis.execute_command("PEXPIRE", keys.answer_lead(UPSTREAM, "name"), 0)  # the leader was killed
    assert await shelf.seek([B]) == [Sought(leads=True)]
    assert await shelf.renew([A]) == 0
    await shelf.keep([landing(A, None)])  # it lives, after all
    assert await shelf.look(["name"]) == {"name": Look(False, True)}, "the lead is another's by now"
    assert await shelf.renew([B]) == 1


async def test_the_answer_of_a_leader_that_was_late_is_kept_too(redis: Redis) -> None:
    shelf = cache(redis)
    await shelf.seek([A])
    await redis.execute_command("PEXPIRE", keys.answer_lead(UPSTREAM, "name"), 0)
    await shelf.seek([B])
    await shelf.keep([landing(A)])
    assert await shelf.seek([Lead("name", "hold-c")]) == [Sought(kept=KEPT)]
    await shelf.keep([landing(B)])
    assert await redis.execute_command("EXISTS", keys.answer_lead(UPSTREAM, "name")) == 0


async def test_answers_and_leads_expire(redis: Redis) -> None:
    shelf = cache(redis, lease=5000, life=70_000)
    await shelf.seek([A, Lead("other", "hold-c")])
    await shelf.keep([landing(A)])
    for key, most in (
        (keys.answer(UPSTREAM, "name"), 70_000),
        (keys.answer_lead(UPSTREAM, "other"), 5000),
        (keys.project_answers(UPSTREAM, "p"), 70_000),
    ):
        assert 0 < await redis.pttl(key) <= most


async def test_only_so_many_are_kept_of_a_project(redis: Redis) -> None:
    for number in range(4):
        shelf = cache(redis, most=2, life=60_000 + 10_000 * number)
        await shelf.keep([landing(Lead(f"name-{number}", "hold"))])
    await shelf.keep([landing(Lead("name", "hold"), project="q")])
    there = await shelf.look(["name-0", "name-1", "name-2", "name-3", "name"])
    assert [name for name, look in there.items() if look.kept] == ["name-2", "name-3", "name"]


@pytest.mark.parametrize(("batch", "left"), [(None, {"c"}), ("batch_1", {"b", "c"})])
async def test_answers_of_a_project_or_a_batch_are_purged(redis: Redis, batch: str | None, left: set[str]) -> None:
    shelf = cache(redis)
    for name, project, brought_by in (("a", "p", "batch_1"), ("b", "p", "batch_2"), ("c", "q", "batch_3")):
        await shelf.keep([landing(Lead(name, "hold"), project=project, batch=brought_by)])
    assert await answers.purge(redis, UPSTREAM, "p", batch) == 3 - len(left)
    assert {name for name, look in (await shelf.look(["a", "b", "c"])).items() if look.kept} == left


async def test_what_another_version_kept_is_replaced(redis: Redis) -> None:
    await redis.execute_command("SET", keys.answer(UPSTREAM, "name"), b"\xc1", "PX", 60_000)
    shelf = cache(redis)
    assert await shelf.seek([A]) == [Sought(leads=True)]
    await shelf.keep([landing(A)])
    assert await shelf.seek([B]) == [Sought(kept=KEPT)]


async def test_the_fleet_has_one_secret(redis: Redis) -> None:
    first = await cache(redis).secret()
    assert first == await cache(redis).secret()
    assert len(first) == 32
