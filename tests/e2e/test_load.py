"""Load tools against the real process: ghz with the committed scenarios, and `paternoster bench`."""

import json
import os
import subprocess

import pytest
from conftest import BINARY, ROOT, free_port, run, run_json

SCENARIOS = ROOT / "benches/ghz"
EXPECTED = {
    "steady": {"OK": 300},
    "step": {"OK": 180},
    "cancel-storm": {"Canceled": 500},
    "embeddings": {"OK": 1000},
}


def ghz(server, *flags: str) -> dict:
    return run_json("ghz", *flags, "-O", "json", server.address)


def bench(server, *flags: str) -> dict:
    return run_json(str(BINARY), "bench", "--quiet", "--json", "-", "--addr", server.address, *flags)


def test_every_scenario_is_run():
    assert {path.stem for path in SCENARIOS.glob("*.json")} == set(EXPECTED)


@pytest.mark.parametrize("scenario", EXPECTED)
def test_a_ghz_scenario(demo, scenario):
    report = ghz(demo, "--config", str(SCENARIOS / f"{scenario}.json"))
    assert report["statusCodeDistribution"] == EXPECTED[scenario], report["errorDistribution"]
    demo.wait_metric("paternoster_kv_blocks", 'state="active"', value=0)


def test_bench_and_ghz_agree_on_the_same_load(demo):
    """The counts agree by assertion; the times are printed side by side."""
    prompt, tokens, workers, count = "What is 7 + 5?", 16, 16, 500
    data = {"prompt": prompt, "stopping": {"max_tokens": tokens}}
    before = demo.metric("paternoster_requests_total", 'method="Generate"', 'code="OK"')
    theirs = ghz(
        demo, "--insecure", "--call", "paternoster.v1.Inference.Generate", "-d", json.dumps(data),
        "-c", str(workers), "-n", str(count), "--connections", "1", "--timeout", "120s",
    )  # fmt: skip
    ours = bench(
        demo, "-c", str(workers), "-n", str(count), "--prompt", prompt, "--max-tokens", str(tokens)
    )
    # A call is counted when its last message is on the way.
    labels = ('method="Generate"', 'code="OK"')
    demo.wait_metric("paternoster_requests_total", *labels, value=before + 2 * count)
    assert theirs["count"] == ours["requests"]["completed"] == count
    assert theirs["statusCodeDistribution"] == {"OK": count}
    assert ours["errors"] == []
    median = {point["percentage"]: point["latency"] for point in theirs["latencyDistribution"]}[50] / 1e6
    print(
        f"\n{count} requests, {workers} workers, load average {os.getloadavg()[0]:.1f}:"
        f" ghz {theirs['rps']:.0f} requests/s, median {median:.2f} ms;"
        f" bench {ours['rates']['requests']:.0f} requests/s,"
        f" median {ours['latencies']['e2e']['p50']:.2f} ms"
    )


@pytest.fixture
def secure(tmp_path):
    """A server with TLS that wants to know its clients and has a key, and the flags it takes."""
    name = {file: str(tmp_path / file) for file in ["ca.pem", "ca.key", "own.pem", "own.key"]}
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    make += ["-days", "2"]
    run(*make, "-subj", "/CN=authority", "-keyout", name["ca.key"], "-out", name["ca.pem"])
    run(
        *make, "-subj", "/CN=lift.example", "-keyout", name["own.key"], "-out", name["own.pem"],
        "-CA", name["ca.pem"], "-CAkey", name["ca.key"], "-addext", "basicConstraints=critical,CA:FALSE",
        "-addext", "subjectAltName=DNS:lift.example",
    )  # fmt: skip
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            BINARY, "serve", "--port", address.split(":")[1], "--tls-cert", name["own.pem"],
            "--tls-key", name["own.key"], "--tls-client-ca", name["ca.pem"], "--api-key", "right",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    tls = ["--tls-ca", name["ca.pem"], "--tls-server-name", "lift.example"]
    tls += ["--tls-client-cert", name["own.pem"], "--tls-client-key", name["own.key"]]
    ask = [str(BINARY), "health", "--addr", address, *tls]
    for _ in range(300):
        if process.poll() is not None or subprocess.run(ask, capture_output=True).returncode == 0:
            break
    yield address, tls
    process.terminate()
    assert process.wait(timeout=90) == 0


def test_bench_over_tls_with_a_key(secure):
    address, tls = secure
    command = [str(BINARY), "bench", "--quiet", "--json", "-", "--addr", address, "-n", "20", "-c", "2"]

    def ask(*flags: str, key: str = "") -> tuple[int, list]:
        env = {**os.environ, "API_KEY": key} if key else None
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=600, env=env)
        report = json.loads(done.stdout) if done.stdout else {"requests": {"completed": 0}, "errors": []}
        return done.returncode, [report["requests"]["completed"], *(one["reason"] for one in report["errors"])]

    assert ask(*tls, key="right") == (0, [20])
    assert ask(*tls, "--api-key", "right", "--connections", "2") == (0, [20])
    assert ask(*tls) == (2, [0, "BAD_API_KEY"])
    assert ask(*tls[:4], key="right")[0] == 2
    assert ask(key="right")[0] == 2


def test_bench_writes_a_page_without_anything_beside_it(demo, tmp_path):
    page, numbers = tmp_path / "report.html", tmp_path / "report.json"
    table = run(
        str(BINARY), "bench", "--addr", demo.address, "--rate", "50", "--duration", "2s",
        "--arrivals", "gamma", "--prompt-tokens", "8..32", "--max-tokens", "8", "--embed", "20%",
        "--slo-ttft", "10s", "--html", str(page), "--json", str(numbers),
    )  # fmt: skip
    report = json.loads(numbers.read_text())
    assert report["requests"]["good"] == report["requests"]["completed"] > 0
    assert report["requests"]["embedded"] > 0
    assert report["requests"]["failed"] == 0
    assert sum(point["begun"] for point in report["series"]) == report["requests"]["begun"]
    assert "between tokens" in table
    html = page.read_text()
    assert html.count("<svg") == 5
    assert "<script" not in html
    assert "src=" not in html
    assert "href=" not in html


def test_simulate_answers_and_draws(tmp_path):
    plot = tmp_path / "plot.svg"
    flags = ("--quiet", "--warmup", "1s", "--duration", "4s", "--rate", "20", "--seed", "5")
    command = (str(BINARY), "simulate", *flags, "--json", "-")
    sweep = run_json(*command, "--vary", "replicas=1,2", "--plot", str(plot))
    assert [run["values"] for run in sweep["runs"]] == [["1"], ["2"]]
    for one in sweep["runs"]:
        requests = one["report"]["requests"]
        assert requests["begun"] == requests["completed"] > 50
    assert run_json(*command) == sweep["runs"][0]["report"], "a run is reproducible"
    assert plot.read_text().startswith("<svg")


def test_the_simulator_meets_published_results():
    points = run_json(str(BINARY), "simulate", "--published", "--quiet", "--json", "-")
    assert len(points) == 20
    errors = [one["simulated"] / one["point"]["published"] - 1 for one in points]
    for one, error in zip(points, errors, strict=True):
        print(f"{one['point']}: {one['simulated']:.0f} output tokens/s, {error:+.1%}")
    assert max(map(abs, errors)) <= 0.10
