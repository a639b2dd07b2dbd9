"""The unit is understood by systemd whole, and lets the service do little."""

import os
import re
import signal
import socket
import subprocess

from dockerfile import BINARY, ROOT
from live import free_port, wait_for

UNIT = ROOT / "deploy/systemd/paternoster.service"
# Ten times the exposure that `systemd-analyze security` may find; 100 is the worst.
EXPOSURE_MAX = "15"


def analyze(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(["systemd-analyze", *command], capture_output=True, text=True)


def here(tmp_path, old: str = "", new: str = "") -> str:
    """The unit, with a program that this machine has in place of the one it will have."""
    unit = tmp_path / "paternoster.service"
    text = UNIT.read_text().replace("ExecStart=/usr/local/bin/paternoster", "ExecStart=/bin/true")
    unit.write_text(text.replace(old, new) if old else text)
    return str(unit)


def verify(unit: str) -> subprocess.CompletedProcess:
    return analyze("verify", "--man=no", "--recursive-errors=no", unit)


def test_the_unit_is_understood(tmp_path):
    done = verify(here(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_misspelt_key_is_noticed(tmp_path):
    done = verify(here(tmp_path, "ProtectHome=", "ProtectHme="))
    assert "ProtectHme" in done.stderr


def test_the_service_may_do_little(tmp_path):
    limit = f"--threshold={EXPOSURE_MAX}"
    done = analyze("security", "--offline=true", "--no-pager", limit, here(tmp_path))
    assert done.returncode == 0, done.stdout
    weak = here(tmp_path, "RestrictNamespaces=yes", "RestrictNamespaces=no")
    assert analyze("security", "--offline=true", "--no-pager", limit, weak).returncode != 0


def test_the_unit_outlives_a_drain():
    seconds = int(re.search(r"^TimeoutStopSec=(\d+)s$", UNIT.read_text(), re.M).group(1))
    drain = re.search(r"--drain-timeout <TIME>.*?default: (\d+)s", help_text(), re.S)
    assert seconds > int(drain.group(1))


def test_failures_that_stay_are_not_restarted():
    """The exit codes of docs/operating.md that another start does not heal."""
    codes = re.search(r"^RestartPreventExitStatus=(.*)$", UNIT.read_text(), re.M).group(1).split()
    page = (ROOT / "docs/operating.md").read_text()
    for code in codes:
        assert f"\n| {code} | " in page, f"no exit code {code}"


def help_text() -> str:
    return subprocess.run([BINARY, "serve", "--help"], capture_output=True, text=True).stdout


def allowed(name: str) -> set[str]:
    """The system calls of a filter set, those of the sets in it included."""
    lines = analyze("syscall-filter", "--no-pager", name).stdout.splitlines()[1:]
    words = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    inner = [allowed(word) if word.startswith("@") else {word} for word in words]
    return set().union(*inner)


def receive(manager: socket.socket) -> bytes:
    try:
        return manager.recv(256)
    except BlockingIOError:
        return b""


def test_the_unit_waits_to_hear_from_the_server():
    text = UNIT.read_text()
    for line in ("Type=notify", "WatchdogSec=30s", "TimeoutStartSec=infinity"):
        assert f"\n{line}\n" in text
    assert "NotifyAccess" not in text, "the main process alone is heard, which is the default"


def test_the_filter_allows_what_the_server_calls(tmp_path):
    """Every system call of a start, a health check and a drain, as strace saw them."""
    take, leave = re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.M)
    sets = set().union(*(allowed(name) for name in take.split()))
    sets -= set().union(*(allowed(name) for name in leave.removeprefix("~").split()))
    assert 200 < len(sets) and "reboot" not in sets
    port, log = str(free_port()), tmp_path / "calls"
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    # Nobody reads while the server runs, and a socket holds ten messages: one sign of life in ten seconds.
    env = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000000"}
    words = ["strace", "-f", "-qq", "-o", log, BINARY, "serve", "--port", port]
    server = subprocess.Popen(words, env=env)
    wait_for(f"http://127.0.0.1:{port}/ready")
    subprocess.run([BINARY, "health", "--port", port], check=True)
    os.kill(int(log.read_text().split(None, 1)[0]), signal.SIGTERM)
    assert server.wait(timeout=30) == 0
    manager.setblocking(False)
    heard = list(iter(lambda: receive(manager), b""))
    assert any(message.startswith(b"READY=1\n") for message in heard), heard
    # Signs of life go on while it drains.
    news = [message for message in heard if message != b"WATCHDOG=1"]
    assert len(news) < len(heard) and news[-1].startswith(b"STOPPING=1\n"), heard
    called = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.M))
    assert {"execve", "accept4", "futex"} <= called
    assert called <= sets
