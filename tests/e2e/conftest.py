"""A real server process per test module, on a free port, watched until it is ready."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from paternoster.v1 import inference_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/paternoster"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One `paternoster serve` process."""

    def __init__(
        self,
        *flags: str,
        port: int | None = None,
        env: dict[str, str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ):
        self.port = port or free_port()
        # Where pages are plain, also of a server that speaks TLS.
        self.pages_port = self.port
        if credentials:
            self.pages_port = free_port()
            flags = (*flags, "--health-port", str(self.pages_port))
        self.address = f"127.0.0.1:{self.port}"
        self.log = ROOT / f".cache/e2e/server-{self.port}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [BINARY, "serve", "--port", str(self.port), *flags],
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("w"),
            env=env,
        )
        self.wait_ready()
        self.channel = self.connect(credentials)
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)

    def connect(self, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
        """A connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        if credentials:
            return grpc.secure_channel(f"localhost:{self.port}", credentials, options)
        return grpc.insecure_channel(self.address, options)

    def wait_ready(self) -> None:
        """curl does the waiting: it retries refused connections and 503 answers."""
        command = ["curl", "-fsS", "--retry", "300", "--retry-delay", "0", "--retry-max-time", "60"]
        command += ["--retry-all-errors", "-o", "/dev/null", f"http://127.0.0.1:{self.pages_port}/ready"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"not ready: {done.stderr}\n{self.log.read_text()}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.pages_port}{path}", timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name: str, *labels: str) -> float:
        """The sum of all series of one metric that have these labels, as `state="active"`."""
        lines = self.get("/metrics").splitlines()
        series = [line.rsplit(" ", 1) for line in lines if line and line[0] != "#"]
        values = [
            float(value)
            for key, value in series
            if key.split("{")[0] == name and all(label in key for label in labels)
        ]
        assert values, f"no series {name} {labels}"
        return sum(values)

    def wait_metric(self, name: str, *labels: str, value: float, seconds: float = 30) -> None:
        """Looks again and again until a metric has a value."""
        deadline = time.monotonic() + seconds
        while (now := self.metric(name, *labels)) != value:
            assert time.monotonic() < deadline, f"{name} {labels} is {now}, not {value}"

    def stop(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=90)


@pytest.fixture(scope="module")
def demo():
    """The built-in demo models, no flags but the port."""
    server = Server()
    yield server
    assert server.stop() == 0, server.log.read_text()


@pytest.fixture(scope="session")
def minilm_folder() -> str:
    return os.environ["PATERNOSTER_MINILM"]


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_json(*command: str, **options):
    return json.loads(run(*command, **options))
