"""What may be spent and sent: limits, budgets, prices, weights and breakers as one frozen value with pure look-ups.

The look-ups walk over patterns: whoever asks for every line keeps the answers, which hold as long as the policy does.
Rules stay so small that every sum the gate makes of them is exact in a Lua number (below 2^53).
"""

import re
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec

from batchmill.config.alerting import Alerts, Webhook
from batchmill.config.rules import MAX_NAME, Rule, check_money, check_name
from batchmill.config.strategy import Strategy
from batchmill.config.windows import WindowKind

Patterns = tuple[str, ...] | str
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Weight = Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]

NANO = 1_000_000_000
MAX_LIMIT_USD = 9_000_000
_NANO_DIGITS = 9
_MAX_PRICE_USD = 1_000_000  # a million tokens, or one call
_PRICE_DIGITS = 18
_PER_MILLION = -6  # as a power of ten
_MINUTE = 60
BATCH_PREFIX = "batch_"
KEY_PREFIX = "key:"
SHARED = "*"
AUTO = "auto"
"""The model of a line that takes any that can serve it."""


def matches(patterns: Patterns, model: str) -> bool:
    """Whether one of the patterns is the model's id; `*` stands for any letters, `?` for one."""
    if isinstance(patterns, str):  # whose letters are no patterns: a "*" among them would match everything
        patterns = (patterns,)
    return any(_compiled(pattern).fullmatch(model) for pattern in patterns)


def check_limit(usd: Decimal) -> None:
    """Raise ValueError for a number of dollars that can't be the limit of a budget."""
    check_money("limit_usd", usd, MAX_LIMIT_USD, _NANO_DIGITS)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _patterns(key: str, given: Patterns) -> tuple[str, ...]:
    patterns = (given,) if isinstance(given, str) else given
    if not patterns or not all(patterns):
        raise ValueError(f"{key} names no model; give a model id or a pattern, e.g. 'openai/*'")
    return patterns


def _name_of(patterns: tuple[str, ...]) -> str:
    """Return the patterns as a name: * becomes `all`, and what no name has becomes a dash."""
    joined = "_".join(patterns).replace("*", "all")
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", joined)[:MAX_NAME]


class Limit(Rule, frozen=True):
    """A rate rule for the models that match: for each of them, or one for all when it is shared.

    `burst_seconds` says how much of a rate may go at once after a rest.
    """

    match: Patterns
    name: str = ""
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    requests_per_day: Count | None = None
    max_concurrency: Count | None = None
    shared: bool = False
    burst_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 6.0

    def __post_init__(self) -> None:
        patterns = _patterns("match", self.match)
        msgspec.structs.force_setattr(self, "match", patterns)
        if not self.name:
            msgspec.structs.force_setattr(self, "name", _name_of(patterns))
        check_name("limit", self.name)
        rates = (self.requests_per_minute, self.tokens_per_minute, self.requests_per_day, self.max_concurrency)
        if not any(rates):
            raise ValueError(
                f"limit '{self.name}' limits nothing; give it requests_per_minute, tokens_per_minute, "
                "requests_per_day or max_concurrency"
            )

    def scope_of(self, model: str) -> str:
        """Return which of its buckets a model draws from."""
        return SHARED if self.shared else model

    @property
    def request_capacity(self) -> int:
        """Requests that may go at once."""
        return self._capacity(self.requests_per_minute)

    @property
    def token_capacity(self) -> int:
        """Tokens that may go at once."""
        return self._capacity(self.tokens_per_minute)

    def _capacity(self, rate: int | None) -> int:
        return max(1, int((rate or 0) * self.burst_seconds / _MINUTE))


class Budget(Rule, frozen=True):
    """A dollar cap over a window of time, for the models that match and one project or all."""

    name: str
    limit_usd: Decimal
    window: WindowKind = WindowKind.TOTAL
    timezone: str = "UTC"
    models: Patterns = ("*",)
    project: str | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "models", _patterns("models", self.models))
        check_name("budget", self.name)
        if self.project is not None:
            check_name("project", self.project)
        check_limit(self.limit_usd)
        if self.name.startswith(BATCH_PREFIX):
            raise ValueError(f"budget '{self.name}': names that begin with {BATCH_PREFIX} are those of batches")
        try:
            ZoneInfo(self.timezone)
        except (OSError, ValueError, LookupError) as error:  # LookupError: ZoneInfoNotFoundError, of which it is one
            raise ValueError(
                f"budget '{self.name}': no time zone '{self.timezone}' on this machine; e.g. UTC or Europe/Berlin"
            ) from error

    @property
    def limit(self) -> int:
        """The cap in nano-dollars."""
        return int(self.limit_usd * NANO)

    def covers(self, model: str, project: str, key: str | None = None) -> bool:  # noqa: ARG002 - whose key, see below
        """Whether lines of the project for the model are paid from it; `key` is the API key that handed them over."""
        return self.project in (None, project) and matches(self.models, model)


class KeyBudget(Budget, frozen=True):
    """The budget of one API key, by its id: whatever it handed over, for any model. It stands in Redis, in no file."""

    key: str = ""

    def __post_init__(self) -> None:
        check_limit(self.limit_usd)
        if not self.name.startswith(KEY_PREFIX) or not self.key:
            raise ValueError(f"budget '{self.name}' belongs to no API key")

    def covers(self, model: str, project: str, key: str | None = None) -> bool:  # noqa: ARG002 - any model and project
        """Whether the key handed the lines over."""
        return self.key == key


class PriceRule(Rule, frozen=True):
    """What an operator says that models cost: USD for a million tokens, and for one call or image."""

    match: Patterns
    prompt: Decimal
    completion: Decimal
    request: Decimal | None = None
    image: Decimal | None = None
    cache_write: Decimal | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "match", _patterns("match", self.match))
        for name in ("prompt", "completion", "request", "image", "cache_write"):
            rate: Decimal | None = getattr(self, name)
            if rate is not None:
                check_money(name, rate, _MAX_PRICE_USD, _PRICE_DIGITS)

    def pricing(self) -> bytes:
        """Return the JSON object that OpenRouter would state: USD for one token, call or image as decimal strings."""
        rates = {
            "prompt": self.prompt.scaleb(_PER_MILLION),
            "completion": self.completion.scaleb(_PER_MILLION),
            "request": self.request,
            "image": self.image,
            "input_cache_write": None if self.cache_write is None else self.cache_write.scaleb(_PER_MILLION),
        }
        return msgspec.json.encode({name: f"{rate:f}" for name, rate in rates.items() if rate is not None})


class Project(Rule, frozen=True):
    """Whose work it is, and how large a share of the turns it has beside the others."""

    name: str
    weight: Annotated[float, msgspec.Meta(ge=0.001, le=1_000_000)] = 1.0

    def __post_init__(self) -> None:
        check_name("project", self.name)


class Breaker(Rule, frozen=True):
    """When the breaker of a model opens, and how it closes again. Times in seconds."""

    window_seconds: Seconds = 60.0
    min_calls: Count = 20  # in the window, below which nothing is concluded
    failure_ratio: Share = 0.5
    slow_seconds: Seconds | None = None  # a call that took longer counts as slow; None: none does
    slow_ratio: Share = 0.9
    open_seconds: Seconds = 10.0  # after the first trip; longer with each that follows
    max_open_seconds: Seconds = 300.0
    probes: Count = 3  # in the whole fleet, while half open

    def __post_init__(self) -> None:
        if self.max_open_seconds < self.open_seconds:
            raise ValueError("max_open_seconds must not be less than open_seconds")


class Trouble(StrEnum):
    """What sends a line to its next candidate."""

    BREAKER = "breaker"  # open, or an operator's pause
    PROVIDER = "provider"  # it failed, timed out or is overloaded
    NO_ENDPOINT = "no_endpoint"
    CONTEXT = "context"  # the line is too long for it
    MODERATION = "moderation"
    BUDGET = "budget"  # no room for the line at its price
    LIMIT = "limit"  # ours or the upstream's; strategies that spread pass on anyway


EVERY_TROUBLE = tuple(trouble for trouble in Trouble if trouble is not Trouble.LIMIT)


class Alias(Rule, frozen=True):
    """A name for several models: lines that ask for it get one of them."""

    name: str
    models: tuple[str, ...]
    strategy: Strategy | None = None  # that of [routing] when none is named
    weights: tuple[Weight, ...] = ()  # one a model; all alike when none is named

    def __post_init__(self) -> None:
        check_name("alias", self.name)
        if self.name == AUTO:
            raise ValueError(f"no alias can be named '{AUTO}': it stands for any model that can serve the line")
        if not self.models or not all(self.models) or len(set(self.models)) < len(self.models):
            raise ValueError(f"alias '{self.name}': models must name at least one model, and each once")
        if self.weights and len(self.weights) != len(self.models):
            raise ValueError(f"alias '{self.name}': weights must be one for each of its {len(self.models)} models")


class Routing(Rule, frozen=True):
    """How lines find their model where they don't name one alone. Times in seconds, prices in USD a million tokens.

    `strategy` is for "auto", aliases and batches that name none of their own; a list of fallbacks goes by `order`.
    The lists of providers go for every line sent to OpenRouter that does not name its own.
    """

    strategy: Strategy = Strategy.COST
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3  # calls of a routed line, over all its models
    retry_delay: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    fallback_on: tuple[Trouble, ...] = EVERY_TROUBLE
    prefer_models: Patterns = ()
    exclude_models: Patterns = ()
    prefer_providers: tuple[str, ...] = ()
    exclude_providers: tuple[str, ...] = ()
    auto_models: Patterns = ("*",)  # what "auto" may choose from
    auto_candidates: Annotated[int, msgspec.Meta(ge=1, le=16)] = 5
    auto_max_input_price: Decimal | None = None
    auto_max_output_price: Decimal | None = None
    auto_free: bool = False  # whether "auto" may choose free models, with their daily caps


FREE = Limit(name="free", match="*:free", requests_per_minute=20, requests_per_day=1000, shared=True)
"""What OpenRouter lets an account send to all free models together (20 a minute; 1000 a day with credits bought)."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Every rule in force. The limit named "free" is there unless another of that name replaces it."""

    limits: tuple[Limit, ...] = (FREE,)
    budgets: tuple[Budget, ...] = ()
    prices: tuple[PriceRule, ...] = ()
    projects: tuple[Project, ...] = ()
    breaker: Breaker = Breaker()
    aliases: tuple[Alias, ...] = ()
    routing: Routing = Routing()
    alerts: Alerts = Alerts()
    webhooks: tuple[Webhook, ...] = ()

    def __post_init__(self) -> None:
        named = (
            ("limits", self.limits),
            ("budgets", self.budgets),
            ("projects", self.projects),
            ("aliases", self.aliases),
            ("webhooks", self.webhooks),
        )
        for kind, rules in named:
            names = [rule.name for rule in rules]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"two {kind} are named '{name}'; give each a name of its own")

    def limits_for(self, model: str) -> tuple[Limit, ...]:
        """Return the limits that a model is under."""
        return tuple(limit for limit in self.limits if matches(limit.match, model))

    def budgets_for(self, model: str, project: str, key: str | None = None) -> tuple[Budget, ...]:
        """Return the budgets that a line is paid from, but for that of its batch; an API key may have one, too."""
        return tuple(budget for budget in self.budgets if budget.covers(model, project, key))

    def weight_of(self, project: str) -> float:
        """Return a project's weight, 1 for one that is not named."""
        return next((known.weight for known in self.projects if known.name == project), 1.0)

    def alias(self, name: str) -> Alias | None:
        """Return the alias of that name."""
        return next((alias for alias in self.aliases if alias.name == name), None)

    def price_for(self, model: str) -> PriceRule | None:
        """Return the first price that matches, None when the operator names none."""
        return next((price for price in self.prices if matches(price.match, model)), None)


_decode = msgspec.json.Decoder(Policy).decode


def encode_policy(policy: Policy) -> bytes:
    """Return a policy as JSON; the same policy is always the same bytes."""
    return msgspec.json.encode(policy)


def decode_policy(document: bytes) -> Policy:
    """Read what `encode_policy` wrote. Raises msgspec.ValidationError."""
    return _decode(document)
