"""compose.yaml and the Dockerfile, as far as they can be judged without a container engine."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from batchmill.cli.main import cli
from batchmill.config.settings import Settings, load

ROOT = Path(__file__).parents[1]
SCHEMA = Path(__file__).parent / "data" / "compose-spec.json"
OURS = ("worker", "simulator", "gateway")

Compose = dict[str, Any]


@pytest.fixture(scope="module")
def compose() -> Compose:
    read: Compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return read


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions; none of ours is continued on another line."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    parts = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, rest in parts]


def copied() -> list[str]:
    """What the Dockerfile takes from the checkout."""
    sources = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and not rest.startswith("--from")]
    return [source for group in sources for source in group]


def test_compose_keeps_to_the_specification(compose: Compose) -> None:
    schema = json.loads(SCHEMA.read_bytes())
    validator = jsonschema.Draft201909Validator(schema)
    assert [error.message for error in validator.iter_errors(compose)] == []
    # and the schema does refuse what is wrong
    worker = {**compose["services"]["worker"], "stop_grace": "45s"}
    assert not validator.is_valid({**compose, "services": {**compose["services"], "worker": worker}})


def test_redis_neither_forgets_nor_evicts(compose: Compose) -> None:
    redis = compose["services"]["redis"]
    words = shlex.split(redis["command"])
    assert words[0] == "redis-server"
    settings = dict(zip(words[1::2], words[2::2], strict=True))
    assert settings == {"--appendonly": "yes", "--maxmemory-policy": "noeviction"}
    [volume] = redis["volumes"]
    name, target = volume.split(":")
    assert target == "/data"
    assert name in compose["volumes"]
    assert "ports" not in redis  # it has no password
    assert redis["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]


def test_workers_scale(compose: Compose) -> None:
    worker = compose["services"]["worker"]
    assert not {"ports", "container_name", "hostname"} & worker.keys()
    assert worker["depends_on"] == {"redis": {"condition": "service_healthy"}}


def test_a_worker_has_the_time_to_drain(compose: Compose) -> None:
    period = re.fullmatch(r"(\d+)s", compose["services"]["worker"]["stop_grace_period"])
    assert period
    assert int(period[1]) >= Settings().worker.grace + 10


@pytest.mark.parametrize(
    ("host", "base_url", "key"),
    [
        ({}, Settings().upstream.base_url, None),
        ({"OPENROUTER_API_KEY": "k"}, Settings().upstream.base_url, "k"),
        ({"BATCHMILL_API_KEY_FILE": "./openrouter.key"}, Settings().upstream.base_url, "from-the-secret"),
        (
            {"OPENROUTER_API_KEY": "rehearsal", "BATCHMILL_BASE_URL": "http://simulator:8000/api/v1"},
            "http://simulator:8000/api/v1",
            "rehearsal",
        ),
    ],
    ids=["no key", "key", "key file", "rehearsal"],
)
def test_the_settings_that_a_worker_gets(
    compose: Compose, tmp_path: Path, host: dict[str, str], base_url: str, key: str | None
) -> None:
    secret = tmp_path / "api_key"
    secret.write_text("from-the-secret\n")
    worker = compose["services"]["worker"]
    assert worker["secrets"] == ["api_key"]
    environ = {name: interpolated(value, host) for name, value in worker["environment"].items()}
    environ = {name: value.replace("/run/secrets/api_key", str(secret)) for name, value in environ.items()}
    settings = load(environ=environ)
    assert settings.redis_url == "redis://redis:6379/0"
    assert settings.upstream.base_url == base_url
    assert (settings.api_key.reveal() if settings.api_key else None) == key
    mounted = interpolated(compose["secrets"]["api_key"]["file"], host)
    assert mounted == host.get("BATCHMILL_API_KEY_FILE", "/dev/null")


def interpolated(value: str, environ: dict[str, str]) -> str:
    """As Compose does it, for the two forms that we use: ${NAME:-else} and ${NAME:+then}."""

    def replace(found: re.Match[str]) -> str:
        given = environ.get(found["name"], "")
        return (given or found["word"]) if found["mark"] == "-" else (given and found["word"])

    return re.sub(r"\$\{(?P<name>\w+):(?P<mark>[-+])(?P<word>[^}]*)\}", replace, value)


def test_the_simulator_only_runs_in_a_rehearsal(compose: Compose) -> None:
    simulator = compose["services"]["simulator"]
    assert simulator["profiles"] == ["simulate"]
    assert "ports" not in simulator
    words = shlex.split(simulator["command"])
    assert words[words.index("--port") + 1] == "8000"
    assert "http://simulator:8000/api/v1" in (ROOT / "compose.yaml").read_text(encoding="utf-8")


def test_our_services_share_one_image_and_run_our_command(compose: Compose) -> None:
    services = [compose["services"][name] for name in OURS]
    assert {(service["image"], service["build"]) for service in services} == {("batchmill", ".")}
    assert [shlex.split(service["command"])[:2] for service in services] == [
        ["batchmill", "worker"],
        ["batchmill", "simulate"],
        ["batchmill", "serve"],
    ]


@pytest.mark.parametrize("service", OURS)
def test_the_commands_exist_and_take_their_options(compose: Compose, service: str) -> None:
    _, name, *options = shlex.split(compose["services"][service]["command"])
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    command.make_context(name, options, parent=context)  # raises for an option that is not known


def test_the_image_does_not_run_as_root() -> None:
    last_stage: list[tuple[str, str]] = []
    for name, rest in instructions():
        last_stage = [] if name == "FROM" else [*last_stage, (name, rest)]
    [user] = [rest for name, rest in last_stage if name == "USER"]
    assert user not in ("root", "0")
    assert any(name == "RUN" and rest.startswith("useradd") and rest.endswith(f" {user}") for name, rest in last_stage)


def test_the_image_holds_every_package_and_nothing_is_missing() -> None:
    sources = copied()
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert {package.split(".")[1] for package in packages} <= set(sources)


def test_only_what_is_copied_reaches_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied())


def test_no_secret_is_written_into_the_files() -> None:
    for name in ("Dockerfile", "compose.yaml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"sk-[a-z0-9]", text)
    assert not any(name in ("ARG", "ADD") or "API_KEY" in rest for name, rest in instructions())
