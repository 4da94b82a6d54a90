"""The tables of the TOML file that are settings: one frozen value each, with what they are by default."""

from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from batchmill.config.urls import masked

OPENROUTER_URL = "https://openrouter.ai/api/v1"

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
_YEAR = 366 * 86_400.0
PositiveFloat = Annotated[float, msgspec.Meta(gt=0, le=_YEAR)]  # TOML knows infinity; Redis and timers don't


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the TOML file. Its repr shows no password of a URL."""

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={masked(value) if isinstance(value, str) else repr(value)}" for name, value in fields)
        return f"{type(self).__name__}({', '.join(shown)})"


class UpstreamSettings(Section, frozen=True):
    """The HTTP API that answers: where it is, who we are there, and how long we wait (seconds)."""

    base_url: str = OPENROUTER_URL
    referer: str = "https://github.com/batchmill/batchmill"
    title: str = "batchmill"
    connect_timeout: PositiveFloat = 10.0
    read_timeout: PositiveFloat = 600.0  # one silence, not the whole answer: long answers are minutes of thinking
    total_timeout: PositiveFloat = 1800.0
    keyring_service: str = ""  # where the system's keyring has the key, if it is to be asked; "": it is not
    keyring_user: str = "batchmill"


class CatalogueSettings(Section, frozen=True):
    """How often the list of models is read anew, and which list. Times in seconds."""

    refresh: PositiveFloat = 300.0
    auto_refresh: bool = True  # by the workers; else only when a batch is handed over
    only_usable: bool = False  # `GET /models/user`: what the account's own settings leave of the list
    keep: PositiveFloat = 86_400.0  # the last good copy, while the upstream can't be asked


class HealthSettings(Section, frozen=True):
    """Whether and how often the endpoints of models in use are looked at (it costs nothing). Times in seconds."""

    check: bool = True
    interval: PositiveFloat = 60.0
    timeout: PositiveFloat = 10.0


class AccountSettings(Section, frozen=True):
    """Whether and how often the key's own limits are looked at. Times in seconds."""

    check: bool = True
    interval: PositiveFloat = 60.0


class StreamSettings(Section, frozen=True):
    """When answers are streamed from the upstream, so that a call that is given up stops costing money.

    `upstream`: "asked" (lines that want live tokens), "long" (also those that may have more than `long_tokens`), or
    "always".
    """

    upstream: Literal["asked", "long", "always"] = "asked"
    long_tokens: PositiveInt = 8192
    keep: PositiveFloat = 3600.0  # seconds that live tokens can be read after the end


class RetrySettings(Section, frozen=True):
    """When one line is tried again. Times in seconds."""

    max_attempts: PositiveInt = 5  # calls that failed for a reason that another try may mend
    first_delay: PositiveFloat = 0.5
    max_delay: PositiveFloat = 60.0
    max_limited_wait: PositiveFloat = 86_400.0  # in all, while the upstream says "too many requests"


class WorkerSettings(Section, frozen=True):
    """The doing side. Times in seconds."""

    processes: PositiveInt = 1
    concurrency: PositiveInt = 100  # lines in the air, a process
    grace: PositiveFloat = 30.0  # after SIGTERM, for what is in the air
    lease: PositiveFloat = 10.0  # a silent worker's lines go to others after this
    heartbeat: Annotated[float, msgspec.Meta(gt=0, le=5)] = 2.0  # who is silent for ten seconds counts as gone
    poll: PositiveFloat = 0.05


class InputSettings(Section, frozen=True):
    """What a file may hold, and what is taken for what its lines leave open."""

    default_model: str = ""  # for lines that name none, where --model does not; "": such a line is refused
    default_max_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0  # likewise for --max-tokens; 0: what the model can

    max_lines: PositiveInt = 1_000_000
    max_line_bytes: PositiveInt = 4 * 1024 * 1024


class ResultSettings(Section, frozen=True):
    """What is kept, and for how long (days)."""

    retention_days: Annotated[int, msgspec.Meta(ge=1, le=3660)] = 30


class SpendSettings(Section, frozen=True):
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


class ArchiveSettings(Section, frozen=True):
    """Where usage records are kept beside Redis. `kind`: "memory" (nowhere), "file" (Parquet) or "database" (SQLite).

    `path` is the file of the database or the folder of the files; empty: in the data folder.
    """

    kind: Literal["memory", "file", "database"] = "memory"
    path: str = ""
    interval: PositiveFloat = 300.0  # seconds that a record may wait to be copied


class CacheSettings(Section, frozen=True):
    """The answer cache: whether batches want it that don't say, and what is kept of it. Times in seconds."""

    enabled: bool = False
    ttl: PositiveFloat = 86_400.0
    across_projects: bool = False
    max_answers: PositiveInt = 50_000  # of a project
    max_answer_bytes: PositiveInt = 256 * 1024


class TracingSettings(Section, frozen=True):
    """OpenTelemetry traces of lines, for who installed the extra `otel`. `sample`: which share of lines is told of."""

    endpoint: str = ""  # URL of a collector that speaks OTLP over HTTP; "": no traces
    sample: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class LogSettings(Section, frozen=True):
    """How the processes speak to the operator."""

    level: str = "info"
    format: str = "auto"  # auto: console on a terminal, JSON elsewhere


class ServiceSettings(Section, frozen=True):
    """`batchmill serve`: where it listens, and what it takes from whom. Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8080
    max_upload_bytes: PositiveInt = 512 * 1024 * 1024  # as OpenAI's
    max_batch_bytes: PositiveInt = 200 * 1024 * 1024  # of a file that a batch is made of, as OpenAI's
    max_batch_lines: PositiveInt = 50_000  # as OpenAI's
    max_body_bytes: PositiveInt = 16 * 1024 * 1024  # of any request but an upload
    body_timeout: PositiveFloat = 30.0  # one silence of a client that sends a body; and for a whole head
    max_connections: PositiveInt = 4096  # at once; of a gateway
    chat_timeout: PositiveFloat = 600.0  # a chat completion that nobody could begin is given up
    requests_per_minute: PositiveInt = 6000  # of one key, unless it says otherwise
    file_days: Annotated[int, msgspec.Meta(ge=1, le=3660)] = 30  # an uploaded file, unless the upload says otherwise
    open_metrics: bool = False  # whether anybody who reaches us may read /metrics
    webhook_secret_env: str = "BATCHMILL_WEBHOOK_SECRET"  # noqa: S105 - the variable that has it; signs ends of batches
    private_webhooks: bool = False  # whether a batch's webhook may be an address of our own network


class StorageSettings(Section, frozen=True):
    """Where the bytes of files are. `kind`: "local" (a folder) or "s3" (object storage, for gateways without a disk).

    `path` is the folder; empty: `files` in the data folder. Credentials for S3 come from its own environment.
    """

    kind: Literal["local", "s3"] = "local"
    path: str = ""
    bucket: str = ""
    prefix: str = ""
    endpoint: str = ""  # URL of an S3 that is not Amazon's
    region: str = ""
