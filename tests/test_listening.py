"""How a gateway listens."""

import socket

from batchmill.service.serving import _listening


def test_the_body_of_an_answer_does_not_wait_for_its_head() -> None:
    """Two small writes after another: with Nagle's algorithm the second is held until the client acknowledges."""
    with _listening("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
