"""How a gateway listens."""

import signal
import socket

from batchmill.service.serving import _listening

from .cli_helpers import Desk, desk, shared_simulator, simulator

__all__ = ["desk", "shared_simulator", "simulator"]


def test_the_body_of_an_answer_does_not_wait_for_its_head() -> None:
    """Two small writes after another: with Nagle's algorithm the second is held until the client acknowledges."""
    with _listening("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_who_finds_the_port_taken_is_told_what_helps(desk: Desk) -> None:
    with _listening("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        ended = desk.run("serve", "--simulate", "--port", port)
    assert ended.code == 2
    assert ended.err.endswith(
        f"can't listen at 127.0.0.1:{port}: address already in use, perhaps by another `batchmill serve`; "
        "choose another with --port\n"
    )


def test_who_stops_a_gateway_hears_what_it_waits_for(desk: Desk) -> None:
    started = desk.start("serve", "--simulate", "--port", "0")
    assert started.stderr is not None
    said: list[str] = []
    while "Ctrl-C stops" not in "".join(said):
        said.append(started.stderr.readline())
    assert any("no worker yet: what is handed over waits for `batchmill worker --simulate`" in line for line in said)
    started.send_signal(signal.SIGINT)
    _, rest = started.communicate(timeout=30)
    assert (started.returncode, rest) == (0, "stopping when requests have ended\n")
