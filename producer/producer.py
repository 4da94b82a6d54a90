"""What a program uses to hand lines over: a Producer. What became of them a `Batch` tells."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import aclosing, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from redis.asyncio import Redis

from batchmill.config.settings import Settings, load
from batchmill.config.strategy import Strategy
from batchmill.producer import intake
from batchmill.producer.batch import Batch, reaching_redis
from batchmill.producer.conditions import conditions_of, pricer_for, wish_of_batch
from batchmill.producer.errors import InputError
from batchmill.producer.estimate import Estimate, estimate
from batchmill.producer.input import InputOptions, form_of
from batchmill.producer.intake import PLAIN, Birth, Consent
from batchmill.producer.lines import Conditions, Wish
from batchmill.producer.live import Event, asking
from batchmill.producer.sampling import Measured
from batchmill.store import batch_index, batches
from batchmill.store.clock import now_ms
from batchmill.store.connection import open_store
from batchmill.store.errors import UnknownBatchError
from batchmill.store.handed import window_seconds
from batchmill.store.model import BatchStatus, Priority

Source = str | Path | Iterable[Mapping[str, Any] | bytes | str]
"""A file's path, or lines: objects (encoded as JSON) or JSON text."""


class Producer:
    """Hands lines over to a fleet and asks for what became of them. Get one from `Producer.connect`."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: Settings | None = None) -> "AsyncIterator[Producer]":
        """Connect to the settings' Redis (by default: environment, else the embedded server of the data folder).

        Raises StoreError when the server can't be reached or must not be used, ConfigError for bad settings.
        """
        settings = settings or load()
        async with open_store(settings) as store:
            yield cls(store.redis, settings)

    async def submit(
        self,
        source: Source,
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        limit: int | None = None,
        skip_invalid: bool = False,
        name: str | None = None,
        anew: bool = False,
        max_cost: Decimal | str | int | None = None,
        priority: Priority | str = Priority.NORMAL,
        project: str = "default",
        fallback: Iterable[str] = (),
        strategy: Strategy | str | None = None,
        tags: Mapping[str, str] | None = None,
        cache: bool | None = None,
        consent: Consent | None = None,
        window: str | None = None,
        key: str | None = None,
        birth: Birth = PLAIN,
    ) -> Batch:
        """Enqueue lines, or find the batch that has them already (`Batch.reused`); `anew` forgets that one first.

        `model` and `max_tokens` are for lines that name none; `limit` takes only the first lines; `name` says where
        the lines came from when `source` is no path. `max_cost` (USD) is a budget of this batch; a batch that is found
        keeps its own. `fallback` are models or aliases for lines that name no `fallback_models`, `strategy` says in
        which order models are tried where several may answer. `tags` are for reports of what was spent. With `cache`
        (None: as the settings say), lines that are the same, here or in earlier batches, are answered once. `consent`
        is awaited when all is well, before anything is enqueued; what it raises stops it. What was not sent within the
        `window` ("1h" to "30d") expires; a batch that is found keeps its own. `key` (an API key whose budget pays) and
        `birth` are for gateways. Raises InputError, which names lines and fields.
        """
        wanted = self._settings.cache.enabled if cache is None else cache
        conditions = conditions_of(max_cost, priority, project, tags, cache=wanted, key=key)
        named = name or (source if isinstance(source, str | Path) else "")
        options = self._options(str(named), model, max_tokens, limit, wish_of_batch(fallback, strategy))
        handed = _Handed(options, conditions, skip_invalid, anew, consent, await self._born(birth, window))
        if isinstance(source, str | Path):
            return await self._submit_file(Path(source), name or str(source), handed)
        with tempfile.NamedTemporaryFile(prefix="batchmill-") as spool:
            await asyncio.to_thread(_write_lines, source, spool)
            return await self._submit_file(Path(spool.name), name or "lines", handed)

    async def estimate(
        self,
        source: str | Path,
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        limit: int | None = None,
        name: str | None = None,
        max_cost: Decimal | str | int | None = None,
        project: str = "default",
        fallback: Iterable[str] = (),
        strategy: Strategy | str | None = None,
        measured: Mapping[str, Measured] | None = None,
        keep: AbstractSet[int] = frozenset(),
    ) -> Estimate:
        """Return what the lines of a file would come to if they were submitted so now; nothing is enqueued.

        `measured` is what a sample said (`sampling.measure`), `keep` which of the lines that can run, from 0, are to
        be told of in `chosen`. Raises InputError when the file can't be used at all;
        lines that could not run are told in the estimate.
        """
        conditions = conditions_of(max_cost, project=project)
        known_as = name or str(source)
        options = self._options(known_as, model, max_tokens, limit, wish_of_batch(fallback, strategy))
        with reaching_redis():
            pricer = await pricer_for(self._redis, self._settings, conditions)
            return await estimate(
                self._redis,
                self._settings,
                Path(source),
                options,
                pricer,
                source=known_as,
                measured=measured,
                keep=keep,
            )

    def _options(
        self, name: str, model: str | None, max_tokens: int | None, limit: int | None, wish: Wish | None
    ) -> InputOptions:
        defaults = self._settings.input
        return InputOptions(
            form=form_of(name) if name else "jsonl",
            model=defaults.default_model or None if model is None else model,
            max_tokens=defaults.default_max_tokens or None if max_tokens is None else max_tokens,
            wish=wish,
            limit=limit,
            speaks_openrouter=self._settings.speaks_openrouter,
            max_lines=defaults.max_lines,
            max_line_bytes=defaults.max_line_bytes,
        )

    async def stream(
        self, line: Mapping[str, Any] | bytes | str, *, cancel: bool = False, **wishes: Any
    ) -> AsyncGenerator[Event, None]:
        """Hand one line over, as a batch of its own, and yield what comes of it; `wishes` are those of `submit`.

        The same line asked for again is watched again, unless `anew`. Leaving early changes nothing for it, unless
        `cancel`. Raises as `submit` and `Batch.stream`.
        """
        batch = await self.submit([asking(line)], **wishes)
        (custom_id,) = await batch.live_lines()
        async with aclosing(batch.stream(custom_id, cancel=cancel)) as coming:
            async for event in coming:
                yield event

    async def _born(self, birth: Birth, window: str | None) -> Birth:
        """Return the birth with the end of the window; Redis says what time it is."""
        if window is None:
            return birth
        try:
            seconds = window_seconds(window)
        except ValueError as error:
            raise InputError(str(error)) from None
        with reaching_redis():
            return msgspec.structs.replace(birth, expires_at=await now_ms(self._redis) // 1000 + seconds)

    async def _submit_file(self, path: Path, name: str, handed: "_Handed") -> Batch:
        with reaching_redis():
            submission = await intake.submit(
                self._redis,
                path,
                handed.options,
                self._settings.upstream_name,
                await pricer_for(self._redis, self._settings, handed.conditions),
                source=name,
                skip_invalid=handed.skip_invalid,
                retention_days=self._settings.results.retention_days,
                anew=handed.anew,
                consent=handed.consent,
                birth=handed.birth,
            )
        return Batch(self._redis, submission.batch_id, self._settings, submission=submission)

    async def batch(self, batch_id: str) -> Batch:
        """Return the batch of that id. Raises UnknownBatchError."""
        with reaching_redis():
            if not await batches.exists(self._redis, batch_id):
                raise UnknownBatchError(batch_id)
        return Batch(self._redis, batch_id, self._settings)

    async def batches(self, count: int = 20, upstream: str | None = None) -> list[BatchStatus]:
        """Return the newest batches (for one upstream), newest first."""
        with reaching_redis():
            return await batch_index.newest(self._redis, count, upstream)


class _Handed(msgspec.Struct, frozen=True):
    """How lines are to be read and run."""

    options: InputOptions
    conditions: Conditions
    skip_invalid: bool
    anew: bool
    consent: Consent | None = None
    birth: Birth = PLAIN


def _write_lines(lines: Iterable[Mapping[str, Any] | bytes | str], target: "BinaryIO | Any") -> None:
    encode = msgspec.json.encode
    for line in lines:
        if isinstance(line, str):
            target.write(line.encode())
        else:
            target.write(line if isinstance(line, bytes) else encode(line))
        target.write(b"\n")
    target.flush()
