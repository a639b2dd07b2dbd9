"""Load tools against the real process: ghz with the committed scenarios, and `paternoster bench`."""

import json
import os

import pytest
from conftest import BINARY, ROOT, run, run_json

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
    after = demo.metric("paternoster_requests_total", 'method="Generate"', 'code="OK"')
    assert theirs["count"] == ours["requests"]["completed"] == count
    assert theirs["statusCodeDistribution"] == {"OK": count}
    assert ours["errors"] == []
    assert after - before == 2 * count
    median = {point["percentage"]: point["latency"] for point in theirs["latencyDistribution"]}[50] / 1e6
    print(
        f"\n{count} requests, {workers} workers, load average {os.getloadavg()[0]:.1f}:"
        f" ghz {theirs['rps']:.0f} requests/s, median {median:.2f} ms;"
        f" bench {ours['rates']['requests']:.0f} requests/s,"
        f" median {ours['latencies']['e2e']['p50']:.2f} ms"
    )


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
