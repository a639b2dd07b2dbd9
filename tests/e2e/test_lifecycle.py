"""Start, drain and stop of the real process."""

import signal
import socket
import subprocess

import grpc
import pytest
from conftest import BINARY, Server
from paternoster.v1 import generate_pb2


def long_request() -> generate_pb2.GenerateRequest:
    request = generate_pb2.GenerateRequest(prompt="Tell me about paged attention.")
    request.stopping.max_tokens = 512
    request.stopping.ignore_eos = True
    return request


def test_sigterm_drains_and_exits_beside_a_silent_connection():
    server = Server()
    with socket.create_connection(("127.0.0.1", server.port)):
        events = server.inference.Generate(long_request(), timeout=120)
        next(events)  # started
        server.process.send_signal(signal.SIGTERM)
        kinds = [event.WhichOneof("event") for event in events]
        assert kinds[-1] == "finished"
        assert server.process.wait(timeout=30) == 0


def test_a_dropped_stream_frees_its_blocks():
    server = Server()
    for _ in range(8):
        events = server.inference.Generate(long_request(), timeout=120)
        next(events)
        events.cancel()
    server.inference.Generate(generate_pb2.GenerateRequest(prompt="What is 1 + 1?"), timeout=60)
    assert server.stop() == 0


def test_a_deadline_ends_a_stream():
    server = Server()
    request = long_request()
    request.deadline_ms = 30
    request.stopping.max_tokens = 1024
    with pytest.raises(grpc.RpcError) as failure:
        for _ in range(50):  # each run is a new chance to need longer than the deadline
            list(server.inference.Generate(request, timeout=60))
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.stop() == 0


@pytest.mark.parametrize(
    "flags", [["--port", "99999"], ["--model-id", "/nonexistent"], ["--no-such-flag"]]
)
def test_a_bad_start_says_why_in_one_line(flags):
    done = subprocess.run([BINARY, "serve", *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, 101)
    assert done.stderr.strip()
    assert "panicked" not in done.stderr
