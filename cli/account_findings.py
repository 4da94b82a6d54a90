"""What `batchmill check` finds out about the key: what it may spend, what that stops now, and how old the news is."""

import time
from contextlib import AsyncExitStack

import msgspec
from redis.asyncio import Redis

from batchmill.cli.finding import Finding, Level
from batchmill.cli.rehearsal import rehearsal
from batchmill.cli.words import duration, moment
from batchmill.config.errors import BatchmillError
from batchmill.config.settings import Settings
from batchmill.openrouter.account import dollars, stops, words_of
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.errors import UpstreamRefusedError
from batchmill.openrouter.wire import KeyInfo
from batchmill.store import account, gauges
from batchmill.store.account import Account
from batchmill.store.clock import now_ms
from batchmill.store.rules import FREE

_KEY_TIMEOUT = 15.0
_SCOPES = ("refused", FREE, "account")
_USAGES = (("today", "usage_daily"), ("this week", "usage_weekly"), ("this month", "usage_monthly"))


class Known(msgspec.Struct, frozen=True):
    """What the fleet knows of the account, how old that is (seconds), and what waits for it."""

    account: Account | None
    age: float | None
    pauses: tuple[gauges.Pause, ...]


async def known_account(redis: Redis, settings: Settings) -> Known:
    """Return what Redis has of the account."""
    upstream = settings.upstream_name
    found, now = await account.read(redis, upstream), await now_ms(redis)
    age = None if found is None or found.looked_ms is None else max(0.0, (now - found.looked_ms) / 1000)
    standing = await gauges.pauses(redis, upstream)
    return Known(found, age, tuple(pause for pause in standing if pause.scope in _SCOPES))


async def examine_account(settings: Settings, known: Known | None, found: list[Finding]) -> bool:
    """Add what was found out about the key, and what waits for it; return whether the account is refused."""
    refused = await _examine_key(settings, known, found)
    for pause in known.pauses if known else ():
        until = "until resumed" if pause.until_ms is None else f"until {moment(pause.until_ms / 1000)}"
        found.append(Finding("parked", Level.WARN, f"{pause.scope} {until}: {pause.reason}"))
    if known and known.account and known.account.failure:
        found.append(Finding("fleet", Level.WARN, f"a worker's last look at the key failed: {known.account.failure}"))
    return refused


async def _examine_key(settings: Settings, known: Known | None, found: list[Finding]) -> bool:
    if settings.api_key is None and not settings.simulate:
        missing = "no API key: set OPENROUTER_API_KEY or BATCHMILL_API_KEY_FILE, or work with --simulate"
        level = Level.FAIL if settings.speaks_openrouter else Level.OK
        found.append(Finding("key", level, missing if level is Level.FAIL else "none set; not checked"))
        return False
    try:
        key = await _ask(settings)
    except UpstreamRefusedError as error:
        found.append(Finding("key", Level.FAIL, str(error)))
        return True
    except BatchmillError as error:
        found.append(Finding("key", Level.FAIL, str(error)))
        if known and known.account and known.account.key and known.age is not None:
            found += _findings(known.account.key, settings, f"as of {duration(known.age)} ago, from a worker's look")
        return False
    if key is None:
        found.append(Finding("key", Level.OK, f"not checked: {settings.upstream_name} has no GET /key"))
    else:
        found += _findings(key, settings, "as of now")
    return False


async def _ask(settings: Settings) -> KeyInfo | None:
    async with AsyncExitStack() as stack:
        if settings.simulate:
            settings = await stack.enter_async_context(rehearsal(settings))
        timeouts = msgspec.structs.replace(settings.upstream, total_timeout=_KEY_TIMEOUT)
        upstream = await stack.enter_async_context(Upstream(timeouts, settings.api_key, max_connections=1))
        return await upstream.key()


def _findings(key: KeyInfo, settings: Settings, age: str) -> list[Finding]:
    """Return the key's caps one by one, then what they stop."""
    where = f"{settings.key_source[1]} · " if settings.key_source else ""
    found = [Finding("key", Level.OK, f"{where}valid at {settings.upstream_name} · {_label(key)}{age}")]
    found.append(Finding("key limit", Level.OK, _limit(key)))
    usage = [f"{dollars(used)} {name}" for name, field in _USAGES if (used := getattr(key, field)) is not None]
    if usage:
        found.append(Finding("key usage", Level.OK, ", ".join(usage)))
    found += [Finding("budget", Level.OK, words_of(budget)) for budget in key.budgets or ()]
    free = key.free_model_daily_requests
    if free is not None and free.limit and free.remaining is not None:
        found.append(
            Finding("free models", Level.OK, f"{free.remaining:,} of {free.limit:,} requests left today (UTC)")
        )
    if key.expires_at:
        found.append(Finding("key expiry", Level.OK, key.expires_at))
    found += [Finding("stopped", Level.WARN, stop.reason) for stop in stops(key, time.time())]
    return found


def _label(key: KeyInfo) -> str:
    """Return what leads the label; a look kept in Redis has none, for it shows letters of the key."""
    return f"{key.label} · " if key.label else ""


def _limit(key: KeyInfo) -> str:
    if key.limit is None:
        return "none of its own"
    remaining = "" if key.limit_remaining is None else f", {dollars(key.limit_remaining)} remaining"
    return f"{dollars(key.limit)} ({key.limit_reset or 'lifetime'}){remaining}"
