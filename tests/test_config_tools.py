"""Where settings come from, the schema of the file, and the file to begin with."""

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from batchmill.config import descriptions, schema
from batchmill.config.errors import ConfigError
from batchmill.config.settings import load
from batchmill.config.sources import Traced, lines_of, trace
from batchmill.config.template import commented_defaults

from .test_docs import blocks, excused

PAGES = [*blocks("toml"), *excused("toml")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "batchmill.toml"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    made = schema.schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def traced(file: Path | None = None, environ: dict[str, str] | None = None, **given: Any) -> dict[str, Traced]:
    _, values = trace(file, environ or {}, **given)
    found = {one.key: one for one in values}
    assert len(found) == len(values)
    return found


def test_every_key_of_the_file_is_described_and_nothing_else() -> None:
    assert set(descriptions.KEYS) == set(schema.every_key())
    assert set(descriptions.TABLES) == set(schema.tables())


def test_what_nobody_said_is_a_default() -> None:
    assert {one.source for one in traced().values()} == {"default"}
    assert {key for key in schema.every_key() if "." in key and key.split(".")[0] in schema.sections()} <= set(traced())


def test_a_value_is_traced_to_its_line(file: Path) -> None:
    file.write_text(
        '# a comment\nredis_url = "redis://u:secret@host"\nupstream.title = "mine"\n\n[worker]\n'
        'processes = 3\n[[limits]]\nmatch = [\n  "a/*",  # with a comment\n]\nmax_concurrency = 5\n'
        '[[limits]]\nmatch = "b"\nrequests_per_day = 7\n'
    )
    found = traced(file)
    where = {key: one.where for key, one in found.items() if one.source == "file"}
    lines = {
        "redis_url": 2,
        "upstream.title": 3,
        "worker.processes": 6,
        "limits[0].match": 8,
        "limits[0].max_concurrency": 11,
        "limits[1].match": 13,
        "limits[1].requests_per_day": 14,
    }
    assert where == {key: f"{file}:{line}" for key, line in lines.items()}
    assert found["limits[0].match"].value == ["a/*"]
    assert found["limits[2].name"] == Traced("limits[2].name", "free", "default")
    assert found["redis_url"].value == "redis://***@host"
    assert found["config_file"].origin == "command line: --config"
    assert found["worker.lease"].origin == "default"


def test_what_wins_is_what_is_told(file: Path) -> None:
    file.write_text('redis_url = "redis://file"\n[upstream]\nbase_url = "https://file/v1"\n')
    environ = {
        "BATCHMILL_CONFIG": str(file),
        "BATCHMILL_BASE_URL": "https://user:hidden@env/v2",
        "BATCHMILL_REDIS_URL": "redis://env",
        "OPENROUTER_API_KEY": "sk-or-v1-hidden",
        "XDG_DATA_HOME": "/xdg",
    }
    found = traced(None, environ)
    assert found["upstream.base_url"].value == "https://***@env/v2"
    expected = {
        "config_file": "environment: BATCHMILL_CONFIG",
        "upstream.base_url": "environment: BATCHMILL_BASE_URL",
        "redis_url": "environment: BATCHMILL_REDIS_URL",
        "api_key": "environment: OPENROUTER_API_KEY",
        "data_dir": "environment: XDG_DATA_HOME",
    }
    assert {key: found[key].origin for key in expected} == expected
    assert "hidden" not in repr(found)
    given = traced(None, environ, redis_url="redis://call", simulate=True)
    assert given["redis_url"].origin == "command line: --redis"
    assert given["simulate"] == Traced("simulate", True, "command line")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('a = """\n[b]\nc = 1\n"""\n[d]\ne = 2\n', {"a": 1, "d": 5, "d.e": 6}),
        ("a = {b = 1, c = [{d = 2}]}", {"a": 1, "a.b": 1, "a.c": 1, "a.c[0].d": 1}),
        ("[ 'a' ]  # x\n\"b\" = 1\n", {"a": 1, "a.b": 2}),
        ("[[a]]\n[[a]]\nb = [\n 1,\n]\nc=2", {"a[0]": 1, "a[1]": 2, "a[1].b": 3, "a[1].c": 6}),
        ("[a.b]\nc = 1\n", {"a.b": 1, "a.b.c": 2}),
        ("", {}),
    ],
)
def test_keys_are_found_wherever_toml_lets_them_be(text: str, lines: dict[str, int]) -> None:
    tomllib.loads(text)
    assert lines_of(text) == lines


def test_the_file_to_begin_with_says_what_is_so_without_it(file: Path, validator: Any) -> None:
    file.write_text(commented_defaults(), encoding="utf-8")
    assert msgspec.structs.replace(load(file, {}), config_file=None) == load(environ={})
    written = tomllib.loads(commented_defaults())
    assert set(written) == set(schema.sections())
    validator.validate(written)
    for name, kind in schema.sections().items():
        assert set(written[name]) == set(kind.__struct_fields__)


def test_its_comments_are_a_policy(file: Path, validator: Any) -> None:
    lines = commented_defaults().splitlines()
    text = "\n".join(line[1:] if line.startswith("#") and line[1:2] not in ("", " ") else line for line in lines)
    file.write_text(text, encoding="utf-8")
    policy = load(file, {}).policy
    assert policy is not None
    assert [budget.limit_usd for budget in policy.budgets] == [Decimal(5)]
    assert policy.routing == type(policy.routing)()
    validator.validate(tomllib.loads(text))


@pytest.mark.parametrize(("page", "block"), PAGES, ids=lambda value: value[:24])
def test_the_schema_takes_what_the_documentation_shows(page: str, block: str, validator: Any) -> None:
    validator.validate(tomllib.loads(block))


@pytest.mark.parametrize(
    "text",
    [
        "redis_ur = 'x'",
        "redis_url = 'http://x'",
        "api_key = 'x'",
        "simulate = true",
        "[worker]\nprocesses = 0",
        "[worker]\nconcurency = 3",
        "[worker]\nlease = 'long'",
        "[log]\nlevel = 'loud'",
        "[stream]\nupstream = 'never'",
        "[[budgets]]\nname = 'x'",
        "[[budgets]]\nname = 'x'\nlimit_usd = 1\nwindow = 'fortnight'",
        "[breaker]\nfailure_ratio = 2",
        "[routing]\nstrategy = 'luck'",
        "[limits]\nmatch = 'x'",
    ],
)
def test_the_schema_refuses_what_loading_refuses(text: str, file: Path, validator: Any) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError):
        load(file, {})
    assert not validator.is_valid(tomllib.loads(text))


def test_every_property_of_the_schema_is_described() -> None:
    made = schema.schema()
    assert all(part.get("description") for part in made["properties"].values())
    for kind in schema.tables().values():
        part = made["$defs"][kind.__name__]
        assert all(described.get("description") for described in part["properties"].values())
        assert part["additionalProperties"] is False
    assert "null" not in str(made)
