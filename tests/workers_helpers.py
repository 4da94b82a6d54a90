"""A dispatcher with a scripted upstream, for tests of the worker's parts without any server."""

import asyncio
from collections.abc import Callable, Iterable

from batchmill.config.settings import RetrySettings
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Fault, Outcome, Retry, Scope, Usage
from batchmill.store.lanes import Claim
from batchmill.store.model import Line, Result
from batchmill.workers.dispatcher import Dispatcher
from batchmill.workers.line import ShardRun

OK = Answer(body=b'{"id":"gen-1"}', model="m", usage=Usage(3, 5), cost=700, latency_ms=12, generation_id="gen-1")


def failure(retry: Retry, **fields: object) -> Failure:
    """Return a failure of that kind."""
    given = {
        "code": "some_code",
        "message": "it went wrong",
        "fault": Fault.PROVIDER,
        "billed": Billed.NO,
        "status": 500,
        "scope": Scope.MODEL,
        **fields,
    }
    return Failure(retry=retry, **given)  # type: ignore[arg-type]  # the fields are the struct's own


class Upstream:
    """Answers calls when the test says so, or at once with what `script` returns for a body."""

    def __init__(self, script: Callable[[bytes], Outcome] | None = None) -> None:
        self.script = script
        self.calls: list[bytes] = []
        self.open: list[tuple[bytes, asyncio.Future[Outcome]]] = []

    async def send(self, body: bytes) -> Outcome:
        self.calls.append(body)
        if self.script is not None:
            return self.script(body)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.open.append((body, future))
        return await future

    def answer(self, outcome: Outcome = OK, *, match: bytes = b"") -> None:
        """Answer the first open call whose body begins with `match`."""
        for number, (body, future) in enumerate(self.open):
            if body.startswith(match):
                del self.open[number]
                future.set_result(outcome)
                return
        raise LookupError(match)

    def in_air(self, match: bytes = b"") -> int:
        """Return how many calls are open."""
        return sum(body.startswith(match) for body, _ in self.open)


class Ledger:
    """Stands in for the recorder: keeps results, and records them at once unless told to hold them back."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.healthy = True
        self.holding = False
        self.held: list[tuple[ShardRun, Result]] = []
        self.in_air = 0
        self.on_healthy: Callable[[], None] = lambda: None

    def sent(self, batch_id: str) -> None:
        self.in_air += 1

    def back(self, batch_id: str) -> None:
        self.in_air -= 1

    def put(self, shard: ShardRun, result: Result, *, was_sent: bool = True) -> None:
        self.in_air -= was_sent
        shard.unrecorded += 1
        self.held.append((shard, result))
        if not self.holding:
            self.flush()

    def flush(self) -> None:
        """Record what was held back."""
        for shard, result in self.held:
            self.results.append(result)
            shard.recorded(result.index)
        self.held.clear()


class Desk:
    """A dispatcher between a scripted upstream and a ledger."""

    def __init__(
        self,
        *,
        concurrency: int = 4,
        script: Callable[[bytes], Outcome] | None = None,
        retry: RetrySettings | None = None,
    ) -> None:
        self.upstream = Upstream(script)
        self.ledger = Ledger()
        self.blocked: list[tuple[str, str, float]] = []
        self.dispatcher = Dispatcher(
            self.upstream.send,
            self.ledger,  # type: ignore[arg-type]  # the same face as Recorder
            retry or RetrySettings(first_delay=0.001, max_delay=0.002),
            concurrency=concurrency,
            on_blocked=lambda *told: self.blocked.append(told),
        )

    def shard(self, model: str, lines: Iterable[str], *, batch: str = "batch_1", number: int = 0) -> ShardRun:
        """Hand over a shard with these bodies."""
        bodies = [line.encode() for line in lines]
        claim = Claim("upstream", model, f"{batch}.{number}.{len(bodies)}", "run-1", "1")
        shard = ShardRun(claim, [Line(index, body.decode(), body) for index, body in enumerate(bodies)])
        self.dispatcher.add(shard)
        return shard


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)
