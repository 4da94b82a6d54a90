"""What an operator decides, as one frozen value: a TOML file, then the environment over it.

Only this module reads the environment. A key that is not known is refused together with the nearest one that is.
"""

import os
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from batchmill.config.credentials import find_key
from batchmill.config.errors import ConfigError
from batchmill.config.policy import Policy
from batchmill.config.policy_tables import TABLES, read_policy
from batchmill.config.secret import Secret
from batchmill.config.spelling import nearest
from batchmill.config.urls import is_openrouter, is_url, masked, normalized_url

__all__ = [
    "OPENROUTER_URL", "VARIABLES", "AccountSettings", "ArchiveSettings", "CacheSettings", "CatalogueSettings",
    "HealthSettings", "InputSettings", "LogSettings", "PositiveFloat", "PositiveInt", "ResultSettings",
    "RetrySettings", "Secret", "Settings", "SpendSettings", "StreamSettings", "UpstreamSettings", "WorkerSettings",
    "config_path", "default_data_dir", "load",
    "read_file", "variables",
]  # fmt: skip

OPENROUTER_URL = "https://openrouter.ai/api/v1"

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
_YEAR = 366 * 86_400.0
PositiveFloat = Annotated[float, msgspec.Meta(gt=0, le=_YEAR)]  # TOML knows infinity; Redis and timers don't


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the TOML file. Its repr shows no password of a URL."""

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={masked(value) if isinstance(value, str) else repr(value)}" for name, value in fields)
        return f"{type(self).__name__}({', '.join(shown)})"


class UpstreamSettings(_Section, frozen=True):
    """The HTTP API that answers: where it is, who we are there, and how long we wait (seconds)."""

    base_url: str = OPENROUTER_URL
    referer: str = "https://github.com/batchmill/batchmill"
    title: str = "batchmill"
    connect_timeout: PositiveFloat = 10.0
    read_timeout: PositiveFloat = 600.0  # one silence, not the whole answer: long answers are minutes of thinking
    total_timeout: PositiveFloat = 1800.0
    keyring_service: str = ""  # where the system's keyring has the key, if it is to be asked; "": it is not
    keyring_user: str = "batchmill"


class CatalogueSettings(_Section, frozen=True):
    """How often the list of models is read anew, and which list. Times in seconds."""

    refresh: PositiveFloat = 300.0
    auto_refresh: bool = True  # by the workers; else only when a batch is handed over
    only_usable: bool = False  # `GET /models/user`: what the account's own settings leave of the list
    keep: PositiveFloat = 86_400.0  # the last good copy, while the upstream can't be asked


class HealthSettings(_Section, frozen=True):
    """Whether and how often the endpoints of models in use are looked at (it costs nothing). Times in seconds."""

    check: bool = True
    interval: PositiveFloat = 60.0
    timeout: PositiveFloat = 10.0


class AccountSettings(_Section, frozen=True):
    """Whether and how often the key's own limits are looked at. Times in seconds."""

    check: bool = True
    interval: PositiveFloat = 60.0


class StreamSettings(_Section, frozen=True):
    """When answers are streamed from the upstream, so that a call that is given up stops costing money.

    `upstream`: "asked" (lines that want live tokens), "long" (also those that may have more than `long_tokens`), or
    "always".
    """

    upstream: Literal["asked", "long", "always"] = "asked"
    long_tokens: PositiveInt = 8192
    keep: PositiveFloat = 3600.0  # seconds that live tokens can be read after the end


class RetrySettings(_Section, frozen=True):
    """When one line is tried again. Times in seconds."""

    max_attempts: PositiveInt = 5  # calls that failed for a reason that another try may mend
    first_delay: PositiveFloat = 0.5
    max_delay: PositiveFloat = 60.0
    max_limited_wait: PositiveFloat = 86_400.0  # in all, while the upstream says "too many requests"


class WorkerSettings(_Section, frozen=True):
    """The doing side. Times in seconds."""

    processes: PositiveInt = 1
    concurrency: PositiveInt = 100  # lines in the air, a process
    grace: PositiveFloat = 30.0  # after SIGTERM, for what is in the air
    lease: PositiveFloat = 10.0  # a silent worker's lines go to others after this
    heartbeat: Annotated[float, msgspec.Meta(gt=0, le=5)] = 2.0  # who is silent for ten seconds counts as gone
    poll: PositiveFloat = 0.05


class InputSettings(_Section, frozen=True):
    """What a file may hold, and what is taken for what its lines leave open."""

    default_model: str = ""  # for lines that name none, where --model does not; "": such a line is refused
    default_max_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0  # likewise for --max-tokens; 0: what the model can

    max_lines: PositiveInt = 1_000_000
    max_line_bytes: PositiveInt = 4 * 1024 * 1024


class ResultSettings(_Section, frozen=True):
    """What is kept, and for how long (days)."""

    retention_days: Annotated[int, msgspec.Meta(ge=1, le=3660)] = 30


class SpendSettings(_Section, frozen=True):
    """What is asked before money is spent, and what the ledger keeps: records by count and age (days), whichever is
    less, and roll-ups by age.
    """

    ask_over_usd: Decimal = Decimal("5.00")  # `run` asks first when it is likely to cost more, on a terminal
    keep_records: PositiveInt = 1_000_000
    keep_days: Annotated[int, msgspec.Meta(ge=1, le=3660)] = 30
    rollup_days: Annotated[int, msgspec.Meta(ge=1, le=3660)] = 730

    def __post_init__(self) -> None:
        if not (self.ask_over_usd.is_finite() and self.ask_over_usd >= 0):
            raise ValueError(f"ask_over_usd must be a number of dollars from 0 on, not {self.ask_over_usd}")


class ArchiveSettings(_Section, frozen=True):
    """Where usage records are kept beside Redis. `kind`: "memory" (nowhere), "file" (Parquet) or "database" (SQLite).

    `path` is the file of the database or the folder of the files; empty: in the data folder.
    """

    kind: Literal["memory", "file", "database"] = "memory"
    path: str = ""
    interval: PositiveFloat = 300.0  # seconds that a record may wait to be copied


class CacheSettings(_Section, frozen=True):
    """The answer cache: whether batches want it that don't say, and what is kept of it. Times in seconds."""

    enabled: bool = False
    ttl: PositiveFloat = 86_400.0
    across_projects: bool = False
    max_answers: PositiveInt = 50_000  # of a project
    max_answer_bytes: PositiveInt = 256 * 1024


class LogSettings(_Section, frozen=True):
    """How the processes speak to the operator."""

    level: str = "info"
    format: str = "auto"  # auto: console on a terminal, JSON elsewhere


class Settings(_Section, frozen=True):
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
    cache: CacheSettings = CacheSettings()
    log: LogSettings = LogSettings()
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
        return "simulator" if self.simulate else normalized_url(self.upstream.base_url)

    @property
    def speaks_openrouter(self) -> bool:
        """Whether the upstream is OpenRouter itself (or a rehearsal of it): with its prices, and its routing."""
        return self.simulate or is_openrouter(self.upstream.base_url)


# what a file may say: a key in a config file would sooner or later be committed, so there is none
_FILE_SECTIONS = (
    "upstream", "catalogue", "health", "account", "stream", "retry", "worker", "input", "results", "spend",
    "archive", "cache", "log", "redis_url", "data_dir", *TABLES,
)  # fmt: skip
VARIABLES = {
    "BATCHMILL_BASE_URL": "upstream.base_url",
    "BATCHMILL_REDIS_URL": "redis_url",
    "BATCHMILL_DATA_DIR": "data_dir",
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
