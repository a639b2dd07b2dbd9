"""Tools nobody here wrote: grpcurl, ghz, curl, and the README's own commands."""

import json
import re

from conftest import ROOT, Server, run, run_json

INFERENCE = "paternoster.v1.Inference"


def test_reflection_lists_the_services(demo):
    listed = run("grpcurl", "-plaintext", demo.address, "list").split()
    for service in [INFERENCE, "paternoster.v1.Control", "grpc.health.v1.Health"]:
        assert service in listed


def test_grpcurl_streams_text(demo):
    request = json.dumps({"prompt": "What is a paternoster?", "stopping": {"max_tokens": 64}})
    out = run("grpcurl", "-plaintext", "-d", request, demo.address, f"{INFERENCE}/Generate")
    text = "".join(json.loads(f'"{piece}"') for piece in re.findall(r'"text": "((?:[^"\\]|\\.)*)"', out))
    assert "lift" in text, out
    assert '"finished"' in out


def ghz(server: Server, method: str, data: dict) -> dict:
    return run_json(
        "ghz", "--insecure", "--call", f"{INFERENCE}.{method}", "-d", json.dumps(data),
        "-c", "64", "-n", "2000", "--connections", "8", "--timeout", "120s", "-O", "json", server.address,
    )  # fmt: skip


def test_ghz_generate_without_an_error(demo):
    data = {"prompt": "What is 7 + 5?", "stopping": {"max_tokens": 16}}
    report = ghz(demo, "Generate", data)
    assert report["statusCodeDistribution"] == {"OK": 2000}, report["errorDistribution"]


def test_ghz_embed_without_an_error(demo):
    report = ghz(demo, "Embed", {"inputs": ["A lift that never stops.", "Bread and butter."]})
    assert report["statusCodeDistribution"] == {"OK": 2000}, report["errorDistribution"]


def test_health_answers_per_service(demo):
    for service in ["", INFERENCE, "paternoster.v1.Control"]:
        answer = run_json(
            "grpcurl", "-plaintext", "-d", json.dumps({"service": service}),
            demo.address, "grpc.health.v1.Health/Check",
        )  # fmt: skip
        assert answer == {"status": "SERVING"}, service


def test_http_on_the_same_port(demo):
    assert demo.metric("paternoster_generation_tokens_total") > 0
    assert demo.metric("vllm:generation_tokens_total") > 0
    for path in ["/health", "/ready"]:
        demo.get(path)


def test_the_readme_commands_run():
    """Every line of the README's block for the second terminal, as printed, on the default port."""
    block = re.search(r"<!-- second terminal -->\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block, "README has no block for the second terminal"
    server = Server(port=50051)
    try:
        for line in block[1].splitlines():
            if line and not line.startswith("#"):
                run("bash", "-euo", "pipefail", "-c", line)
    finally:
        assert server.stop() == 0
