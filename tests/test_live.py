"""Live tokens from end to end: a worker, a simulator, and readers that come early, late, or leave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from batchmill.config.settings import Settings, StreamSettings
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.simulator import FaultKind, Faults, Simulator, SimulatorOptions
from batchmill.producer import Ended, InputError, Producer, Restarted, Started, Text
from batchmill.producer.live import Event
from batchmill.store import keys
from batchmill.store.connection import Store, open_store
from batchmill.store.embedded import EmbeddedServer
from batchmill.store.errors import UnknownBatchError, UnknownLineError
from batchmill.store.model import BatchState, LineState, Result
from batchmill.store.suspects import suspects
from batchmill.workers.reconciler import Reconciler

from .conftest import check_leaks
from .fleet_helpers import gather, lines
from .test_worker_process import at_work, settings_for
from .waiting import wait_until

LONG: dict[str, Any] = {"mean_output_tokens": 200}
PROVIDER_THAT_STOPS = "openai/gpt-4o-mini"


@pytest.fixture
async def store(server: EmbeddedServer, settings: Settings) -> AsyncIterator[Store]:
    """An empty real server, opened as every command does."""
    async with open_store(msgspec.structs.replace(settings, redis_url=server.url)) as opened:
        await opened.redis.flushall()
        yield opened
        await check_leaks(opened.redis)


def line(number: int = 0, *, max_tokens: int = 300) -> dict[str, Any]:
    """Return a line of a provider that stops when it is hung up."""
    (*_, last) = lines(number + 1, models=(PROVIDER_THAT_STOPS,), max_tokens=max_tokens)
    return last


def live_line(number: int = 0) -> dict[str, Any]:
    """Return a line that asks for live tokens."""
    asked = line(number)
    return {**asked, "body": {**asked["body"], "stream_to": True}}


class Reader:
    """Reads all events of a line, and keeps the text since the last restart."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.text = ""

    async def read(self, events: Any) -> Result:
        async for event in events:
            self.events.append(event)
            if isinstance(event, Started | Restarted):
                self.text = ""
            elif isinstance(event, Text):
                self.text += event.text
            elif isinstance(event, Ended):
                return event.result
        raise AssertionError("no end")

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def test_a_line_is_streamed_while_it_runs_and_ends_with_its_result(store: Store) -> None:
    async with Simulator(SimulatorOptions(latency="600", **LONG)) as simulator:
        settings = settings_for(simulator)
        async with at_work(store, settings):
            reader = Reader()
            result = await reader.read(Producer(store.redis, settings).stream(line()))
        stats = simulator.stats
    assert result.state is LineState.SUCCEEDED
    assert reader.text == result.content
    assert reader.events[0] == Started(1, PROVIDER_THAT_STOPS)
    assert len(reader.of(Text)) > 3
    assert reader.of(Restarted) == []
    assert result.usage is not None
    assert result.cost == stats.billed_nano
    assert result.attempts[0].first_token_ms is not None
    assert result.attempts[0].first_token_ms < result.latency_ms
    assert msgspec.json.decode(result.response or b"")["object"] == "chat.completion"


async def test_many_lines_of_a_batch_are_watched_at_once(store: Store) -> None:
    async with Simulator(SimulatorOptions(latency="uniform:50:300", **LONG)) as simulator:
        settings = settings_for(simulator)
        async with at_work(store, settings):
            batch = await Producer(store.redis, settings).submit(live_line(number) for number in range(20))
            readers = {custom_id: Reader() for custom_id in await batch.live_lines()}
            await asyncio.gather(*(reader.read(batch.stream(name)) for name, reader in readers.items()))
            results = await gather(batch)
    assert len(readers) == 20
    assert {name: reader.text for name, reader in readers.items()} == {
        name: result.content for name, result in results.items()
    }


async def test_a_reader_that_comes_late_sees_everything(store: Store) -> None:
    async with Simulator(SimulatorOptions(latency="100", **LONG)) as simulator:
        settings = settings_for(simulator)
        async with at_work(store, settings):
            batch = await Producer(store.redis, settings).submit([live_line()])
            await gather(batch)
            late = Reader()
            await late.read(batch.stream("line-0"))
            await store.redis.delete(keys.live_tokens(batch.id, 0))
            too_late = Reader()
            result = await too_late.read(batch.stream("line-0"))
    assert len(late.of(Text)) > 3
    assert late.text == too_late.text == result.content
    assert too_late.events == [Text(result.content or ""), Ended(result)]


async def test_a_line_that_fails_before_its_first_word_ends_all_the_same(store: Store) -> None:
    refusing = Faults(rates={FaultKind.MODERATION: 1.0})
    async with Simulator(SimulatorOptions(faults=refusing)) as simulator:
        settings = settings_for(simulator)
        async with at_work(store, settings):
            reader = Reader()
            result = await reader.read(Producer(store.redis, settings).stream(line()))
    assert result.state is LineState.FAILED
    assert reader.text == ""


async def test_a_line_that_is_never_sent_ends_with_its_batch(store: Store, settings: Settings) -> None:
    batch = await Producer(store.redis, settings).submit([live_line()])
    task = asyncio.create_task(Reader().read(batch.stream("line-0")))
    await batch.cancel()
    assert (await task).state is LineState.CANCELLED


@pytest.mark.parametrize("kind", [FaultKind.MID_STREAM, FaultKind.CUT])
async def test_an_answer_that_breaks_off_begins_anew(store: Store, kind: FaultKind) -> None:
    async with Simulator(SimulatorOptions(latency="20", faults=Faults(rates={kind: 1.0}), **LONG)) as simulator:
        settings = settings_for(simulator)
        async with at_work(store, settings):
            reader = Reader()
            events = Producer(store.redis, settings).stream(line())
            task = asyncio.create_task(reader.read(events))
            await wait_until(lambda: bool(reader.of(Text)), "some words")
            simulator.set_faults(Faults())
            result = await task
    assert result.state is LineState.SUCCEEDED
    assert reader.of(Restarted)
    assert reader.text == result.content
    assert reader.of(Started)[-1].attempt == len(result.attempts)


async def test_leaving_early_changes_nothing_for_the_line(store: Store) -> None:
    async with Simulator(SimulatorOptions(latency="300", **LONG)) as simulator:
        settings = settings_for(simulator)
        async with at_work(store, settings):
            batch = await Producer(store.redis, settings).submit([live_line()])
            async with aclosing(batch.stream("line-0")) as events:
                async for _ in events:
                    break
            (result,) = (await gather(batch)).values()
    assert result.state is LineState.SUCCEEDED


async def first_words(events: Any) -> None:
    async for event in events:
        if isinstance(event, Text) and event.text:
            return


async def test_cancelling_hangs_up_and_the_money_is_found_by_its_generation(store: Store) -> None:
    """The upstream stops; what it billed up to there is suspect first, and then booked as its books say."""
    async with Simulator(SimulatorOptions(latency="3000", **LONG)) as simulator:
        settings = settings_for(simulator)
        async with at_work(store, settings):
            batch = await Producer(store.redis, settings).submit([live_line()], max_cost="1")
            async with aclosing(batch.stream("line-0")) as events:
                await first_words(events)
            await batch.cancel()
            (result,) = (await gather(batch)).values()
            await wait_until(lambda: simulator.stats.in_flight == 0, "the hanging up")
            (suspect,) = await suspects(store.redis, settings.upstream_name)
            assert suspect.generation == result.attempts[0].generation_id
            async with Upstream(settings.upstream, settings.api_key, max_connections=1) as upstream:
                reconciler = Reconciler(store.redis, upstream, settings.upstream_name)
                assert await reconciler.look() == 1
        stats = simulator.stats
        name = keys.batch_budget(settings.upstream_name, batch.id)
        budget = await store.redis.execute_command("HGETALL", name)
    assert result.state is LineState.CANCELLED
    assert [attempt.outcome for attempt in result.attempts] == ["abandoned"]
    assert (await batch.status()).state is BatchState.CANCELLED
    assert stats.by_status == {"dropped": 1}
    assert 0 < stats.billed_nano == int(budget[b"spent"])
    assert {int(budget.get(name, 0)) for name in (b"held", b"suspect", b"debt")} == {0}


async def test_a_stream_with_cancel_cancels_when_it_is_left(store: Store) -> None:
    async with Simulator(SimulatorOptions(latency="5000", **LONG)) as simulator:
        settings = settings_for(simulator)
        async with at_work(store, settings):
            producer = Producer(store.redis, settings)
            batch = await producer.submit([live_line()])
            async with aclosing(batch.stream("line-0", cancel=True)) as events:
                await first_words(events)
            (result,) = (await gather(batch)).values()
            await wait_until(lambda: simulator.stats.in_flight == 0, "the hanging up")
        stats = simulator.stats
    assert result.state is LineState.CANCELLED
    assert stats.billed_nano > 0


async def test_calls_that_are_not_streamed_are_not_given_up(store: Store) -> None:
    async with Simulator(SimulatorOptions(latency="300")) as simulator:
        settings = settings_for(simulator)
        async with at_work(store, settings):
            batch = await Producer(store.redis, settings).submit([line()])
            await wait_until(lambda: simulator.stats.in_flight > 0, "the call")
            await batch.cancel()
            (result,) = (await gather(batch)).values()
    assert result.state is LineState.SUCCEEDED


async def test_long_answers_are_streamed_when_policy_says_so_and_nobody_watches(store: Store) -> None:
    async with Simulator(SimulatorOptions(latency="50", **LONG)) as simulator:
        always = msgspec.structs.replace(settings_for(simulator), stream=StreamSettings(upstream="always"))
        async with at_work(store, always):
            batch = await Producer(store.redis, always).submit([line()])
            (result,) = (await gather(batch)).values()
    assert result.content
    assert result.attempts[0].first_token_ms is not None
    assert await store.redis.keys("*tokens*") == []
    with pytest.raises(UnknownLineError, match="line-0"):
        await first_words(batch.stream("line-0"))


async def test_a_line_that_nobody_knows_is_said(store: Store, settings: Settings) -> None:
    producer = Producer(store.redis, settings)
    batch = await producer.submit([live_line()])
    with pytest.raises(UnknownLineError, match="no line 'x' with live tokens"):
        await first_words(batch.stream("x"))
    for name in await store.redis.keys(f"bm:{{{batch.id}}}*"):
        await store.redis.delete(name)
    with pytest.raises(UnknownBatchError):
        await first_words(batch.stream("line-0"))
    with pytest.raises(InputError):
        await first_words(producer.stream({"custom_id": "a"}))


async def test_the_same_line_is_watched_again_and_not_run_again(store: Store) -> None:
    async with Simulator(SimulatorOptions(latency="50", **LONG)) as simulator:
        settings = settings_for(simulator)
        async with at_work(store, settings):
            producer = Producer(store.redis, settings)
            one, two, other = Reader(), Reader(), await producer.submit([line()])
            await one.read(producer.stream(line()))
            await two.read(producer.stream(line()))
            await gather(other)
        assert simulator.stats.completions == 2, "a line without live tokens is another batch"
    assert one.text == two.text
