"""Lines that are alike are sent once: in a batch, across batches, while the first is in the air, and when it fails."""

import asyncio

import msgspec
import pytest

from batchmill.config.settings import CacheSettings
from batchmill.openrouter.outcomes import Answer, Retry
from batchmill.store.answers import Kept
from batchmill.store.lanes import Ending
from batchmill.store.model import LineState, Terms
from batchmill.workers.line import ShardRun

from .workers_helpers import OK, Desk, failure, settle

CACHED = Terms(cache=True)
MODEL = "maker/model"


def alike(_: bytes) -> bytes:
    return b"same"


def shard(desk: Desk, *ids: str, terms: Terms = CACHED, batch: str = "batch_1", live: bool = False) -> ShardRun:
    return desk.shard(MODEL, ids, batch=batch, terms=terms, body_of=alike, live=live)


async def tended(desk: Desk) -> None:
    """Let the desk do what its task would."""
    await settle()
    await desk.answers.tend()
    await settle()
    await desk.answers.tend()
    await settle()


def cached(desk: Desk) -> dict[str, bool]:
    return {result.custom_id: result.cached for result in desk.ledger.results}


async def test_the_first_is_sent_and_the_others_get_its_answer() -> None:
    desk = Desk()
    run = shard(desk, "a", "b", "c")
    await settle()
    assert desk.upstream.calls == [b"same"]
    assert (desk.dispatcher.in_air, len(desk.gate.holds)) == (1, 1), "who waits holds nothing"
    desk.upstream.answer()
    await tended(desk)
    assert run.ended.result() is Ending.DONE
    assert desk.upstream.calls == [b"same"]
    assert cached(desk) == {"a": False, "b": True, "c": True}
    assert [result.cost for result in desk.ledger.results] == [OK.cost, 0, 0]
    assert {result.response for result in desk.ledger.results} == {OK.body}
    desk.check_books()


async def test_lines_that_need_no_place_leave_theirs_to_the_next() -> None:
    desk = Desk(concurrency=1, script=lambda _: OK)
    shard(desk, "a")
    await tended(desk)
    shard(desk, "b", "c", "d", batch="batch_2")
    await settle()
    assert cached(desk) == {"a": False, "b": True, "c": True, "d": True}
    assert desk.upstream.calls == [b"same"]


async def test_a_later_batch_of_the_project_gets_it_and_no_other_project_does() -> None:
    desk = Desk(script=lambda _: OK)
    shard(desk, "a")
    await tended(desk)
    shard(desk, "b", batch="batch_2")
    shard(desk, "c", batch="batch_3", terms=Terms(project="other", cache=True))
    shard(desk, "d", batch="batch_4", terms=Terms())
    await tended(desk)
    assert cached(desk) == {"a": False, "b": True, "c": False, "d": False}


async def test_another_project_gets_it_where_that_is_allowed() -> None:
    desk = Desk(script=lambda _: OK, cache=CacheSettings(across_projects=True))
    shard(desk, "a")
    await tended(desk)
    shard(desk, "b", batch="batch_2", terms=Terms(project="other", cache=True))
    await tended(desk)
    assert cached(desk) == {"a": False, "b": True}


async def test_when_the_first_fails_the_next_one_goes() -> None:
    desk = Desk()
    shard(desk, "a", "b", "c")
    await settle()
    desk.upstream.answer(failure(Retry.NEVER))
    await tended(desk)
    assert desk.upstream.in_air() == 1, "one of them, not both"
    desk.upstream.answer()
    await tended(desk)
    states = {result.custom_id: (result.succeeded, result.cached) for result in desk.ledger.results}
    assert states == {"a": (False, False), "b": (True, False), "c": (True, True)}
    desk.check_books()


async def test_when_a_leader_elsewhere_dies_the_next_one_goes() -> None:
    desk = Desk()
    shard(desk, "x", terms=CACHED)
    await settle()
    desk.upstream.answer(failure(Retry.NEVER))
    await tended(desk)
    (name,) = desk.shelf.names
    desk.shelf.leads[name] = "another"
    shard(desk, "a", batch="batch_2")
    await tended(desk)
    assert desk.upstream.in_air() == 0
    del desk.shelf.leads[name]  # its lease is over
    await tended(desk)
    assert desk.upstream.in_air() == 1
    desk.upstream.answer()
    await tended(desk)
    assert cached(desk) == {"x": False, "a": False}


async def test_a_line_that_waits_is_cancelled_with_its_batch() -> None:
    desk = Desk()
    shard(desk, "a")
    run = shard(desk, "b", batch="batch_2")
    await settle()
    desk.dispatcher.stop("batch_2", LineState.CANCELLED)
    assert run.ended.result() is Ending.DONE
    desk.upstream.answer()
    await tended(desk)
    assert [(result.custom_id, result.state.value) for result in desk.ledger.results] == [
        ("b", "cancelled"),
        ("a", "succeeded"),
    ]


async def test_a_line_that_waits_is_given_back_with_its_shard() -> None:
    desk = Desk()
    shard(desk, "a")
    run = shard(desk, "b", batch="batch_2")
    await settle()
    desk.dispatcher.lose(run)
    assert run.ended.result() is Ending.GIVE_BACK
    desk.upstream.answer()
    await tended(desk)
    assert cached(desk) == {"a": False}


async def test_a_call_that_is_given_up_leads_no_more() -> None:
    desk = Desk()
    shard(desk, "a")
    await settle()
    desk.upstream.open.clear()
    desk.dispatcher.drain()
    desk.dispatcher.abandon()
    await tended(desk)
    assert (desk.shelf.leads, desk.shelf.answers) == ({}, {})


async def test_live_lines_are_always_sent_and_never_kept() -> None:
    desk = Desk(script=lambda _: OK)
    shard(desk, "a", live=True)
    shard(desk, "b", batch="batch_2")
    await tended(desk)
    shard(desk, "c", batch="batch_3", live=True)
    await tended(desk)
    assert cached(desk) == {"a": False, "b": False, "c": False}


@pytest.mark.parametrize("settings", [CacheSettings(max_answer_bytes=3), CacheSettings()])
async def test_only_whole_answers_that_are_small_enough_are_kept(settings: CacheSettings) -> None:
    answer = OK if settings.max_answer_bytes == 3 else replace_reason("content_filter")
    desk = Desk(script=lambda _: answer, cache=settings)
    shard(desk, "a", "b")
    await tended(desk)
    await asyncio.wait_for(tended(desk), 5)
    assert desk.shelf.answers == {}
    assert cached(desk) == {"a": False, "b": False}


async def test_who_waits_is_told_why() -> None:
    desk = Desk()
    shard(desk, "a")
    shard(desk, "b", batch="batch_2")
    await settle()
    desk.answers._told -= 10
    await desk.answers.tend()
    assert [(reason.scope, reason.kind) for reason, _ in desk.blocked] == [("batch_2", "answer")]


async def test_no_name_tells_anything_of_its_line() -> None:
    desk = Desk(script=lambda _: OK)
    shard(desk, "a")
    await tended(desk)
    (name,) = desk.shelf.answers
    assert len(name) == 40
    assert isinstance(desk.shelf.answers[name], Kept)


def replace_reason(reason: str) -> Answer:
    return msgspec.structs.replace(OK, finish_reason=reason)
