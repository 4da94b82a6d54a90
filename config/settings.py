"""What an operator decides, as one frozen value: a TOML file, then the environment over it.

Only this module reads the environment. A key that is not known is refused together with the nearest one that is.
"""

import os
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from batchmill.config.credentials import find_key
from batchmill.config.errors import ConfigError
from batchmill.config.policy import Policy
from batchmill.config.policy_tables import TABLES, read_policy
from batchmill.config.secret import Secret
from batchmill.config.sections import (
    OPENROUTER_URL,
    AccountSettings,
    ArchiveSettings,
    CacheSettings,
    CatalogueSettings,
    HealthSettings,
    InputSettings,
    LogSettings,
    PositiveFloat,
    PositiveInt,
    ResultSettings,
    RetrySettings,
    Section,
    ServiceSettings,
    SpendSettings,
    StorageSettings,
    StreamSettings,
    TracingSettings,
    UpstreamSettings,
    WorkerSettings,
)
from batchmill.config.spelling import nearest
from batchmill.config.typed import SIMULATOR
from batchmill.config.urls import is_openrouter, is_url, masked, normalized_url

__all__ = [
    "OPENROUTER_URL", "VARIABLES", "AccountSettings", "ArchiveSettings", "CacheSettings", "CatalogueSettings",
    "HealthSettings", "InputSettings", "LogSettings", "PositiveFloat", "PositiveInt", "ResultSettings",
    "RetrySettings", "Secret", "ServiceSettings", "Settings", "SpendSettings", "StorageSettings", "StreamSettings",
    "TracingSettings", "UpstreamSettings", "WorkerSettings", "config_path", "default_data_dir", "load", "read_file",
    "variables",
]  # fmt: skip


class Settings(Section, frozen=True):
    """Everything an operator decides. `load()` makes one."""

    upstream: UpstreamSettings = UpstreamSettings()
    catalogue: CatalogueSettings = CatalogueSettings()
    health: HealthSettings = HealthSettings()
    account: AccountSettings = AccountSettings()
    stream: StreamSettings = StreamSettings()
    retry: RetrySettings = RetrySettings()
    worker: WorkerSettings = WorkerSettings()
    input: InputSettings = InputSettings()
    results: ResultSettings = ResultSettings()
    spend: SpendSettings = SpendSettings()
    archive: ArchiveSettings = ArchiveSettings()
    service: ServiceSettings = ServiceSettings()
    storage: StorageSettings = StorageSettings()
    cache: CacheSettings = CacheSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    policy: Policy | None = None  # limits, budgets and the like, when the file has any of their tables
    redis_url: str | None = None
    data_dir: Path = Path("~/.local/share/batchmill")
    api_key: Secret | None = None
    key_source: tuple[str, str] | None = None  # where the key was: a kind of place, and which one
    simulate: bool = False
    config_file: Path | None = None  # where this was read from

    @property
    def upstream_name(self) -> str:
        """Which upstream lines are meant for; lanes of different upstreams never mix."""
        return SIMULATOR if self.simulate else normalized_url(self.upstream.base_url)

    @property
    def speaks_openrouter(self) -> bool:
        """Whether the upstream is OpenRouter itself (or a rehearsal of it): with its prices, and its routing."""
        return self.simulate or is_openrouter(self.upstream.base_url)


# what a file may say: a key in a config file would sooner or later be committed, so there is none
_FILE_SECTIONS = (
    "upstream", "catalogue", "health", "account", "stream", "retry", "worker", "input", "results", "spend",
    "archive", "service", "storage", "cache", "log", "tracing", "redis_url", "data_dir", *TABLES,
)  # fmt: skip
VARIABLES = {
    "BATCHMILL_BASE_URL": "upstream.base_url",
    "BATCHMILL_REDIS_URL": "redis_url",
    "BATCHMILL_DATA_DIR": "data_dir",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "tracing.endpoint",
}
"""The environment's variables for settings, and which settings they win over; an empty one says nothing."""

_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("auto", "console", "json")


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    simulate: bool = False,
    redis_url: str | None = None,
) -> Settings:
    """Read the file (or the one that `BATCHMILL_CONFIG` names) and the environment; check everything once.

    Raises ConfigError, whose message names the file or variable, the key and what would be right.
    """
    env = variables(environ)
    path = config_path(file, env)
    table = read_file(path) if path else {}
    source = str(path) if path else "the environment"
    policy = read_policy(table, source)
    merged = {key: value for key, value in table.items() if key not in TABLES}
    merged["data_dir"] = merged.get("data_dir") or default_data_dir(env)
    for name, key in VARIABLES.items():
        if env.get(name):
            _put(merged, key, env[name])
    if redis_url:
        merged["redis_url"] = redis_url
    try:
        settings = msgspec.convert(merged, Settings, dec_hook=_to_path)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(error, merged, source)) from error
    _check(settings, source)
    try:
        data_dir = settings.data_dir.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{source}: data_dir '{settings.data_dir}' names nobody's home ({error})") from error
    upstream = settings.upstream
    found = find_key(env, "" if simulate else upstream.keyring_service, upstream.keyring_user)
    return msgspec.structs.replace(
        settings,
        policy=policy,
        api_key=found.key if found else None,
        key_source=(found.kind, found.where) if found else None,
        simulate=simulate,
        data_dir=data_dir,
        config_file=path,
    )


def variables(environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Return the environment, or the one given in its place."""
    return os.environ if environ is None else environ


def config_path(file: Path | None, env: Mapping[str, str]) -> Path | None:
    """Return which file is read: the one given, else the one that `BATCHMILL_CONFIG` names, else none."""
    return file or (Path(env["BATCHMILL_CONFIG"]) if env.get("BATCHMILL_CONFIG") else None)


def read_file(path: Path) -> dict[str, Any]:
    """Return a config file's tables, numbers with a point as Decimals. Raises ConfigError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}; check BATCHMILL_CONFIG or --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not valid TOML: {error}") from error
    for key in table:
        if key not in _FILE_SECTIONS:
            raise ConfigError(f"config file {path}: unknown key '{key}'{nearest(key, _FILE_SECTIONS)}")
    return table


def _to_path(kind: type, value: object) -> Path:
    if kind is not Path or not isinstance(value, str):
        raise TypeError(f"Expected a path, got {value!r}")  # msgspec adds where
    return Path(value)


def default_data_dir(env: Mapping[str, str]) -> str:
    """Return where data is kept when nobody says where (XDG Base Directory Specification)."""
    return str(Path(env.get("XDG_DATA_HOME") or "~/.local/share") / "batchmill")


def _put(table: dict[str, Any], key: str, value: str) -> None:
    """Set `key` or `section.key`, in a copy of the section; what stands there and is none stays, to be refused."""
    section, _, name = key.rpartition(".")
    if not section:
        table[name] = value
    elif isinstance(within := table.get(section, {}), dict):
        table[section] = within | {name: value}


def _check(settings: Settings, source: str) -> None:
    if not is_url(settings.upstream.base_url, ("http", "https")):
        shown = masked(settings.upstream.base_url)
        raise ConfigError(f"{source}: base_url {shown} is not an http(s) URL; e.g. {OPENROUTER_URL}")
    if settings.redis_url is not None and not is_url(settings.redis_url, ("redis", "rediss", "unix")):
        raise ConfigError(
            f"{source}: the Redis URL must start with redis://, rediss:// or unix:// and name a server or a socket; "
            "e.g. redis://localhost:6379/0"
        )
    if settings.worker.heartbeat * 2 > settings.worker.lease:
        raise ConfigError(f"{source}: worker.lease must be at least twice worker.heartbeat")
    if settings.log.level not in _LEVELS:
        raise ConfigError(f"{source}: log.level must be one of {', '.join(_LEVELS)}")
    if settings.log.format not in _FORMATS:
        raise ConfigError(f"{source}: log.format must be one of {', '.join(_FORMATS)}")


def _explain(error: msgspec.ValidationError, table: Mapping[str, Any], source: str) -> str:
    for section, value in table.items():
        kind = Settings.__annotations__.get(section)
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            known = kind.__struct_fields__
            for key in value:
                if key not in known:
                    return f"{source}: unknown key '{section}.{key}'{nearest(key, known)}"
    return f"{source}: {error}"
