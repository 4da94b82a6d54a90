"""What is installed is what is here: every package, every script and catalogue, and nothing else."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]
FOLDERS = [ROOT.joinpath(*name.split(".")[1:]) for name in PACKAGES]
DATA_FOLDERS = [ROOT / "service" / "dashboard" / name for name in ("templates", "static")]
NOT_SHIPPED = {"tests", "bench"}


def shipped_files() -> set[str]:
    """Return the files of all packages as they must be named in the wheel."""
    return {
        f"batchmill/{path.relative_to(ROOT)}"
        for folder in [*FOLDERS, *DATA_FOLDERS]
        for path in folder.iterdir()
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that the build leaves nothing here."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(copy)]
    done = subprocess.run([*command, "--wheel-dir", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_list_of_packages_is_that_of_the_disk() -> None:
    found = {
        ".".join(("batchmill", *init.parent.relative_to(ROOT).parts))
        for init in ROOT.rglob("__init__.py")
        if not any(part.startswith(".") or part in {*NOT_SHIPPED, "build"} for part in init.relative_to(ROOT).parts)
    }
    assert found == set(PACKAGES)
    assert len(PACKAGES) == len(found)


def test_every_room_says_that_it_is_typed() -> None:
    """The root is a namespace package, so each room needs a marker of its own (PEP 561)."""
    rooms = [folder for folder in FOLDERS if folder.parent == ROOT]
    assert [folder.name for folder in rooms if not (folder / "py.typed").is_file()] == []


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (about,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        top_level = archive.read(f"{about}/top_level.txt").decode().split()
    assert {name for name in names if not name.startswith(f"{about}/")} == shipped_files()
    assert top_level == ["batchmill"]
    assert {Path(name).suffix for name in names} >= {".lua", ".json", ".typed", ".py"}


def test_what_is_installed_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    ((name, value),) = PROJECT["project"]["scripts"].items()
    entry = EntryPoint(name, value, "console_scripts")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import batchmill.store.staging, batchmill.openrouter.simulator\n"
        f"from {entry.module} import {entry.attr}\n"
        "print(batchmill.store.staging.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
