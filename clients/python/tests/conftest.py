"""The real server: the one at PATERNOSTER_ADDRESS, else one that is started from the repository."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paternoster import Client, Retry

BINARY = Path(__file__).resolve().parents[3] / "target/release/paternoster"


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Where a server of the demo models listens."""
    if given := os.environ.get("PATERNOSTER_ADDRESS"):
        yield given
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [BINARY, "serve", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    found = f"127.0.0.1:{port}"
    try:
        wait_ready(found)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_ready(address: str) -> None:
    """Asks for health until it is good; each question waits for the connection."""
    end = time.monotonic() + 60
    with Client(address, retry=Retry(attempts=50, longest=0.2)) as client:
        while not client.health():
            assert time.monotonic() < end, "not ready"
