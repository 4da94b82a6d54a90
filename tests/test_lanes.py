"""A shard is held by one run at a time; who lost it can neither finish it nor give it back."""

import pytest
from redis.asyncio import Redis

from batchmill.store import keys, lanes, service_keys
from batchmill.store.lanes import Claim, Ending, Renewal
from batchmill.store.scripts import Script

from .store_helpers import (
    LEASE,
    MODEL,
    UPSTREAM,
    all_results,
    batch_of,
    claim,
    complete,
    end_leases,
    leased,
    put,
    queued,
    result,
    set_pulse,
)


async def renew(redis: Redis, *held: Claim) -> Renewal:
    return (await lanes.renew(redis, UPSTREAM, {MODEL: list(held)}, lease=LEASE))[MODEL]


async def lease_left(redis: Redis, reference: str) -> float:
    """Return the seconds until a lease ends, by the clock of Redis."""
    seconds, microseconds = await redis.execute_command("TIME")
    end = await redis.execute_command("ZSCORE", keys.leases(UPSTREAM, MODEL), reference)
    return float(end) / 1000 - int(seconds) - int(microseconds) / 1e6


async def test_a_claim_takes_shards_in_order_up_to_the_room(redis: Redis) -> None:
    batch_id = await batch_of(redis, 3, 3, 3, 3)
    claims = await claim(redis, room=6)

    assert [held.reference for held in claims] == [f"{batch_id}.0.3", f"{batch_id}.1.3"]
    assert [(held.batch_id, held.lines, held.run, held.model) for held in claims] == [(batch_id, 3, "run", MODEL)] * 2
    assert await queued(redis) == [f"{batch_id}.2.3", f"{batch_id}.3.3"]
    assert 0 < await lease_left(redis, claims[0].reference) <= LEASE


async def test_a_shard_larger_than_the_room_is_claimed_all_the_same(redis: Redis) -> None:
    await batch_of(redis, 5, 5)
    assert len(await claim(redis, room=1)) == 1
    assert len(await claim(redis, room=0)) == 0


async def test_an_empty_lane_gives_nothing(redis: Redis) -> None:
    assert await claim(redis) == []


async def test_what_is_finished_leaves_nothing_but_its_results(redis: Redis) -> None:
    batch_id = await batch_of(redis, 2)
    await complete(redis, await claim(redis))

    left = {name.decode() for name in await redis.keys("*")}
    assert left == {
        keys.batch(batch_id),
        keys.done(batch_id),
        keys.results(batch_id),
        service_keys.index(None),
        service_keys.index("default"),
        keys.content("content"),
        keys.batches(),
        keys.lanes(UPSTREAM),
    }


async def test_a_given_back_shard_has_its_old_place(redis: Redis) -> None:
    batch_id = await batch_of(redis, 1, 1)
    first, second = await claim(redis)
    assert await lanes.finish(redis, second, Ending.GIVE_BACK)
    assert await lanes.finish(redis, first, Ending.GIVE_BACK)
    assert await queued(redis) == [f"{batch_id}.0.1", f"{batch_id}.1.1"]
    assert await leased(redis) == []
    assert not await redis.exists(keys.runs(UPSTREAM, MODEL))
    assert len(await claim(redis)) == 2


async def test_a_shard_given_back_for_later_is_not_claimed_before(redis: Redis) -> None:
    await batch_of(redis, 1)
    (held,) = await claim(redis)
    assert await lanes.finish(redis, held, Ending.GIVE_BACK, delay=60)
    assert await claim(redis) == []
    await redis.zincrby(keys.lane(UPSTREAM, MODEL), -61_000, held.reference)
    assert len(await claim(redis)) == 1


async def test_a_shard_let_go_is_in_no_lane(redis: Redis) -> None:
    await batch_of(redis, 1)
    (held,) = await claim(redis)
    assert await lanes.finish(redis, held, Ending.LET_GO)
    assert (await queued(redis), await leased(redis)) == ([], [])


@pytest.mark.parametrize("ending", list(Ending))
async def test_an_ending_counts_once(redis: Redis, ending: Ending) -> None:
    """The reply was lost, the client repeats the call, and somebody else claimed the shard in between."""
    await batch_of(redis, 1)
    (held,) = await claim(redis)
    assert await lanes.finish(redis, held, ending)
    others = await claim(redis, "other")
    assert not await lanes.finish(redis, held, ending)
    assert await leased(redis) == [other.reference for other in others]


@pytest.mark.parametrize("ending", list(Ending))
async def test_a_run_that_lost_its_lease_changes_nothing(redis: Redis, ending: Ending) -> None:
    batch_id = await batch_of(redis, 1)
    (sleeper,) = await claim(redis, "sleeper")
    await set_pulse(redis)
    await end_leases(redis, sleeper.reference)
    assert await renew(redis) == Renewal(lost=(), recovered=(sleeper.reference,))
    (other,) = await claim(redis, "other")

    assert not await lanes.finish(redis, sleeper, ending)
    assert await renew(redis, sleeper) == Renewal(lost=(sleeper.reference,), recovered=())
    assert await leased(redis) == [other.reference]
    await complete(redis, [other])
    assert len(await all_results(redis, batch_id)) == 1


async def test_a_renewed_lease_lasts_anew(redis: Redis) -> None:
    await batch_of(redis, 1)
    (held,) = await claim(redis, lease=1)
    assert await renew(redis, held) == Renewal(lost=(), recovered=())
    assert await lease_left(redis, held.reference) > 1


async def test_shards_of_silent_workers_go_to_the_head_of_the_lane(redis: Redis) -> None:
    batch_id = await batch_of(redis, 1, 1, 1)
    (silent,) = await claim(redis, "silent", room=1)
    (awake,) = await claim(redis, "awake", room=1)
    await set_pulse(redis, beat_ago=1)
    await end_leases(redis, silent.reference, awake.reference)

    assert await renew(redis, awake) == Renewal(lost=(), recovered=(silent.reference,))
    assert await queued(redis) == [silent.reference, f"{batch_id}.2.1"]
    assert await leased(redis) == [awake.reference]


async def test_nothing_is_taken_from_who_still_has_time(redis: Redis) -> None:
    await batch_of(redis, 1)
    (held,) = await claim(redis)
    await set_pulse(redis)
    assert (await renew(redis)).recovered == ()
    assert await leased(redis) == [held.reference]


@pytest.mark.parametrize("ending", [None, Ending.DONE, Ending.GIVE_BACK])
async def test_who_wakes_before_anybody_claimed_still_holds_its_shard(redis: Redis, ending: Ending | None) -> None:
    await batch_of(redis, 1)
    (held,) = await claim(redis)
    await set_pulse(redis)
    await end_leases(redis, held.reference)
    assert (await renew(redis)).recovered == (held.reference,)

    if ending is None:
        assert await renew(redis, held) == Renewal(lost=(), recovered=())
        assert (await queued(redis), await leased(redis)) == ([], [held.reference])
        ending = Ending.DONE
    assert await lanes.finish(redis, held, ending)
    assert await queued(redis) == ([held.reference] if ending is Ending.GIVE_BACK else [])
    assert await leased(redis) == []


async def test_a_renewal_that_is_late_does_not_take_back_what_was_given_back(redis: Redis) -> None:
    """A heartbeat gathered its claims before the run ended, and arrives after."""
    await batch_of(redis, 1)
    (held,) = await claim(redis)
    assert await lanes.finish(redis, held, Ending.GIVE_BACK)
    assert (await renew(redis, held)).lost == (held.reference,)
    assert (await queued(redis), await leased(redis)) == ([held.reference], [])


async def test_after_a_pause_of_all_heartbeats_the_holders_come_first(redis: Redis) -> None:
    """The server was away: everybody's lease is over, but nobody is dead."""
    await batch_of(redis, 1, 1)
    quick, slow = await claim(redis)
    await set_pulse(redis, beat_ago=LEASE)
    await end_leases(redis, quick.reference, slow.reference)

    assert await renew(redis, quick) == Renewal(lost=(), recovered=())
    assert await renew(redis, quick) == Renewal(lost=(), recovered=())  # the grace lasts beyond the first beat
    await redis.hset(keys.pulse(UPSTREAM), "grace", "1")  # type: ignore[misc]  # redis-py's stubs
    assert await renew(redis, quick) == Renewal(lost=(), recovered=(slow.reference,))


async def test_the_first_heartbeat_of_all_spares_everybody(redis: Redis) -> None:
    await batch_of(redis, 1)
    (held,) = await claim(redis)
    await end_leases(redis, held.reference)
    assert (await renew(redis)).recovered == ()


async def test_the_depth_of_a_lane_counts_what_waits_and_what_runs(redis: Redis) -> None:
    assert await lanes.waiting(redis, UPSTREAM) == {}
    await batch_of(redis, 1, 1, 1)
    claims = await claim(redis, room=2)
    assert await lanes.waiting(redis, UPSTREAM) == {MODEL: 3}
    await complete(redis, claims + await claim(redis))
    assert await lanes.waiting(redis, UPSTREAM) == {}


async def test_lanes_of_two_upstreams_never_mix(redis: Redis) -> None:
    await batch_of(redis, 1)
    assert await lanes.claim(redis, "simulator", MODEL, "run", lease=LEASE, room=10) == []
    assert await lanes.waiting(redis, "simulator") == {}


async def test_a_server_that_forgot_the_scripts_learns_them_again(redis: Redis) -> None:
    batch_id = await batch_of(redis, 1)
    await redis.script_flush()
    (held,) = await claim(redis)
    await redis.script_flush()
    assert await renew(redis, held) == Renewal(lost=(), recovered=())
    await redis.script_flush()
    assert await put(redis, batch_id, result(0)) == 1
    await redis.script_flush()
    assert await lanes.finish(redis, held, Ending.DONE)


def test_a_script_is_known_by_its_content() -> None:
    assert Script("claim").sha != Script("finish").sha
    assert len(Script("claim").sha) == 40


async def test_a_shard_whose_lease_is_over_may_be_taken_without_any_worker(redis: Redis) -> None:
    """As a cancel does after the only worker was killed; the sleeper's run id is worth nothing then."""
    await batch_of(redis, 1)
    (held,) = await claim(redis)
    assert await lanes.take(redis, UPSTREAM, MODEL, held.reference, "cancel", lease=LEASE) is None
    await end_leases(redis, held.reference)
    taken = await lanes.take(redis, UPSTREAM, MODEL, held.reference, "cancel", lease=LEASE)
    assert taken is not None
    assert not await lanes.finish(redis, held, Ending.DONE)
    assert await lanes.finish(redis, taken, Ending.GIVE_BACK)
    await claim(redis)


async def test_a_clock_that_is_set_back_stops_nothing_for_long(redis: Redis) -> None:
    """Leases, the pulse and places in the lane were written an hour ahead of what the clock says now."""
    await batch_of(redis, 1, 1)
    (first,) = await claim(redis, room=1)
    hour = 3_600_000
    await redis.execute_command("ZINCRBY", keys.leases(UPSTREAM, MODEL), hour, first.reference)
    await redis.execute_command("HINCRBY", keys.pulse(UPSTREAM), "beat", hour + 2_000_000_000_000)
    await redis.execute_command("HINCRBY", keys.pulse(UPSTREAM), "grace", hour + 2_000_000_000_000)
    await renew(redis)
    assert 0 < await lease_left(redis, first.reference) <= LEASE
    assert await redis.execute_command("HGET", keys.pulse(UPSTREAM), "grace") < b"2000000000000"
    (second,) = await claim(redis, room=1)
    score = float(second.score)
    assert 0 < score < 1e12, "a place lies decades in the past, so no clock makes it wait"


async def test_one_beat_renews_all_lanes(redis: Redis) -> None:
    await batch_of(redis, 1)
    (held,) = await claim(redis)
    await Script("renew")(redis, ["a", "b", "c", "d", "e", keys.pulse(UPSTREAM)], [1000])
    renewals = await lanes.renew(redis, UPSTREAM, {MODEL: [held], "another/model": []}, lease=LEASE)
    assert renewals == {MODEL: Renewal((), ()), "another/model": Renewal((), ())}
