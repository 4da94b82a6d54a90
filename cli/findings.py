"""What `batchmill check` looks at, one step each; a step that fails does not keep the others from being taken."""

import time
from enum import StrEnum
from pathlib import Path

import msgspec

from batchmill.cli import exit_codes
from batchmill.cli.options import read_settings
from batchmill.config.errors import BatchmillError, ConfigError
from batchmill.config.settings import Settings
from batchmill.openrouter.client import Upstream
from batchmill.openrouter.errors import UpstreamRefusedError
from batchmill.openrouter.wire import KeyInfo
from batchmill.store.connection import ServerFacts, Store, open_store, printable
from batchmill.store.errors import StoreError
from batchmill.store.presence import workers_alive

_CLOCK_TOLERANCE = 2.0  # seconds; ours decides only what people see, Redis's all else
_KEY_TIMEOUT = 15.0


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """What one step found."""

    name: str
    level: Level
    message: str


async def examine(config_file: Path | None, redis_url: str | None, found: list[Finding]) -> int:
    """Take every step, add what it found, and return the exit code."""
    try:
        settings = read_settings(config_file, redis_url)
    except ConfigError as error:
        found.append(Finding("settings", Level.FAIL, str(error)))
        return exit_codes.UNUSABLE
    found.append(Finding("settings", Level.OK, _source(config_file, settings)))
    await _examine_redis(settings, found)
    refused = await _examine_key(settings, found)
    if refused:
        return exit_codes.REFUSED
    failed = any(finding.level is Level.FAIL for finding in found)
    return exit_codes.UNUSABLE if failed else exit_codes.OK


def _source(config_file: Path | None, settings: Settings) -> str:
    file = config_file or settings.config_file
    return f"from {file} and the environment" if file else "from the environment and the defaults; no config file"


async def _examine_redis(settings: Settings, found: list[Finding]) -> None:
    try:
        async with open_store(settings) as store:
            kind = "embedded server" if store.server else "Redis"
            found.append(Finding("redis", Level.OK, f"{kind} {store.facts.version} at {printable(store.url)}"))
            found.append(Finding("eviction", Level.OK, "noeviction: nothing is dropped when memory is full"))
            found.append(_persistence(store.facts))
            found.append(_clock(store.facts))
            found.append(await _workers(settings, store))
    except StoreError as error:
        found.append(Finding("redis", Level.FAIL, str(error)))


def _persistence(facts: ServerFacts) -> Finding:
    if facts.persistence == "append-only":
        return Finding("persistence", Level.OK, "append-only: what was acknowledged survives a crash of the server")
    if facts.persistence == "snapshots":
        message = "snapshots only: a crash loses what came after the last; run it with --appendonly yes"
    else:
        message = "none: a restart of the server loses every batch; run it with --appendonly yes"
    return Finding("persistence", Level.WARN, message)


def _clock(facts: ServerFacts) -> Finding:
    difference = facts.clock - time.time()
    if abs(difference) <= _CLOCK_TOLERANCE:
        return Finding("clock", Level.OK, "Redis and this machine agree on the time")
    words = "ahead of" if difference > 0 else "behind"
    return Finding(
        "clock", Level.WARN, f"Redis is {abs(difference):.0f} s {words} this machine; its clock is the one used"
    )


async def _workers(settings: Settings, store: Store) -> Finding:
    count = await workers_alive(store.redis, settings.upstream_name)
    if count:
        return Finding("workers", Level.OK, f"{count} for {settings.upstream_name}")
    return Finding("workers", Level.WARN, "none runs; `batchmill run` brings its own, `batchmill worker` starts some")


async def _examine_key(settings: Settings, found: list[Finding]) -> bool:
    """Add what was found out about the key; return whether the account is refused."""
    if settings.api_key is None:
        missing = "no API key: set OPENROUTER_API_KEY or BATCHMILL_API_KEY_FILE, or work with --simulate"
        level = Level.FAIL if settings.speaks_openrouter else Level.OK
        found.append(Finding("key", level, missing if level is Level.FAIL else "none set; not checked"))
        return False
    timeouts = msgspec.structs.replace(settings.upstream, total_timeout=_KEY_TIMEOUT)
    try:
        async with Upstream(timeouts, settings.api_key, max_connections=1) as upstream:
            key = await upstream.key()
    except UpstreamRefusedError as error:
        found.append(Finding("key", Level.FAIL, str(error)))
        return True
    except BatchmillError as error:
        found.append(Finding("key", Level.FAIL, str(error)))
        return False
    found.append(Finding("key", *_key(key, settings)))
    return False


def _key(key: KeyInfo | None, settings: Settings) -> tuple[Level, str]:
    where = settings.upstream_name
    if key is None:
        return Level.OK, f"not checked: {where} has no GET /key"
    parts = [f"valid at {where}", key.label or "no label"]
    if key.limit is None:
        parts.append("no spending limit of its own")
    else:
        parts.append(f"limit ${key.limit:,.2f}, ${key.limit_remaining or 0:,.2f} remaining")
    spent = key.limit is not None and not (key.limit_remaining or 0) > 0
    return Level.WARN if spent else Level.OK, " · ".join(parts)
