"""A server under load, and a real Prometheus that scrapes it and evaluates the rules."""

import json
import re
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

from dockerfile import BINARY, ROOT

RULES = ROOT / "deploy/prometheus/rules.yaml"
CONFIG = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ['{rules}']
scrape_configs:
  - job_name: paternoster
    static_configs: [{{targets: ['127.0.0.1:{port}']}}]
"""
# Small enough that a short load meets a full queue, preempts and evicts.
TIGHT = ["--max-batch-size", "8", "--max-waiting-requests", "8", "--kv-cache-size", "1MiB"]
# With a key, so that there is a tenant.
TIGHT += ["--api-key", "live"]
KEY = json.dumps({"authorization": "Bearer live"})
RATE_INTERVAL = "5s"
PROMPT = "A paternoster is a lift that never stops: people step on and off while it moves, and so do"
PROMPT += " requests here. Tell me {{.RequestNumber}} things about it."
GENERATE = {"prompt": PROMPT, "stopping": {"max_tokens": 96, "min_tokens": 32}}
SHORT = {"prompt": "What is 7 + 5?", "stopping": {"max_tokens": 16}}
EMBED = {"inputs": ["A lift that never stops, number {{.RequestNumber}}.", "People step on and off."]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str) -> None:
    """curl does the waiting: it retries refused connections and 503 answers."""
    command = ["curl", "-fsS", "--retry", "300", "--retry-delay", "0", "--retry-max-time", "60"]
    subprocess.run([*command, "--retry-all-errors", "-o", "/dev/null", url], check=True)


class Live:
    """Both processes, from construction to `stop`."""

    def __init__(self, scratch: Path):
        self.port, self.prometheus_port = free_port(), free_port()
        self.processes = []
        self._start(scratch, "server", str(BINARY), "serve", "--port", str(self.port), *TIGHT)
        wait_for(f"http://127.0.0.1:{self.port}/ready")
        config = scratch / "prometheus.yaml"
        config.write_text(CONFIG.format(rules=RULES, port=self.port))
        self._start(
            scratch,
            "prometheus",
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={scratch / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.prometheus_port}",
        )
        wait_for(f"http://127.0.0.1:{self.prometheus_port}/-/ready")
        self.began, self.ended = time.time(), None

    def _start(self, scratch: Path, name: str, *command: str) -> None:
        log = (scratch / f"{name}.log").open("w")
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def ghz(self, method: str, body: dict, *flags: str) -> subprocess.Popen:
        command = ["ghz", "--insecure", "--call", f"paternoster.v1.Inference.{method}"]
        command += ["-m", KEY, "-d", json.dumps(body), *flags, f"127.0.0.1:{self.port}"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def load(self, seconds: int) -> None:
        """Streams, embeddings, callers that give up and a burst that meets a full queue."""
        limit = ["-z", f"{seconds}s", "--duration-stop", "close"]
        running = [
            self.ghz("Generate", GENERATE, "-c", "6", "--connections", "2", *limit),
            self.ghz("Generate", SHORT, "--rps", "20", "-c", "4", *limit),
            self.ghz("Embed", EMBED, "-c", "2", *limit),
            self.ghz("Generate", GENERATE, "--timeout", "30ms", "--rps", "4", "-c", "2", *limit),
        ]
        time.sleep(seconds / 2)
        running.append(self.ghz("Generate", GENERATE, "-c", "40", "-n", "80"))
        for process in running:
            process.wait(timeout=seconds + 60)

    def query(self, expression: str) -> list[dict]:
        """An expression over the whole time so far, once a second."""
        end = self.ended or time.time()
        return self._get("query_range", query=expression, start=self.began, end=end, step=1)

    def _get(self, path: str, **arguments) -> list[dict]:
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}"
        url += "?" + urllib.parse.urlencode(arguments)
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{arguments['query']}: {error.read().decode()}") from error

    def stop(self) -> list[int]:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        return [process.wait(timeout=60) for process in self.processes]


def filled_in(expression: str) -> str:
    """A panel's expression with its variables as a viewer would have them, everything chosen."""
    for name, value in {"job": "paternoster", "instance": ".*", "model": ".*"}.items():
        expression = expression.replace(f"${name}", value)
    text = expression.replace("[$__rate_interval]", f"[{RATE_INTERVAL}]")
    assert not re.search(r"\$", text), f"a variable nobody sets: {text}"
    return text
