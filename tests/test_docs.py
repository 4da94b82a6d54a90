"""What the documentation prints is run: commands, the Python example, the settings."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from batchmill.config.settings import Settings, load

from .cli_helpers import SimulatorProcess, simulator_process

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
_BLOCK = re.compile(r"(<!-- not run: [^>]+-->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SKELETON = re.compile(r"batch_[0-9a-f]+|[\d,.]+")


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the page's name and text of every block of that language that is not excused from running."""
    found = [(page.name, match) for page in PAGES for match in _BLOCK.finditer(page.read_text("utf-8"))]
    return [(name, match[3]) for name, match in found if match[2] == language and not match[1]]


@pytest.fixture
def desk(tmp_path: Path) -> dict[str, str]:
    """A newcomer's environment, and the examples in the folder."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("*.results.jsonl"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("BATCHMILL", "OPENROUTER"))}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    environ["BATCHMILL_DATA_DIR"] = str(tmp_path / "data")
    return environ


def excused(language: str) -> list[tuple[str, str]]:
    """Return the page's name and text of every block of that language that is excused from running."""
    found = [(page.name, match) for page in PAGES for match in _BLOCK.finditer(page.read_text("utf-8"))]
    return [(name, match[3]) for name, match in found if match[2] == language and match[1]]


def skeleton(text: str) -> set[str]:
    """Return the words of each line without its numbers."""
    return {" ".join(_SKELETON.sub("#", line).split()) for line in text.splitlines()}


@pytest.mark.parametrize(("page", "block"), blocks("console"), ids=lambda value: value[:24])
def test_printed_commands_run_and_print_that(page: str, block: str, desk: dict[str, str], tmp_path: Path) -> None:
    """All commands of a block run in one shell; what is printed below them must come, numbers aside."""
    lines = block.splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    assert commands, f"{page} has a console block without a command"
    script = "set -eo pipefail\n" + "\n".join(commands)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=desk, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = skeleton("\n".join(line for line in lines if not line.startswith("$ ")))
    told = {line for line in printed if "in the air" not in line and '"content"' not in line}
    assert told <= skeleton(done.stdout + done.stderr)


@pytest.fixture
def simulator() -> Iterator[SimulatorProcess]:
    """An upstream for the Python example."""
    with simulator_process("--latency-ms", "1") as process:
        yield process


@pytest.mark.parametrize(("page", "block"), blocks("python"), ids=lambda value: value[:24])
def test_the_python_example_runs(
    page: str, block: str, desk: dict[str, str], tmp_path: Path, simulator: SimulatorProcess
) -> None:
    environ = {**desk, "BATCHMILL_BASE_URL": simulator.base_url, "OPENROUTER_API_KEY": "any"}
    worker = subprocess.Popen(
        [sys.executable, "-m", "batchmill.cli", "worker"], cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        worker.terminate()
        worker.wait()
    assert done.returncode == 0, done.stderr
    assert "100 succeeded" in done.stdout


@pytest.mark.parametrize(("page", "block"), blocks("toml"), ids=lambda value: value[:24])
def test_printed_settings_are_the_defaults(page: str, block: str, tmp_path: Path) -> None:
    file = tmp_path / "batchmill.toml"
    file.write_text(block, encoding="utf-8")
    assert msgspec.structs.replace(load(file, environ={}), config_file=None) == load(environ={})
    sections = {name: table for name, table in tomllib.loads(block).items() if isinstance(table, dict)}
    defaults = Settings()
    for name, table in sections.items():
        assert set(table) == set(msgspec.structs.asdict(getattr(defaults, name))), f"[{name}] is not complete"


@pytest.mark.parametrize(("page", "block"), excused("toml"), ids=lambda value: value[:24])
def test_a_printed_policy_is_one_and_the_whole_one_shows_every_key(page: str, block: str, tmp_path: Path) -> None:
    file = tmp_path / "batchmill.toml"
    file.write_text(block, encoding="utf-8")
    policy = load(file, environ={}).policy
    assert policy is not None
    if page != "configuration.md":
        return
    written = tomllib.loads(block)
    for name in policy.__struct_fields__:
        (table,) = written[name] if isinstance(written[name], list) else [written[name]]
        kind = getattr(policy, name)
        rule = kind[0] if isinstance(kind, tuple) else kind
        assert set(table) == set(rule.__struct_fields__), f"{page}: {name} is not complete"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(
        r"`((?:config|openrouter|store|producer|workers|cli|tests|bench|docs)/[\w./]+)`", page.read_text("utf-8")
    ):
        assert (ROOT / name).exists(), f"{page.name} names {name}"
