"""The lines of a batch, page by page: each once, whatever the pages are, and found again at once."""

import pytest
from redis.asyncio import Redis

from batchmill.store import line_pages
from batchmill.store.line_pages import BadCursorError, Wanted
from batchmill.store.model import LineState

from .store_helpers import batch_of, put, result

FAILED = LineState.FAILED


async def walk(redis: Redis, batch_id: str, wanted: Wanted) -> list[str]:
    """Return the custom ids of all pages, in order."""
    found: list[str] = []
    cursor = None
    for _ in range(100):
        page = await line_pages.page(redis, batch_id, wanted, cursor)
        found += [one.result.custom_id for one in page.ended] + [one.line.custom_id for one in page.open]
        assert len(page.ended) + len(page.open) <= wanted.most
        cursor = page.cursor
        if cursor is None:
            return found
    raise AssertionError("pages without an end")


async def half_done(redis: Redis) -> str:
    """Return a batch of ten lines in three shards, of which lines 5, 1 (failed) and 9 ended in this order."""
    batch_id = await batch_of(redis, 4, 4, 2)
    await put(redis, batch_id, result(5), result(1, FAILED, error_code="x"), result(9))
    return batch_id


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 10, 50])
async def test_every_line_comes_once_and_those_that_ended_first(redis: Redis, most: int) -> None:
    batch_id = await half_done(redis)
    expected = ["line-5", "line-1", "line-9", *(f"line-{index}" for index in (0, 2, 3, 4, 6, 7, 8))]
    assert await walk(redis, batch_id, Wanted(most=most)) == expected


@pytest.mark.parametrize("most", [1, 2, 50])
async def test_by_state_and_by_a_part_of_the_custom_id(redis: Redis, most: int) -> None:
    batch_id = await half_done(redis)
    assert await walk(redis, batch_id, Wanted(frozenset({FAILED}), open=False, most=most)) == ["line-1"]
    assert await walk(redis, batch_id, Wanted(frozenset(), most=most)) == [f"line-{n}" for n in (0, 2, 3, 4, 6, 7, 8)]
    assert await walk(redis, batch_id, Wanted(search="LINE-9", most=most)) == ["line-9"]
    assert await walk(redis, batch_id, Wanted(search="nothing", most=most)) == []


async def test_a_search_gives_what_it_found_when_its_time_is_over_and_goes_on_from_there(redis: Redis) -> None:
    batch_id = await batch_of(redis, 300, 300)
    await put(redis, batch_id, *(result(index) for index in range(290)))
    wanted = Wanted(search="-28", seconds=0.0)
    pages, cursor = 0, None
    found: list[str] = []
    while pages == 0 or cursor is not None:
        page = await line_pages.page(redis, batch_id, wanted, cursor)
        found += [one.result.custom_id for one in page.ended] + [one.line.custom_id for one in page.open]
        pages, cursor = pages + 1, page.cursor
    assert pages > 1
    assert sorted(found) == sorted(["line-28", *(f"line-28{digit}" for digit in range(10))])


async def test_what_ends_meanwhile_comes_again_with_its_result_and_nothing_is_left_out(redis: Redis) -> None:
    batch_id = await half_done(redis)
    page = await line_pages.page(redis, batch_id, Wanted(most=5))
    assert [one.line.index for one in page.open] == [0, 2]
    await put(redis, batch_id, result(3), result(0))
    page = await line_pages.page(redis, batch_id, Wanted(most=5), page.cursor)
    assert [one.line.index for one in page.open] == [4, 6, 7, 8]
    assert [one.result.index for one in page.ended] == [3]
    await put(redis, batch_id, result(4))
    page = await line_pages.page(redis, batch_id, Wanted(most=5), page.cursor)
    assert [one.result.index for one in page.ended] == [0, 4]
    assert (page.open, page.cursor) == ((), None)


async def test_a_result_that_comes_between_two_pages_is_on_one_of_them(redis: Redis) -> None:
    batch_id = await half_done(redis)
    page = await line_pages.page(redis, batch_id, Wanted(most=3))
    await put(redis, batch_id, result(0))
    rest = await line_pages.page(redis, batch_id, Wanted(), page.cursor)
    assert [one.result.index for one in rest.ended] == [0]
    assert [one.line.index for one in rest.open] == [2, 3, 4, 6, 7, 8]


async def test_a_line_is_found_by_its_entry_and_by_its_id(redis: Redis) -> None:
    batch_id = await half_done(redis)
    page = await line_pages.page(redis, batch_id, Wanted())
    entry = page.ended[1].entry
    assert await line_pages.result_at(redis, batch_id, entry) == page.ended[1].result
    assert await line_pages.result_of(redis, batch_id, "line-1") == page.ended[1]
    assert await line_pages.result_of(redis, batch_id, "line-0") is None
    assert await line_pages.result_at(redis, batch_id, "1-1") is None
    found = await line_pages.open_line(redis, batch_id, lambda line: line.custom_id == "line-7")
    assert found is not None
    assert found.line.index == 7


async def test_the_end_of_a_batch_is_no_line(redis: Redis) -> None:
    batch_id = await batch_of(redis, 1)
    await put(redis, batch_id, result(0))
    assert await walk(redis, batch_id, Wanted(most=1)) == ["line-0"]


@pytest.mark.parametrize("cursor", ["", "x", "r-", "r-1", "r-1-x", "r--1-0", "r-1-2-3", "s-1-1", "s-1-1-x-y", "q-1-1"])
async def test_a_cursor_that_nobody_was_given_is_refused(redis: Redis, cursor: str) -> None:
    batch_id = await half_done(redis)
    with pytest.raises(BadCursorError):
        await line_pages.page(redis, batch_id, Wanted(), cursor)
