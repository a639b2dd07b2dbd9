"""Every line of the Dockerfile, done on this machine, and the image it makes, run.

`PATERNOSTER_REBUILD=1` compiles in the build stage as public CI does, which takes long; otherwise a
stand-in for cargo hands out target/release/paternoster.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time
import tomllib

import pytest
from dockerfile import BINARY, ROOT, Build, context, libraries

DOCKERFILE = ROOT / "deploy/Dockerfile"
IGNORE = ROOT / ".dockerignore"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    rebuild = os.environ.get("PATERNOSTER_REBUILD") == "1"
    return Build(DOCKERFILE, context(IGNORE), tmp_path_factory.mktemp("docker"), rebuild)


@pytest.fixture(scope="module")
def image(build):
    return build.stages["final"]


def test_bases_are_pinned(build):
    for name, stage in build.stages.items():
        assert re.fullmatch(r"docker\.io/library/[a-z]+:\d+\.\d+[.\d]*-[\w-]+", stage.base), name
    channel = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    compiler = build.stages["build"]
    assert compiler.env["RUSTUP_TOOLCHAIN"] == channel
    assert compiler.base.split(":")[1].startswith(f"{channel}-")


def test_the_build_is_the_shipped_profile(build):
    if os.environ.get("PATERNOSTER_REBUILD") != "1":
        assert build.cargo_calls == [
            "build --profile dist --locked --package server --bin paternoster"
        ]
    assert "dist" in tomllib.loads((ROOT / "Cargo.toml").read_text())["profile"]


def test_the_context_has_what_the_compiler_reads():
    """rustc wrote down, beside the binary, every file of ours that went into it."""
    text = BINARY.resolve().with_suffix(".d").read_text().partition(": ")[2]
    read = re.split(r"(?<!\\) ", text.strip())
    main = "/server/src/main.rs"
    top = next(path for path in read if path.endswith(main)).removesuffix(main)
    ours = [path.removeprefix(f"{top}/") for path in read if path.startswith(f"{top}/")]
    ours = [path for path in ours if not path.startswith("target")]
    assert len(ours) > 50, "the list of files that rustc wrote is not understood"
    kept = set(context(IGNORE))
    missing = [path for path in ours if path not in kept and (ROOT / path).is_file()]
    assert not missing, ".dockerignore leaves out what is compiled"


def test_the_context_has_no_ballast(build):
    kept = context(IGNORE)
    assert not [path for path in kept if path.split("/")[0] in {"docs", "deploy", ".ci", ".git"}]
    assert sum((ROOT / path).stat().st_size for path in kept) < 64 << 20


def test_the_base_has_the_libraries():
    """debian:*-slim has libc6 and libgcc-s1 and nothing else that a program of ours may need."""
    names = {path.name for path in libraries(BINARY)}
    have = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0"}
    assert {name for name in names if not name.startswith("ld-linux")} <= have


def test_the_image_says_how_it_is_run(image):
    assert image.user == "1000:1000"
    assert image.stop_signal == "SIGTERM"
    assert image.ports == [image.env["PORT"]]
    assert image.volumes == [image.env["HF_HOME"]]
    for volume in image.volumes:
        assert image.owners[volume] == image.user, "the user cannot write the volume"
    written = [path for path, owner in image.owners.items() if owner != "0:0"]
    assert written == image.volumes, "the user may write nothing else"
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert image.labels["org.opencontainers.image.version"] == version


def test_the_image_serves_and_stops(image, tmp_path):
    """Read-only, with no /tmp, no shell and no user of that name: ENTRYPOINT, HEALTHCHECK, STOPSIGNAL."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = str(probe.getsockname()[1])
    data = tmp_path / "data"
    data.mkdir()
    sandbox = image.sandbox("--bind", str(data), image.volumes[0], PORT=port)
    log = (tmp_path / "log").open("w+")
    told, tell = os.pipe()
    serve = [sandbox[0], "--info-fd", str(tell), *sandbox[1:], *image.entrypoint, *image.command]
    server = subprocess.Popen(serve, stderr=log, pass_fds=[tell])
    os.close(tell)
    with open(told) as info:
        process = json.load(info)["child-pid"]
    try:
        deadline = time.monotonic() + 30
        while subprocess.run([*sandbox, *image.health], capture_output=True).returncode != 0:
            assert server.poll() is None, f"it ended: {(tmp_path / 'log').read_text()}"
            assert time.monotonic() < deadline, "it never became healthy"
        listening = [line.split()[1] for line in open("/proc/net/tcp") if line.split()[3] == "0A"]
        assert f"00000000:{int(port):04X}" in listening, "not reachable from outside a container"
        status = open(f"/proc/{process}/status").read()
        assert re.search(r"^CapEff:\s+0+$", status, re.M), "it has capabilities"
    finally:
        os.kill(process, getattr(signal, image.stop_signal))
        code = server.wait(timeout=30)
    assert code == 0, (tmp_path / "log").read_text()
    assert subprocess.run([*sandbox, *image.health], capture_output=True).returncode == 2
    assert not list(data.iterdir())


def test_a_context_without_a_crate_fails(tmp_path):
    """The check itself: the stand-in for cargo notices a manifest that is missing."""
    fewer = [path for path in context(IGNORE) if not path.startswith("scheduler/")]
    with pytest.raises(AssertionError, match="scheduler"):
        Build(DOCKERFILE, fewer, tmp_path, rebuild=False)


def test_an_unknown_line_fails(tmp_path):
    odd = tmp_path / "Dockerfile"
    odd.write_text("FROM docker.io/library/debian:12.12-slim\nONBUILD RUN true\n")
    with pytest.raises(AttributeError, match="_onbuild"):
        Build(odd, [], tmp_path / "out", rebuild=False)
