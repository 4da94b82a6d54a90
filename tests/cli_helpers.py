"""The command line as a person uses it: in a folder of its own, with its own data, against a simulator's process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from batchmill.cli.main import main
from batchmill.store.embedded import EmbeddedServer

MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4.5")
_PATIENCE = 25.0  # seconds until a test gives up waiting


class Ended(msgspec.Struct, frozen=True):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something to become true; fail the test when it does not."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"gave up waiting until {what}")
        time.sleep(0.02)


class SimulatorProcess:
    """`batchmill simulate` as a process of its own, and what it counts."""

    def __init__(self, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "batchmill.cli", "simulate", "--port", "0", "--record", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        assert self._process.stdout is not None
        self.base_url = self._process.stdout.readline().strip()

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self._process.terminate()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._process.wait(_PATIENCE)

    def reset(self, *, latency_ms: str = "0", **faults: Any) -> None:
        """Begin anew, with this latency and these faults."""
        self._ask("reset", b"{}")
        self._ask("latency", json.dumps({"latency": latency_ms}).encode())
        self._ask("faults", json.dumps(faults).encode())

    @property
    def stats(self) -> dict[str, Any]:
        """What it counted since it was reset."""
        return dict(self._ask("stats"))

    @property
    def bodies(self) -> list[str]:
        """A digest of each call's body, in the order in which calls ended."""
        return [call["body"] for call in self._ask("calls")]

    def _ask(self, path: str, data: bytes | None = None) -> Any:
        url = self.base_url.removesuffix("/api/v1") + "/_sim/" + path
        with urllib.request.urlopen(url, data) as reply:
            return json.loads(reply.read())


class Desk:
    """A folder with a data folder in it, and commands given there."""

    def __init__(self, folder: Path, base_url: str, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("BATCHMILL", "OPENROUTER"))},
            "BATCHMILL_DATA_DIR": str(folder / "data"),
            "BATCHMILL_BASE_URL": base_url,
            "OPENROUTER_API_KEY": "sk-or-v1-test-secret",
        }
        self._capture = capture
        self._started: list[subprocess.Popen[str]] = []
        self._server = EmbeddedServer(folder / "data")
        self._server.join()  # so that not every command starts it anew

    @property
    def redis_url(self) -> str:
        """Where the commands given here keep everything."""
        return self._server.url

    def close(self) -> None:
        """End what was started here and is still there, workers of a killed command included."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self._server.leave()

    def run(self, *arguments: str) -> Ended:
        """Give a command in this process, which is quicker than in one of its own, and wait for its end."""
        self._capture.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name not in self.environ]:
                patch.delenv(name)
            for name, value in self.environ.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            with pytest.raises(SystemExit) as ended:
                main(arguments)
        structlog.reset_defaults()
        out, err = self._capture.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out, err)

    def start(self, *arguments: str, stdin: int | None = subprocess.DEVNULL) -> "subprocess.Popen[str]":
        """Give a command in a process of its own, for what only signals and pipes show."""
        process = subprocess.Popen(
            [sys.executable, "-m", "batchmill.cli", *arguments],
            cwd=self.folder,
            env=self.environ,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def write(self, name: str, count: int, *, marker: str = "") -> list[dict[str, Any]]:
        """Write an input file of lines that are all different; return them."""
        written = list(requests(count, marker))
        (self.folder / name).write_text("".join(json.dumps(line) + "\n" for line in written))
        return written

    def read(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of a file of JSON lines; the last one must be whole."""
        text = (self.folder / name).read_text()
        assert not text or text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]

    def ids(self, name: str) -> list[str]:
        """Return the custom_id of each line of a file."""
        return [line["custom_id"] for line in self.read(name)]

    def count(self, name: str) -> int:
        """Return how many whole lines a file has, 0 when there is none."""
        path = self.folder / name
        return path.read_bytes().count(b"\n") if path.exists() else 0


def requests(count: int, marker: str = "") -> Iterator[dict[str, Any]]:
    """Yield lines in OpenAI's batch form that are all different, over two models."""
    for number in range(count):
        messages = [{"role": "user", "content": f"What is special about the number {number}{marker}?"}]
        body = {"model": MODELS[number % len(MODELS)], "max_tokens": 20, "messages": messages}
        yield {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def ended(process: "subprocess.Popen[str]") -> Ended:
    """Wait for a started command's end."""
    out, err = process.communicate(timeout=_PATIENCE)
    return Ended(process.returncode, out, err)


def interrupt(process: "subprocess.Popen[str]", number: signal.Signals = signal.SIGINT) -> Ended:
    """Send a signal and wait for the end."""
    process.send_signal(number)
    return ended(process)


@contextlib.contextmanager
def simulator_process(*options: str) -> Iterator[SimulatorProcess]:
    """Have a simulator for as long as needed."""
    simulator = SimulatorProcess(*options)
    try:
        yield simulator
    finally:
        simulator.stop()


def values(lines: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """Return one field of every line."""
    return [line[name] for line in lines]


@pytest.fixture(scope="module")
def shared_simulator() -> Iterator[SimulatorProcess]:
    """A simulator that the tests of a module share."""
    with simulator_process("--latency-ms", "0") as simulator:
        yield simulator


@pytest.fixture
def simulator(shared_simulator: SimulatorProcess) -> SimulatorProcess:
    """A simulator that answers at once, never fails and has counted nothing."""
    shared_simulator.reset()
    return shared_simulator


@pytest.fixture
def desk(tmp_path: Path, shared_simulator: SimulatorProcess, capfd: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    """A folder of its own, whose commands talk to the simulator."""
    shared_simulator.reset()
    desk = Desk(tmp_path, shared_simulator.base_url, capfd)
    yield desk
    desk.close()
