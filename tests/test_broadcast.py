"""The broadcaster: what goes out together, what is dropped, and that watching never costs the call."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from batchmill.config.settings import Settings, StreamSettings
from batchmill.openrouter.outcomes import Outcome, Retry, Usage
from batchmill.store import live
from batchmill.store.lanes import Claim
from batchmill.store.live import Chunks, End, Start
from batchmill.store.model import Line
from batchmill.store.records import START
from batchmill.workers import broadcast
from batchmill.workers.broadcast import Broadcaster, stream, streams
from batchmill.workers.line import Hold, LineRun, ShardRun, Told
from batchmill.workers.tasks import end

from .upstream_helpers import USAGE, chunk
from .waiting import wait_until
from .workers_helpers import OK, failure

Script = Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[Outcome]]
HELLO = (chunk({"content": "Hel"}), chunk({"content": "lo"}, "stop"), chunk({}, "stop", usage=USAGE))


class Upstream:
    """Streams what the test's script says."""

    def __init__(self, script: Script, generation: str | None = None) -> None:
        self._script = script
        self._generation = generation

    async def stream(
        self, body: bytes, on_chunk: Callable[[bytes], Awaitable[None]], on_generation: Callable[[str], None]
    ) -> Outcome:
        if self._generation is not None:
            on_generation(self._generation)
        return await self._script(on_chunk)


async def says_hello(say: Callable[[bytes], Awaitable[None]]) -> Outcome:
    for each in HELLO:
        await say(each)
    return OK


def run_of(*, live_line: bool = True, body: bytes = b'{"messages":[]}') -> LineRun:
    shard = ShardRun(Claim("upstream", "a/b", "batch_1.0.1", "run-1", "1"), [])
    run = LineRun(Line(0, "line-0", body, live=live_line), shard)
    run.hold = Hold("hold-1", None)  # type: ignore[arg-type]  # rules play no part here
    return run


@asynccontextmanager
async def on_air(redis: Redis, settings: Settings) -> AsyncIterator[Broadcaster]:
    broadcaster = Broadcaster(redis, settings)
    task = asyncio.create_task(broadcaster.run())
    try:
        yield broadcaster
    finally:
        await end([task])


async def send(broadcaster: Broadcaster, run: LineRun, script: Script, generation: str | None = None) -> Outcome:
    upstream: Any = Upstream(script, generation)
    return await stream(upstream, broadcaster, run, b"{}", "a/b")


async def said(redis: Redis) -> tuple[live.Said, ...]:
    return (await live.listen(redis, "batch_1", 0, START)).said


async def test_a_call_is_said_from_its_start_to_its_end_before_its_outcome_is_known(
    redis: Redis, settings: Settings
) -> None:
    async with on_air(redis, settings) as broadcaster:
        assert await send(broadcaster, run_of(), says_hello) is OK
        heard = await said(redis)
    assert heard[0] == Start("hold-1", 1, "a/b")
    assert heard[-1] == End("hold-1", 3, "ok", OK.usage, OK.cost)
    assert [each for one in heard if isinstance(one, Chunks) for each in one.chunks] == list(HELLO)


async def test_chunks_of_many_calls_share_round_trips(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    posts: list[int] = []
    real = live.post

    async def counted(redis: Redis, some: Any, **times: int) -> None:
        posts.append(len(some))
        await real(redis, some, **times)

    monkeypatch.setattr(live, "post", counted)
    monkeypatch.setattr(broadcast, "PACE", 3600.0)  # only ends are said
    over = asyncio.Event()

    async def patient(say: Callable[[bytes], Awaitable[None]]) -> Outcome:
        for _ in range(100):
            await say(HELLO[0])
            await asyncio.sleep(0)
        await over.wait()
        return OK

    async with on_air(redis, settings) as broadcaster:
        tasks = [asyncio.create_task(send(broadcaster, run_of(), patient)) for _ in range(5)]
        await wait_until(lambda: bool(posts), "the first words went out at once")
        over.set()
        await asyncio.gather(*tasks)
    assert sum(posts) <= 10
    assert len(posts) <= 3, "five calls of a hundred chunks each"


async def test_no_outage_holds_a_call_up_and_readers_see_what_is_missing(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, away = live.post, True

    async def post(redis: Redis, some: Any, **times: int) -> None:
        if away:
            raise RedisConnectionError
        await real(redis, some, **times)

    monkeypatch.setattr(live, "post", post)
    async with on_air(redis, settings) as broadcaster:
        run = run_of()

        async def interrupted(say: Callable[[bytes], Awaitable[None]]) -> Outcome:
            nonlocal away
            await say(HELLO[0])
            await wait_until(lambda: broadcaster.away, "the outage was met")
            away = False
            await say(HELLO[1])
            return OK

        assert await send(broadcaster, run, interrupted) is OK
        heard = await said(redis)
    assert heard == (
        Start("hold-1", 1, "a/b"),
        Chunks("hold-1", 1, (HELLO[1],)),
        End("hold-1", 2, "ok", OK.usage, OK.cost),
    )


async def test_an_outage_that_lasts_costs_the_tokens_and_not_the_answer(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any, **__: int) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(live, "post", never)
    monkeypatch.setattr(broadcast, "_END_WAIT", 0.01)
    async with on_air(redis, settings) as broadcaster:
        assert await send(broadcaster, run_of(), says_hello) is OK
    assert await redis.keys("*") == []


async def test_whoever_gives_a_call_up_when_its_answer_is_here_comes_too_late(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    posting = asyncio.Event()

    async def never(*_: Any, **__: int) -> None:
        posting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(live, "post", never)
    monkeypatch.setattr(broadcast, "_END_WAIT", 3600.0)
    async with on_air(redis, settings) as broadcaster:
        task = asyncio.create_task(send(broadcaster, run_of(), says_hello))
        await posting.wait()
        await asyncio.sleep(0)
        task.cancel()
        assert await task is OK
        assert task.cancelling() == 0


async def test_a_call_that_says_too_much_is_not_watched_on(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "_MOST_BYTES", len(HELLO[0]) + 1)
    async with on_air(redis, settings) as broadcaster:
        await send(broadcaster, run_of(), says_hello)
        heard = await said(redis)
    assert [one.chunks for one in heard if isinstance(one, Chunks)] == [(HELLO[0],)]
    assert heard[-1] == End("hold-1", 3, "ok", OK.usage, OK.cost)


async def test_a_huge_chunk_comes_through_and_one_beyond_all_measure_is_missing(
    redis: Redis, settings: Settings
) -> None:
    huge, beyond = chunk({"content": "x" * (2 << 20)}), chunk({"content": "x" * (9 << 20)})

    async def speaks(say: Callable[[bytes], Awaitable[None]]) -> Outcome:
        for each in (huge, beyond, HELLO[0]):
            await say(each)
            await wait_until(lambda: not broadcaster.waiting, "the post")
        return OK

    async with on_air(redis, settings) as broadcaster:
        await send(broadcaster, run_of(), speaks)
        heard = await said(redis)
    assert [one for one in heard if isinstance(one, Chunks)] == [
        Chunks("hold-1", 0, (huge,)),
        Chunks("hold-1", 2, (HELLO[0],)),
    ]


async def test_what_waits_is_dropped_before_it_fills_the_memory(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "_MOST_WAITING", len(HELLO[0]))
    async with on_air(redis, settings) as broadcaster:
        await send(broadcaster, run_of(), says_hello)
        heard = await said(redis)
    assert heard[0] == Start("hold-1", 1, "a/b")
    assert sum(len(one.chunks) for one in heard if isinstance(one, Chunks)) < 3
    assert heard[-1] == End("hold-1", 3, "ok", OK.usage, OK.cost)


async def test_a_call_that_is_given_up_leaves_word_and_what_it_told(redis: Redis, settings: Settings) -> None:
    heard_all = asyncio.Event()

    async def endless(say: Callable[[bytes], Awaitable[None]]) -> Outcome:
        for each in HELLO:
            await say(each)
        heard_all.set()
        await asyncio.Event().wait()
        return OK

    run = run_of()
    async with on_air(redis, settings) as broadcaster:
        task = asyncio.create_task(send(broadcaster, run, endless))
        await heard_all.wait()
        assert run.streamed
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

        async def said_so() -> bool:
            return isinstance((await said(redis))[-1], End)

        await wait_until(said_so)
        assert (await said(redis))[-1] == End("hold-1", 3, "abandoned")
    assert run.told == Told(Usage(3, 2), 132_000)
    assert run.generation == "gen-1"


@pytest.mark.parametrize(("provider", "ends"), [("OpenAI", True), ("Google", False), (None, True)])
async def test_a_call_that_no_hanging_up_would_stop_is_not_hung_up(
    redis: Redis, settings: Settings, provider: str | None, ends: bool
) -> None:
    run = run_of()

    async def speaks(say: Callable[[bytes], Awaitable[None]]) -> Outcome:
        assert run.streamed
        await say(chunk({"content": "Hel"}, provider=provider))
        await say(chunk({"content": "lo"}))
        assert run.streamed is ends
        return OK

    async with on_air(redis, settings) as broadcaster:
        assert await send(broadcaster, run, speaks, "gen-head") is OK


async def test_the_generation_is_known_before_the_first_words(redis: Redis, settings: Settings) -> None:
    run = run_of(live_line=False)
    refused = failure(Retry.BACKOFF)

    async def fails(say: Callable[[bytes], Awaitable[None]]) -> Outcome:
        assert run.generation == "gen-head"
        return refused

    async with on_air(redis, settings) as broadcaster:
        assert await send(broadcaster, run, fails, "gen-head") is refused
    assert await redis.keys("*") == [], "nobody watches a line that is not live"


@pytest.mark.parametrize(
    ("policy", "body", "expected"),
    [
        ("asked", b'{"messages":[],"max_tokens":9999}', False),
        ("long", b'{"messages":[],"max_tokens":100}', False),
        ("long", b'{"messages":[],"max_tokens":101}', True),
        ("long", b'{"messages":[],"max_completion_tokens":101}', True),
        ("long", b'{"messages":[]}', True),
        ("always", b'{"messages":[],"max_tokens":1}', True),
    ],
)
async def test_what_is_streamed_is_policy(policy: Any, body: bytes, expected: bool) -> None:
    settings = StreamSettings(upstream=policy, long_tokens=100)
    assert streams(run_of(live_line=False, body=body), settings) is expected
    assert streams(run_of(body=body), settings)


async def test_live_tokens_are_kept_as_the_settings_say(redis: Redis, settings: Settings) -> None:
    quick = msgspec.structs.replace(settings, stream=StreamSettings(keep=7.0))
    async with on_air(redis, quick) as broadcaster:
        await send(broadcaster, run_of(), says_hello)
    assert 0 < await redis.ttl("bm:{batch_1}:tokens:0") <= 7
