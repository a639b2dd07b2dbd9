"""Connections that break, and servers that leave."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bridge import KINDS, connect
from flaky import DELTA, FINISHED, STARTED, WAIT, Flaky, serving

from paternoster import IncompleteGenerationError, Retry

GOOD = [STARTED, DELTA, FINISHED]
QUICK = Retry(first=0.001)
Accept = Callable[[socket.socket, int], None]
ASKS: dict[str, Callable[[Any], str]] = {
    "whole": lambda client: str(client.generate("x").text),
    "streamed": lambda client: str(client.generate_stream("x").result().text),
}


@contextlib.contextmanager
def listening(accept: Accept) -> Iterator[str]:
    """A port whose connections are handed to `accept`, each on a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))

    def loop() -> None:
        number = 0
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                threading.Thread(target=accept, args=(near, number), daemon=True).start()
                number += 1

    threading.Thread(target=loop, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        # Closing alone would not wake who accepts.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def join(near: socket.socket, address: str, stop: socket.socket | None = None) -> None:
    """Carries a connection to a server until one of them ends, or `stop` can be read."""
    host, port = address.rsplit(":", 1)
    with near, socket.create_connection((host, int(port))) as far, contextlib.suppress(OSError):
        other = {near: far, far: near}
        while True:
            ready, _, _ = select.select([*other, *([stop] if stop else [])], [], [])
            if stop in ready:
                return
            for source in ready:
                data = source.recv(1 << 16)
                if not data:
                    return
                other[source].sendall(data)


class Relay:
    """A way to a server that can be cut; it then lets new connections through."""

    def __init__(self, address: str, reset: bool) -> None:
        self._address = address
        self._reset = reset
        self._stops: list[socket.socket] = []

    def accept(self, near: socket.socket, _: int) -> None:
        if self._reset:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stop, stopped = socket.socketpair()
        self._stops.append(stop)
        with stop, stopped:
            join(near, self._address, stopped)

    def cut(self) -> None:
        for stop in self._stops:
            with contextlib.suppress(OSError):
                stop.send(b"x")
        self._stops.clear()


@contextlib.contextmanager
def relayed(script: list[list[Any]], reset: bool) -> Iterator[tuple[Flaky, Relay, str]]:
    with serving(script) as (flaky, server):
        relay = Relay(server, reset)
        with listening(relay.accept) as address:
            yield flaky, relay, address


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@pytest.mark.parametrize("reset", [False, True])
def test_before_the_first_token_it_is_tried_again(
    kind: str, ask: Callable[[Any], str], reset: bool
) -> None:
    script: list[list[Any]] = [[STARTED, WAIT], GOOD]
    with (
        relayed(script, reset) as (flaky, relay, address),
        connect(kind, address, retry=QUICK) as client,
    ):

        def cut() -> None:
            flaky.arrived.wait(60)
            relay.cut()

        threading.Thread(target=cut, daemon=True).start()
        assert ask(client) == "ab"
        assert flaky.attempts == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reset", [False, True])
def test_after_it_the_answer_is_incomplete(kind: str, reset: bool) -> None:
    script: list[list[Any]] = [[STARTED, DELTA, WAIT], GOOD]
    with (
        relayed(script, reset) as (flaky, relay, address),
        connect(kind, address, retry=QUICK) as client,
    ):
        stream = client.generate_stream("x")
        assert next(stream).text == "ab"
        relay.cut()
        with pytest.raises(IncompleteGenerationError) as caught:
            stream.result()
        assert caught.value.text == {0: "ab"}
        assert flaky.attempts == 1


def leave(near: socket.socket) -> None:
    """Sends SETTINGS, and once a call has come a GOAWAY that says none was looked at."""
    near.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    with contextlib.suppress(OSError), near.makefile("rb") as read:
        read.read(24)
        kind = 0
        while kind != 1:
            head = read.read(9)
            read.read(int.from_bytes(head[:3], "big"))
            kind = head[3]
        near.sendall(bytes([0, 0, 8, 7, *[0] * 13]))
        while read.read(1):
            pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_server_that_leaves(kind: str, ask: Callable[[Any], str]) -> None:
    with serving([GOOD]) as (flaky, server):

        def accept(near: socket.socket, number: int) -> None:
            if number == 0:
                leave(near)
            else:
                join(near, server)

        with listening(accept) as address, connect(kind, address, retry=QUICK) as client:
            assert ask(client) == "ab"
            assert flaky.attempts == 1
