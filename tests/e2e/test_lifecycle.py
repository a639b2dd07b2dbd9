"""Start, drain and stop of the real process."""

import shutil
import signal
import socket
import subprocess
from pathlib import Path

import grpc
import pytest
from conftest import BINARY, ROOT, Server, free_port
from paternoster.v1 import generate_pb2

DEMO = ROOT / "models/demo/decoder/model"


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


def active_blocks(server: Server, **wait: float) -> None:
    server.wait_metric("paternoster_kv_blocks", 'state="active"', **wait)


def test_a_dropped_stream_frees_its_blocks():
    server = Server()
    for _ in range(8):
        events = server.inference.Generate(long_request(), timeout=120)
        next(events)
        events.cancel()
    active_blocks(server, value=0)
    assert server.metric("paternoster_client_cancellations_total") > 0
    question = generate_pb2.GenerateRequest(prompt="What is 7 + 5?")
    events = list(server.inference.Generate(question, timeout=60))
    assert "12" in "".join(event.delta.text for event in events)
    active_blocks(server, value=0)
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


def start(*flags: str) -> tuple[int, list[str]]:
    """A server that is not to come up: its exit code, and what it prints."""
    done = subprocess.run([BINARY, "serve", *flags], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("flags", [["--port", "99999"], ["--no-such-flag"]])
def test_a_wrong_flag_is_named(flags):
    code, lines = start(*flags)
    assert code == 78
    assert lines[0].startswith("error: ")
    assert flags[0] in lines[0]
    assert lines[-1] == "For more information, try '--help'."


def broken_model(folder: Path, weights: bytes) -> str:
    for name in ["config.json", "tokenizer.json"]:
        shutil.copy(DEMO / name, folder)
    (folder / "model.safetensors").write_bytes(weights)
    return str(folder)


def bad_starts(folder: Path, taken: int) -> dict[str, tuple[int, list[str], str]]:
    """Exit code, flags, and what the message names; `docs/operating.md` has the same table."""
    return {
        "no folder": (78, ["--model-id", "/nonexistent"], "/nonexistent"),
        "empty folder": (78, ["--model-id", str(folder.parent)], "config.json"),
        "cut weights": (65, ["--model-id", broken_model(folder, b"cut")], "model.safetensors"),
        "little memory": (71, ["--model-id", str(DEMO), "--kv-cache-size", "1KiB"], "1024 bytes"),
        "taken port": (69, ["--port", str(taken)], f"--port {taken}"),
    }


def test_a_bad_start_says_why_in_its_last_line(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        starts = bad_starts(folder, other.getsockname()[1])
        for what, (expected, flags, named) in starts.items():
            port = [] if "--port" in flags else ["--port", "0"]
            code, lines = start(*flags, *port)
            said = "\n".join(lines)
            assert code == expected, f"{what}: {code}\n{said}"
            assert lines[-1].startswith("paternoster: "), f"{what}: {said}"
            assert named in lines[-1], f"{what}: {said}"
            assert sum(line.startswith("paternoster: ") for line in lines) == 1, f"{what}: {said}"
            assert "panic" not in said, f"{what}: {said}"


def test_the_health_probe_answers_by_its_exit_code(demo):
    def ask(*flags: str) -> int:
        return subprocess.run([BINARY, "health", *flags], capture_output=True, timeout=60).returncode

    assert ask("--addr", demo.address) == 0
    assert ask("--addr", demo.address, "--service", "model/demo") == 0
    assert ask("--addr", demo.address, "--service", "liveness") == 0
    assert ask("--addr", demo.address, "--service", "no such service") == 3
    assert ask("--addr", "not an address") == 1
    assert ask("--addr", f"127.0.0.1:{free_port()}") == 2
