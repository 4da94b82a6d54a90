"""Calls whose answer is streamed, and live tokens: what comes of them goes to whoever watches the line.

One broadcaster a process gathers the chunks of all its live calls while the last round trip is on the wire, and posts
them together: the first words at once, then every `PACE`. Watching never costs the call: when Redis is away or slow,
chunks are dropped, and their numbers tell the readers.
"""

import asyncio
import time

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from batchmill.config.settings import Settings, StreamSettings
from batchmill.openrouter.bounds import read_body
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.outcomes import Answer, Outcome
from batchmill.openrouter.stream import NEVER_STOP
from batchmill.openrouter.wire import cost_of, decode_completion, tokens_of
from batchmill.store import live
from batchmill.store.connection import OUTAGE
from batchmill.workers.line import LineRun, Told

log = structlog.get_logger()

PACE = 0.03
"""Seconds between two posts, so that a fast answer does not cost a round trip a token."""

_MOST_BYTES = 16 << 20  # of one call; what comes beyond is only in its result
_MOST_WAITING = 8 << 20  # of all calls, while Redis is slow
_END_WAIT = 0.25  # seconds that a call waits for its last words to be posted: its result goes first if Redis is away
_ABANDONED = "abandoned"


class LiveCall:
    """The words of one call on their way to Redis. `Broadcaster.open` makes one, `Broadcaster.end` ends it."""

    def __init__(self, run: LineRun, call: str, model: str) -> None:
        self._claim = run.shard.claim
        self._index = run.line.index
        self._start: live.Start | None = live.Start(call, len(run.attempts) + 1, model)  # until it is posted
        self._call = call
        self._said: list[bytes] = []
        self._first = 0  # number of the first of these
        self._bytes = 0  # of all that was said
        self.total = 0
        self.end: live.End | None = None
        self.posted = asyncio.Event()  # the end is

    def say(self, chunk: bytes) -> bool:
        """Keep a chunk for the next post; False when the call has said too much to be watched on."""
        self._bytes += len(chunk)
        if self._bytes > _MOST_BYTES:
            self.total += 1
            return False
        if not self._said:
            self._first = self.total
        self._said.append(chunk)
        self.total += 1
        return True

    def drop(self) -> None:
        """Forget what was not posted."""
        self._said = []

    def take(self) -> live.Post:
        """Return what is to be posted now. A start that can't be posted is said again, see `restart`."""
        said: list[live.Said] = [self._start] if self._start else []
        if self._said:
            said.append(live.Chunks(self._call, self._first, tuple(self._said)))
        if self.end:
            said.append(self.end)
        self._start, self._said = None, []
        return live.Post(self._claim.batch_id, self._index, tuple(said))

    def lost(self, post: live.Post) -> None:
        """Say the start again with the next post, for this one did not come through."""
        if post.said and isinstance(post.said[0], live.Start):
            self._start = post.said[0]

    def finish(self, outcome: Outcome | None) -> None:
        """Say how the call ended; None when it was given up."""
        if outcome is None:
            self.end = live.End(self._call, self.total, _ABANDONED)
        else:
            code = "ok" if isinstance(outcome, Answer) else outcome.code
            self.end = live.End(self._call, self.total, code, outcome.usage, outcome.cost)


class Broadcaster:
    """Posts what live calls say. `run()` is its one task."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._keep = max(1, round(settings.stream.keep))
        self._life = self._keep + round(settings.upstream.total_timeout)  # no call lasts longer than that
        self._dirty: dict[LiveCall, None] = {}  # in order
        self.waiting = 0  # bytes that are not on their way yet
        self._work = asyncio.Event()
        self._urgent = asyncio.Event()  # a call waits for its end to be posted
        self.away = False

    def open(self, run: LineRun, call: str, model: str) -> LiveCall:
        """Begin to say what comes of a call; readers drop what they had of the line."""
        opened = LiveCall(run, call, model)
        self._post_soon(opened)
        return opened

    def say(self, call: LiveCall, chunk: bytes) -> None:
        """Pass a chunk on."""
        if call.say(chunk):
            self.waiting += len(chunk)
            self._post_soon(call)
        if self.waiting > _MOST_WAITING:
            self._drop()

    def finish(self, call: LiveCall, outcome: Outcome | None) -> None:
        """Say how a call ended, None when it was given up; does not wait."""
        call.finish(outcome)
        self._post_soon(call)
        self._urgent.set()

    async def posted(self, call: LiveCall) -> None:
        """Wait until the end of a call is posted, but not for long."""
        try:
            async with asyncio.timeout(_END_WAIT):
                await call.posted.wait()
        except TimeoutError:
            log.debug("tokens.late")

    async def run(self) -> None:
        """Post for ever."""
        last = 0.0
        while True:
            await self._work.wait()
            await self._pace(last + PACE - time.monotonic())
            last = time.monotonic()
            self._work.clear()
            self._urgent.clear()
            await self._post()

    async def flush(self) -> None:
        """Post what is left when nobody runs us any more; not for long."""
        try:
            async with asyncio.timeout(_END_WAIT):
                await self._post()
        except TimeoutError:
            log.debug("tokens.late")

    async def _pace(self, seconds: float) -> None:
        if seconds <= 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._urgent.wait()
        except TimeoutError:
            return

    async def _post(self) -> None:
        calls = list(self._dirty)
        if not calls:
            return
        self._dirty, self.waiting = {}, 0
        posts = [call.take() for call in calls]
        try:
            await live.post(self._redis, posts, life=self._life, keep=self._keep)
        except (*OUTAGE, RedisError) as error:
            self._ail(error)
            for call, post in zip(calls, posts, strict=True):
                call.lost(post)
        else:
            self.away = False
        for call in calls:
            if call.end is not None and call not in self._dirty:
                call.posted.set()

    def _ail(self, error: Exception) -> None:
        if not self.away:
            log.warning("tokens.dropped", error=type(error).__name__)
        self.away = True

    def _drop(self) -> None:
        for call in self._dirty:
            call.drop()
        self.waiting = 0

    def _post_soon(self, call: LiveCall) -> None:
        self._dirty[call] = None
        self._work.set()


def streams(run: LineRun, settings: StreamSettings) -> bool:
    """Whether the answer of a line is streamed from the upstream."""
    if run.line.live or settings.upstream == "always":
        return True
    if settings.upstream != "long":
        return False
    limit = read_body(run.line.body).output
    return limit is None or limit > settings.long_tokens


async def stream(upstream: Upstream, broadcaster: Broadcaster, run: LineRun, body: bytes, model: str) -> Outcome:
    """Send a line whose answer is streamed, and let its tokens be seen when it has live ones.

    What the stream tells of the call is kept with the run, so that a call that is given up can be settled.
    """
    run.streamed = True
    call = broadcaster.open(run, run.hold.id, model) if run.line.live and run.hold else None
    outcome, first = None, True

    def begun(generation: str) -> None:
        run.generation = generation

    async def listen(chunk: bytes) -> None:
        nonlocal first
        if first or b'"usage"' in chunk:
            first = False
            _learn(run, chunk)
        if call is not None:
            broadcaster.say(call, chunk)

    try:
        outcome = await upstream.stream(body, listen, begun)
    finally:
        if call is not None:
            broadcaster.finish(call, outcome)
    if call is not None:
        await _last_words(broadcaster, call)
    return outcome


async def _last_words(broadcaster: Broadcaster, call: LiveCall) -> None:
    """Let readers have all of an answer before its result; whoever gives the call up now comes too late."""
    try:
        await broadcaster.posted(call)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()  # the answer is here and paid for: it is kept


def _learn(run: LineRun, chunk: bytes) -> None:
    """Keep what a chunk tells of the call: who answers, and its generation id (in each), what it used (in the last)."""
    told = decode_completion(chunk)
    if told is None:
        return
    run.generation = run.generation or told.id
    run.streamed = told.provider not in NEVER_STOP  # to hang up there would save nothing, and lose the answer
    if told.usage is not None:
        run.told = Told(tokens_of(told.usage), cost_of(told.usage))
