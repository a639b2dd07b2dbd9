"""Tools nobody here wrote: grpcurl, ghz, curl, and the README's own commands."""

import json
import os
import re
import socket

import pytest
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


README = (ROOT / "README.md").read_text()
README_PORT = 50051
RUN = (ROOT / "tests/e2e/run.sh").read_text()


def readme_block(name: str) -> list[str]:
    """The commands of one of the README's blocks, as printed."""
    block = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", README, re.S)
    assert block, f"README has no block {name}"
    return [line for line in block[1].splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def readme_server():
    """What the README's first command starts, where its other commands look for it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", README_PORT))
        except OSError as error:
            pytest.fail(f"the README's commands use port {README_PORT}: {error}")
    server = Server(port=README_PORT)
    yield server
    assert server.stop() == 0, server.log.read_text()


@pytest.mark.parametrize("line", readme_block("second terminal"))
def test_a_command_of_the_readme_runs_as_printed(readme_server, line):
    if line.startswith("ghz "):  # it exits with 0 whatever happened
        report = run_json("bash", "-c", f"{line} -O json")
        assert report["statusCodeDistribution"] == {"OK": 2000}, report["errorDistribution"]
        return
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    out = run("bash", "-euo", "pipefail", "-c", line, env=own)
    assert out or not line.startswith(("grpcurl", "curl")), "it prints nothing"


def test_the_readme_installs_the_tools_that_are_tested():
    pinned = set(re.findall(r"^go_tool \w+ (\S+)$", RUN, re.M))
    printed = {line.removeprefix("go install ") for line in readme_block("tools")}
    assert len(pinned) == 2
    assert printed == pinned
