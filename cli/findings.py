"""What `batchmill check` looks at, one step each; a step that fails does not keep the others from being taken."""

import time
from importlib.util import find_spec
from pathlib import Path

from batchmill.cli import exit_codes
from batchmill.cli.account_findings import Known, examine_account, known_account
from batchmill.cli.finding import Finding, Level
from batchmill.cli.options import read_settings
from batchmill.config.credentials import find_webhook_secret
from batchmill.config.errors import ConfigError
from batchmill.config.settings import Settings, variables
from batchmill.store import policy
from batchmill.store.connection import ServerFacts, Store, open_store, printable
from batchmill.store.errors import StoreError
from batchmill.store.presence import workers_alive

_CLOCK_TOLERANCE = 2.0  # seconds; ours decides only what people see, Redis's all else


async def examine(
    config_file: Path | None, redis_url: str | None, found: list[Finding], *, simulate: bool = False
) -> int:
    """Take every step, add what it found, and return the exit code."""
    try:
        settings = read_settings(config_file, redis_url, simulate=simulate)
    except ConfigError as error:
        found.append(Finding("settings", Level.FAIL, str(error)))
        return exit_codes.UNUSABLE
    found.append(Finding("settings", Level.OK, _source(config_file, settings)))
    found += extras(settings)
    known = await _examine_redis(settings, found)
    refused = await examine_account(settings, known, found)
    if refused:
        return exit_codes.REFUSED
    failed = any(finding.level is Level.FAIL for finding in found)
    return exit_codes.UNUSABLE if failed else exit_codes.OK


def _source(config_file: Path | None, settings: Settings) -> str:
    file = config_file or settings.config_file
    return f"from {file} and the environment" if file else "from the environment and the defaults; no config file"


def extras(settings: Settings) -> list[Finding]:
    """Tell of what the settings ask for and what was not installed with batchmill, where anything is asked for."""
    asked = []
    if settings.tracing.endpoint:
        asked.append(("otel", "opentelemetry.exporter.otlp.proto.http", "lines are traced"))
    if settings.archive.kind == "file":
        asked.append(("archive", "pyarrow", "the archive is of Parquet files"))
    return [
        Finding("extras", Level.OK, what)
        if _is_here(module)
        else Finding("extras", Level.WARN, f"{what}: not here, without pip install 'batchmill[{extra}]'")
        for extra, module, what in asked
    ]


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # what it is a part of is missing
        return False


async def _examine_redis(settings: Settings, found: list[Finding]) -> Known | None:
    """Add what was found out about Redis; return what the fleet knows of the account."""
    try:
        async with open_store(settings) as store:
            kind = "embedded server" if store.server else "Redis"
            found.append(Finding("redis", Level.OK, f"{kind} {store.facts.version} at {printable(store.url)}"))
            found.append(Finding("eviction", Level.OK, "noeviction: nothing is dropped when memory is full"))
            found.append(_persistence(store.facts))
            found.append(_clock(store.facts))
            found.append(await _workers(settings, store))
            found += await _webhooks(settings, store)
            return await known_account(store.redis, settings)
    except StoreError as error:
        found.append(Finding("redis", Level.FAIL, str(error)))
        return None


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


async def _webhooks(settings: Settings, store: Store) -> list[Finding]:
    """Say which webhooks can't be signed here: whoever delivers needs the secret, and that may be any worker."""
    rules = settings.policy or (await policy.live(store.redis, settings.upstream_name)).policy
    found = []
    for hook in rules.webhooks:
        try:
            find_webhook_secret(variables(), hook.secret_env)
        except ConfigError as error:
            found.append(Finding("webhooks", Level.WARN, f"{hook.name}: {error}, on each machine with workers"))
    if rules.webhooks and not found:
        found.append(Finding("webhooks", Level.OK, f"{len(rules.webhooks):,}, and their secrets are set here"))
    return found
