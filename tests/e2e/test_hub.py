"""Models of the hub: the real binary against a hub on this machine."""

import os
import pty
import re
import resource
import shutil
import signal
import ssl
import subprocess
from pathlib import Path

import pytest
from conftest import BINARY, ROOT, Server, free_port
from fake_hub import COMMIT, FakeHub
from huggingface_hub import scan_cache_dir, snapshot_download
from paternoster.v1 import control_pb2, control_pb2_grpc, generate_pb2

DEMO = ROOT / "models/demo/decoder/model"
TOKEN = "hf_canary_0123456789"


@pytest.fixture
def hub(tmp_path):
    pickles = tmp_path / "pickles"
    pickles.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(DEMO / name, pickles)
    (pickles / "pytorch_model.bin").write_bytes(b"\x80\x02}.")
    hub = FakeHub({"org/demo": DEMO, "org/pickles": pickles})
    yield hub
    hub.close()


@pytest.fixture
def env(hub, tmp_path):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    more = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    return clean | more | {"RUST_LOG": "trace"}


def command(env, *words: str, **options) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [BINARY, *words], capture_output=True, text=True, timeout=60, env=env, **options
    )
    assert "canary" not in done.stdout + done.stderr
    return done


def cache(env) -> Path:
    return Path(env["HF_HOME"]) / "hub"


def weights(env) -> Path:
    folder = cache(env) / f"models--org--demo/snapshots/{COMMIT}"
    return (folder / "model.safetensors").resolve()


def generate(server: Server) -> str:
    request = generate_pb2.GenerateRequest(prompt="What is 7 + 5?")
    events = server.inference.Generate(request, timeout=60)
    return "".join(event.delta.text for event in events)


def test_a_model_is_downloaded_and_served(hub, env):
    server = Server("--model-id", "org/demo", env=env)
    assert "12" in generate(server)
    control = control_pb2_grpc.ControlStub(server.channel)
    (model,) = control.ListModels(control_pb2.ListModelsRequest(), timeout=10).models
    assert (model.name, model.revision) == ("org/demo", COMMIT)
    assert server.stop() == 0
    log = server.log.read_text()
    assert COMMIT in log
    assert "canary" not in log
    authorized = [is_cdn for is_cdn, _, headers in hub.requests if "authorization" in headers]
    assert authorized and not any(authorized)
    assert any(is_cdn for is_cdn, _, _ in hub.requests)

    # A second start asks what main is and downloads nothing; offline, nobody is asked.
    before = len(hub.requests)
    server = Server("--model-id", "org/demo", env=env)
    assert server.stop() == 0
    assert len(hub.requests) - before == 2
    before = len(hub.requests)
    server = Server("--model-id", "org/demo", env=env | {"HF_HUB_OFFLINE": "1"})
    assert "12" in generate(server)
    assert server.stop() == 0
    pinned = ("--revision", COMMIT, "--require-pinned")
    server = Server("--model-id", "org/demo", *pinned, env=env)
    assert server.stop() == 0
    assert len(hub.requests) == before


def test_sigterm_ends_a_download(hub, env):
    hub.flowing.clear()
    words = [BINARY, "serve", "--port", str(free_port()), "--model-id", "org/demo"]
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE)
    assert hub.stalled.wait(30)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log.decode()
    hub.flowing.set()
    done = command(env, "download", "org/demo")
    assert done.returncode == 0, done.stderr


def test_python_finds_what_is_downloaded(hub, env):
    done = command(env, "download", "org/demo")
    assert done.returncode == 0, done.stderr
    folder = snapshot_download("org/demo", cache_dir=cache(env), local_files_only=True)
    assert done.stdout == f"{folder}\n"
    for path in DEMO.iterdir():
        assert (Path(folder) / path.name).read_bytes() == path.read_bytes()
    (repo,) = scan_cache_dir(cache(env)).repos
    assert (repo.repo_id, repo.nb_files) == ("org/demo", len(list(DEMO.iterdir())))
    assert not scan_cache_dir(cache(env)).warnings
    (revision,) = repo.revisions
    assert (revision.commit_hash, revision.refs) == (COMMIT, {"main"})
    assert "1 files, 5.26 MiB" in done.stderr, done.stderr
    assert f"complete at commit {COMMIT}" in done.stderr


def test_a_terminal_shows_bars(hub, env):
    leader, follower = pty.openpty()
    words = [BINARY, "download", "org/demo"]
    process = subprocess.Popen(
        words, env=env | {"TERM": "xterm"}, stdout=subprocess.DEVNULL, stderr=follower
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert process.wait(timeout=60) == 0
    os.close(leader)
    text = shown.decode()
    assert re.search(r"org/demo \[[=> ]*\] \d+/\d+ files, [0-9.]+ \wi?B/[0-9.]+ MiB", text), text
    assert "canary" not in text


def test_verify_finds_a_flipped_byte(hub, env):
    assert command(env, "verify", "org/demo").returncode == 78
    folder = command(env, "download", "org/demo").stdout.strip()
    for model in ("org/demo", folder):
        done = command(env, "verify", model)
        assert done.returncode == 0, done.stderr
        assert "5 good, 0 bad, 0 of which no hash is known" in done.stdout
    blob = weights(env)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    for model in ("org/demo", folder):
        done = command(env, "verify", model)
        assert done.returncode == 65, done.stdout
        assert "BAD model.safetensors: is sha256 " in done.stdout
        assert f"should be sha256 {blob.name}" in done.stdout
        assert "4 good, 1 bad" in done.stdout


def test_info_needs_only_configuration(hub, env):
    done = command(env, "info", "org/demo", "--kv-cache-size", "64MiB")
    assert done.returncode == 0, done.stderr
    for line in (
        f"commit         {COMMIT}",
        "architecture   LlamaForCausalLM",
        "task           generate",
        "stored         5.3 MiB of weights",
        "  KV cache     64.0 MiB: ",
    ):
        assert line in done.stdout, done.stdout
    assert ": fits" in done.stdout
    assert not any("safetensors" in path for _, path, _ in hub.requests)
    huge = command(env, "info", "org/demo", "--kv-cache-size", "900TiB")
    assert huge.returncode == 71, huge.stderr
    assert "does not fit" in huge.stdout
    done = command(env, "verify", "org/demo")
    assert done.returncode == 0 and done.stdout.endswith("; no weights among them\n"), done.stdout
    local = command(env, "info", str(DEMO))
    assert local.returncode == 0, local.stderr
    assert "stored         5.3 MiB of weights" in local.stdout


def test_refusals_have_their_exit_codes(hub, env, tmp_path):
    def code(*words: str, **more: str) -> tuple[int, str]:
        done = command(env | more, *words)
        return done.returncode, done.stderr

    assert code("download", "org/none")[0] == 78
    assert code("download", "org/demo", "--revision", "v9")[0] == 78
    assert code("download", "../demo")[0] == 78
    assert code("download", "org/demo", "--require-pinned")[0] == 78
    assert code("download", "org/demo", HF_HUB_OFFLINE="1")[0] == 78
    assert code("download", "org/demo", HF_TOKEN="hf\ncanary")[0] == 78
    exit_code, message = code("download", "org/pickles")
    assert exit_code == 77 and "PICKLE_REFUSED" in message
    exit_code, message = code("serve", "--port", "0", "--model-id", "org/pickles")
    assert exit_code == 77 and "PICKLE_REFUSED" in message
    pickles = str(tmp_path / "pickles")
    exit_code, message = code("serve", "--port", "0", "--model-id", pickles)
    assert exit_code == 77 and "PICKLE_REFUSED" in message
    for status in (401, 403):
        hub.refuse = {"/revision/": status}
        assert code("download", "org/demo")[0] == 77
    hub.refuse = {}
    file = tmp_path / "file"
    file.write_text("")
    assert code("download", "org/demo", "--huggingface-hub-cache", str(file))[0] == 73
    assert not list(tmp_path.glob("home/hub/*/snapshots/*/model.safetensors"))


def test_a_hub_behind_tls_is_trusted_by_its_certificate(env, tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    made += ["-subj", "/CN=hub", "-addext", "subjectAltName=IP:127.0.0.1"]
    made += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    hub = FakeHub({"org/demo": DEMO}, tls)
    try:
        env = env | {"HF_ENDPOINT": hub.endpoint}
        done = command(env | {"SSL_CERT_FILE": str(certificate)}, "download", "org/demo")
        assert done.returncode == 0, done.stderr
        done = command(env | {"HF_HOME": str(tmp_path / "other")}, "download", "org/demo")
        assert done.returncode == 74 and "certificate" in done.stderr, done.stderr
        assert "SSL_CERT_FILE" in done.stderr and "again in" not in done.stderr, done.stderr
    finally:
        hub.close()


def test_a_full_disk_leaves_nothing(hub, env):
    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = command(env, "download", "org/demo", preexec_fn=small_files)
    assert done.returncode == 74, done.stderr
    left = [path.name for path in (cache(env) / "models--org--demo/blobs").iterdir()]
    assert not any(name.endswith(".incomplete") for name in left), left
    assert all(len(name) == 40 for name in left), "small files alone"
