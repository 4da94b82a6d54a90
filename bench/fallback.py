"""How long a line takes from a failure to its next send on another model: out of the air, through the gate, in again.

Everything but the HTTP call is real: dispatcher, gatekeeper and recorder of one worker process, and a server with its
append-only log. The first road of each line fails after a while, the second one answers at once.
"""

import asyncio
import logging
import random
import time
from pathlib import Path

import structlog

from batchmill.config.policy import EVERY_TROUBLE, Breaker, Policy
from batchmill.config.settings import RetrySettings, load
from batchmill.config.strategy import Strategy
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Fault, Outcome, Retry, Usage
from batchmill.store import policy
from batchmill.store.connection import open_store
from batchmill.store.gate import Caller
from batchmill.store.lanes import Claim
from batchmill.store.model import Fare, Line, Road, Route, Terms
from batchmill.store.pauses import Pause
from batchmill.workers.dispatcher import Dispatcher
from batchmill.workers.gatekeeper import Gatekeeper
from batchmill.workers.line import LineRun, ShardRun
from batchmill.workers.recorder import Recorder
from batchmill.workers.tasks import end

UPSTREAM = "https://upstream.test/v1"
ROUTE = Route("fast", Strategy.ORDER, (Road("a/one"), Road("b/two")), max_attempts=2, fallback_on=EVERY_TROUBLE)
FAILED = Failure("server_error", "it failed", Retry.BACKOFF, Fault.PROVIDER, Billed.NO, 500)
OK = Answer(b'{"choices":[]}', "b/two", Usage(10, 10), 100, 20)


class Calls:
    """The upstream; remembers when the first call of a line failed, and when the second one was begun."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.failed: dict[int, float] = {}
        self.took: list[float] = []

    async def send(self, run: LineRun) -> Outcome:
        index = run.line.index
        if run.model == "b/two":
            self.took.append(time.perf_counter() - self.failed.pop(index))
            return OK
        await asyncio.sleep(self.seconds * random.uniform(0.5, 1.5))  # calls do not end all at once
        self.failed[index] = time.perf_counter()
        return FAILED

    async def rest(self, model: str, scope: str, failure: Failure, seconds: float | None) -> Pause:
        raise NotImplementedError

    async def slow_down(self, model: str) -> None:
        raise NotImplementedError


async def activation(folder: Path, lines: int, *, at_once: int, seconds: float = 0.05) -> list[float]:
    """Return for each line the seconds from its failure to its next send, with so many lines in the air."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # there is no batch
    settings = load(environ={"BATCHMILL_DATA_DIR": str(folder)})
    async with open_store(settings) as store:
        never = Policy(
            breaker=Breaker(min_calls=10**9)
        )  # half of the calls fail, and it is not the breaker's time we want
        await policy.apply(store.redis, UPSTREAM, never, "bench")
        caller = Caller(UPSTREAM, "worker", 60.0)
        calls, recorder = Calls(seconds), Recorder(store.redis, caller, retention=60)
        keeper = Gatekeeper(store.redis, caller)
        dispatcher = Dispatcher(
            calls.send,
            recorder,
            keeper,
            RetrySettings(),
            concurrency=at_once,
            on_blocked=lambda *_: None,
            restraint=calls,
        )
        tasks = [asyncio.create_task(recorder.run()), asyncio.create_task(keeper.run(dispatcher))]
        own = [Line(index, str(index), b"{}", fares=(Fare(100, 20), Fare(200, 20))) for index in range(lines)]
        shard = ShardRun(Claim(UPSTREAM, "fast#0", f"batch_1.0.{lines}", "run", "1"), own, terms=Terms(route=ROUTE))
        dispatcher.add(shard)
        await shard.ended
        await end(tasks)
    return calls.took
