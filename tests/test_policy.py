"""What an operator may spend and send: the tables of the file, what is refused, and the look-ups."""

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.config.errors import ConfigError
from batchmill.config.policy import (
    FREE,
    MAX_LIMIT_USD,
    Breaker,
    Budget,
    Limit,
    Policy,
    PriceRule,
    Project,
    Routing,
    decode_policy,
    encode_policy,
    matches,
)
from batchmill.config.rules import check_name
from batchmill.config.settings import load
from batchmill.config.windows import WindowKind
from batchmill.openrouter.prices import decode_price

FULL = """
[[limits]]
match = "anthropic/*"
requests_per_minute = 600
tokens_per_minute = 1_000_000

[[limits]]
name = "one-box"
match = ["local/llama", "local/qwen-?b"]
max_concurrency = 8
shared = true
burst_seconds = 0.5

[[budgets]]
name = "daily"
limit_usd = 5.10
window = "day"
timezone = "Europe/Berlin"

[[budgets]]
name = "evals"
limit_usd = "0.1"
models = "openai/*"
project = "evals"

[[prices]]
match = "local/*"
prompt = 0.1
completion = 0.25
cache_write = 0
image = 0.001

[[projects]]
name = "evals"
weight = 3

[breaker]
failure_ratio = 0.25
slow_seconds = 30
"""


def read(tmp_path: Path, content: str) -> Policy | None:
    file = tmp_path / "batchmill.toml"
    file.write_text(content, encoding="utf-8")
    return load(file, {}).policy


def policy_of(tmp_path: Path, content: str) -> Policy:
    policy = read(tmp_path, content)
    assert policy is not None
    return policy


def test_a_file_without_any_of_the_tables_has_no_policy(tmp_path: Path) -> None:
    assert read(tmp_path, "[worker]\nprocesses = 2\n") is None
    assert load(environ={}).policy is None


@pytest.mark.parametrize("empty", ["limits = []", "budgets = []", "prices = []", "projects = []", "[breaker]"])
def test_an_empty_table_is_a_policy_all_the_same(tmp_path: Path, empty: str) -> None:
    assert read(tmp_path, empty) == Policy()


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    assert policy_of(tmp_path, FULL) == Policy(
        limits=(
            Limit(
                name="anthropic-all",
                match=("anthropic/*",),
                requests_per_minute=600,
                tokens_per_minute=1_000_000,
            ),
            Limit(
                name="one-box",
                match=("local/llama", "local/qwen-?b"),
                max_concurrency=8,
                shared=True,
                burst_seconds=0.5,
            ),
            FREE,
        ),
        budgets=(
            Budget(name="daily", limit_usd=Decimal("5.1"), window=WindowKind.DAY, timezone="Europe/Berlin"),
            Budget(name="evals", limit_usd=Decimal("0.1"), models=("openai/*",), project="evals"),
        ),
        prices=(
            PriceRule(
                match=("local/*",),
                prompt=Decimal("0.1"),
                completion=Decimal("0.25"),
                cache_write=Decimal(0),
                image=Decimal("0.001"),
            ),
        ),
        projects=(Project(name="evals", weight=3.0),),
        breaker=Breaker(failure_ratio=0.25, slow_seconds=30.0),
    )


def test_money_is_never_a_float(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, '[[budgets]]\nname = "b"\nlimit_usd = 4503599.627370497\n')
    assert policy.budgets[0].limit == 4_503_599_627_370_497  # as a double, it would be another
    assert isinstance(policy.budgets[0].limit_usd, Decimal)


BUDGET = '[[budgets]]\nname = "b"\nlimit_usd = 1\n'
LIMIT = '[[limits]]\nmatch = "a/b"\nrequests_per_minute = 1\n'
PRICE = '[[prices]]\nmatch = "a/b"\ncompletion = 1\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[[budget]]", "unknown key 'budget'; did you mean 'budgets'?"),
        (BUDGET + "windw = 'day'", "unknown key 'budgets[0].windw'; did you mean 'window'?"),
        (LIMIT + "[[limits]]\nmatch = 'x'\nrequests_per_minut = 1", "unknown key 'limits[1].requests_per_minut'; did"),
        ("[breaker]\nprobe = 1", "unknown key 'breaker.probe'; did you mean 'probes'?"),
        ("[[projects]]\nname = 'x'\nwheight = 1", "unknown key 'projects[0].wheight'; did you mean 'weight'?"),
        ("[limits]\nmatch = 'x'", "`$.limits`"),
        ("budgets = 3", "`$.budgets`"),
        ("breaker = 3", "`$.breaker`"),
        (BUDGET + "window = 'year'", "Invalid enum value 'year' - at `$.budgets[0].window`"),
        (BUDGET + "timezone = 'Mars/Olympus'", "budget 'b': no time zone 'Mars/Olympus' on this machine; e.g. UTC"),
        (BUDGET + "timezone = '../x'", "no time zone '../x'"),
        (BUDGET + "timezone = ''", "no time zone ''"),
        (BUDGET + "models = []", "models names no model"),
        (BUDGET + BUDGET, "two budgets are named 'b'"),
        ("[[budgets]]\nname = 'batch_x'\nlimit_usd = 1", "names that begin with batch_ are those of batches"),
        ("[[budgets]]\nname = 'a b'\nlimit_usd = 1", "budget 'a b': a name has letters, digits, _ . - and"),
        ("[[budgets]]\nname = ''\nlimit_usd = 1", "budget '': a name has"),
        ('[[budgets]]\nname = "b\\t"\nlimit_usd = 1', "a name has letters"),
        (f"[[budgets]]\nname = '{'b' * 65}'\nlimit_usd = 1", "at most 64 of them - at `$.budgets[0]`"),
        (BUDGET + "project = 'a:b'", "project 'a:b': a name has"),
        ("[[projects]]\nname = 'ä'", "project 'ä': a name has"),
        (LIMIT + "name = 'a*'", "limit 'a*': a name has"),
        ("[[budgets]]\nname = 'b'", "missing required field `limit_usd` - at `$.budgets[0]`"),
        ("[[budgets]]\nname = 'b'\nlimit_usd = -1", "limit_usd must be a number of dollars from 0 to 9,000,000"),
        ("[[budgets]]\nname = 'b'\nlimit_usd = nan", "limit_usd must be a number of dollars"),
        ("[[budgets]]\nname = 'b'\nlimit_usd = inf", "limit_usd must be a number of dollars"),
        ("[[budgets]]\nname = 'b'\nlimit_usd = 9_000_001", "limit_usd must be a number of dollars"),
        ("[[budgets]]\nname = 'b'\nlimit_usd = 0.0000000001", "limit_usd has more than 9 decimal places: 1E-10"),
        ("[[budgets]]\nname = 'b'\nlimit_usd = 8999999.99999999999999999999999", "more than 9 decimal places"),
        ("[[budgets]]\nname = 'b'\nlimit_usd = '$5'", "at `$.budgets[0].limit_usd`"),
        ("[[limits]]\nmatch = 'a/b'", "limit 'a-b' limits nothing; give it requests_per_minute"),
        ("[[limits]]\nmatch = ''\nmax_concurrency = 1", "match names no model"),
        ("[[limits]]\nmax_concurrency = 1", "missing required field `match` - at `$.limits[0]`"),
        (LIMIT + "requests_per_day = 0", "at `$.limits[0].requests_per_day`"),
        (LIMIT + "burst_seconds = 0.0", "at `$.limits[0].burst_seconds`"),
        (LIMIT + LIMIT, "two limits are named 'a-b'"),
        (PRICE, "missing required field `prompt` - at `$.prices[0]`"),
        (PRICE + "prompt = -1.0", "prompt must be a number of dollars from 0 to 1,000,000, not -1.0"),
        ("[[projects]]\nname = 'x'\nweight = 0", "at `$.projects[0].weight`"),
        ("[[projects]]\nname = 'x'\n[[projects]]\nname = 'x'", "two projects are named 'x'"),
        ("[breaker]\nfailure_ratio = 1.5", "at `$.breaker.failure_ratio`"),
        ("[breaker]\nopen_seconds = 20\nmax_open_seconds = 10.5", "max_open_seconds must not be less than open_"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_its_place(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert said in message
    assert message.startswith(("config file ", str(tmp_path)))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("pattern", "model", "fits"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/bc", False),
        ("a/b", "A/b", False),
        ("a/*", "a/b:free", True),
        ("*:free", "a/b:free", True),
        ("*:free", "a/b:freed", False),
        ("*", "", True),
        ("a/?", "a/b", True),
        ("a/?", "a/", False),
        ("a.b", "axb", False),
        ("a[bc]", "ab", False),
        ("a[bc]", "a[bc]", True),
    ],
)
def test_a_pattern_fits(pattern: str, model: str, fits: bool) -> None:
    assert matches((pattern,), model) is fits
    assert matches((pattern, "never"), model) is fits
    assert matches(("never", pattern), model) is fits


def test_free_models_have_a_limit_unless_the_file_names_another(tmp_path: Path) -> None:
    for policy in (Policy(), policy_of(tmp_path, LIMIT)):
        assert policy.limits_for("maker/model:free") == (FREE,)
    assert (FREE.requests_per_minute, FREE.requests_per_day, FREE.scope_of("x:free")) == (20, 1000, "*")
    mine = policy_of(tmp_path, '[[limits]]\nname = "free"\nmatch = "*:free"\nrequests_per_day = 50\n')
    assert [limit.requests_per_day for limit in mine.limits] == [50]


def test_the_look_ups(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, FULL)
    assert [limit.name for limit in policy.limits_for("anthropic/claude:free")] == ["anthropic-all", "free"]
    assert policy.limits_for("openai/gpt") == ()
    assert [budget.name for budget in policy.budgets_for("openai/gpt", "evals")] == ["daily", "evals"]
    assert [budget.name for budget in policy.budgets_for("openai/gpt", "default")] == ["daily"]
    assert [budget.name for budget in policy.budgets_for("local/llama", "evals")] == ["daily"]
    assert (policy.weight_of("evals"), policy.weight_of("default")) == (3.0, 1.0)
    assert policy.price_for("local/qwen-7b") is policy.prices[0]
    assert policy.price_for("openai/gpt") is None


def test_the_first_price_that_fits_is_taken() -> None:
    dear, cheap = (PriceRule(match=match, prompt=Decimal(1), completion=Decimal(2)) for match in ("a/b", "a/*"))
    policy = Policy(prices=(dear, cheap))
    assert policy.price_for("a/b") is dear
    assert policy.price_for("a/c") is cheap


@pytest.mark.parametrize(
    ("rate", "burst", "capacity"), [(600, 6.0, 60), (20, 6.0, 2), (1, 6.0, 1), (None, 6.0, 1), (90, 1.0, 1)]
)
def test_a_bucket_holds_a_burst_and_never_less_than_one(rate: int | None, burst: float, capacity: int) -> None:
    limit = Limit(match="a", requests_per_minute=rate, tokens_per_minute=rate, max_concurrency=1, burst_seconds=burst)
    assert (limit.request_capacity, limit.token_capacity) == (capacity, capacity)
    assert limit.scope_of("a") == "a"


@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_limit_s_own_name_is_one(patterns: list[str]) -> None:
    """Made of any patterns, it can be a part of a key, and be read again."""
    limit = Limit(match=tuple(patterns), max_concurrency=1)
    check_name("limit", limit.name)
    assert decode_policy(encode_policy(Policy(limits=(limit,)))).limits == (limit,)


def test_a_policy_travels_as_json(tmp_path: Path) -> None:
    for policy in (Policy(), policy_of(tmp_path, FULL)):
        assert decode_policy(encode_policy(policy)) == policy
        assert encode_policy(decode_policy(encode_policy(policy))) == encode_policy(policy)


def test_a_price_reads_as_openrouter_s(tmp_path: Path) -> None:
    price = policy_of(tmp_path, FULL).prices[0]
    assert msgspec.json.decode(price.pricing()) == {
        "prompt": "0.0000001",
        "completion": "0.00000025",
        "image": "0.001",
        "input_cache_write": "0.000000",
    }


money = st.decimals(0, 1_000_000, allow_nan=False, places=12)


@given(money, money, st.none() | money, st.none() | money)
def test_no_digit_of_a_price_is_lost(
    prompt: Decimal, completion: Decimal, request: Decimal | None, cache_write: Decimal | None
) -> None:
    rule = PriceRule(match="*", prompt=prompt, completion=completion, request=request, cache_write=cache_write)
    base = decode_price(rule.pricing()).base
    assert (base.prompt, base.completion) == (prompt / 1_000_000, completion / 1_000_000)
    assert base.request == (msgspec.UNSET if request is None else request)
    assert base.input_cache_write == (msgspec.UNSET if cache_write is None else cache_write / 1_000_000)


@given(st.decimals(0, MAX_LIMIT_USD, allow_nan=False, places=9))
def test_a_limit_is_exact_in_nano_dollars_and_in_lua(usd: Decimal) -> None:
    limit = Budget(name="b", limit_usd=usd).limit
    assert Decimal(limit) / 1_000_000_000 == usd
    assert int(float(limit)) == limit


def test_a_pattern_without_a_list_is_one_pattern() -> None:
    assert matches("openai/*", "openai/gpt-4o")
    assert not matches("openai/*", "google/gemini")
    assert not matches(Routing(exclude_models="openai/*").exclude_models, "google/gemini")
