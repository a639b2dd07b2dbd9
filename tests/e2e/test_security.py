"""TLS, client certificates and API keys of the real process, with an authority that is made here."""

import contextlib
import datetime
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import grpc
import pytest
from conftest import BINARY, Server, run, run_json
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paternoster.v1 import control_pb2, control_pb2_grpc, generate_pb2, inference_pb2_grpc

INFERENCE = "paternoster.v1.Inference"
# New files are in use in less than 2 s (docs/operating.md); the rest is for a machine that also compiles.
IN_USE_SECONDS = 10


class Authority:
    """Signs certificates of `localhost`, for servers and for clients."""

    def __init__(self, name: str):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = self.builder(self.name, self.key).add_extension(constraints, critical=True)
        self.certificate = builder.sign(self.key, hashes.SHA256())

    def builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
        )

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign(self) -> tuple[bytes, bytes]:
        """A new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        builder = self.builder(subject, key).add_extension(names, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return certificate.public_bytes(serialization.Encoding.PEM), private


def replace(path: Path, content: bytes) -> None:
    """A file changes whole, as a mounted secret does."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)


def keys_file(**keys: str) -> bytes:
    tables = [f'[[key]]\nname = "{tenant}"\nkey = "{key}"\n' for tenant, key in keys.items()]
    return "\n".join(tables).encode()


class Secured:
    """A server that wants a client certificate and a key of one of two tenants."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.servers, self.clients = Authority("servers"), Authority("clients")
        self.replace_certificate()
        self.replace_keys(first="first-key", second="second-key")
        replace(folder / "ca.pem", self.servers.pem())
        replace(folder / "clients.pem", self.clients.pem())
        certificate, key = self.clients.sign()
        replace(folder / "client.pem", certificate)
        replace(folder / "client.key", key)
        self.credentials = self.shown(certificate, key)
        self.server = Server(
            "--tls-cert", self.path("server.pem"), "--tls-key", self.path("server.key"),
            "--tls-client-ca", self.path("clients.pem"), "--api-keys-file", self.path("keys.toml"),
            credentials=self.credentials,
        )  # fmt: skip

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def shown(self, certificate: bytes | None, key: bytes | None) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.servers.pem(), key, certificate)

    def replace_certificate(self) -> bytes:
        certificate, key = self.servers.sign()
        replace(self.folder / "server.pem", certificate)
        replace(self.folder / "server.key", key)
        return certificate

    def replace_keys(self, **keys: str) -> None:
        replace(self.folder / "keys.toml", keys_file(**keys))

    def certificate(self) -> bytes:
        """What the server shows to a new connection."""
        context = ssl.create_default_context(cafile=self.path("ca.pem"))
        context.load_cert_chain(self.path("client.pem"), self.path("client.key"))
        with (
            socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as stream,
        ):
            return ssl.DER_cert_to_PEM_cert(stream.getpeercert(binary_form=True)).encode()

    def answers(self, key: str | None, credentials: grpc.ChannelCredentials | None = None) -> grpc.StatusCode:
        """How a generation ends."""
        with contextlib.ExitStack() as stack:
            channel = self.server.channel
            if credentials:
                channel = stack.enter_context(self.server.connect(credentials))
            inference = inference_pb2_grpc.InferenceStub(channel)
            try:
                inference.Complete(question(), timeout=60, metadata=bearer(key))
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK


def question() -> generate_pb2.GenerateRequest:
    request = generate_pb2.GenerateRequest(prompt="What is 7 + 5?")
    request.stopping.max_tokens = 4
    return request


def bearer(key: str | None) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")] if key else []


def until(holds) -> None:
    """Looks again and again, for as long as new files may take to be in use."""
    deadline = time.monotonic() + IN_USE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "not in use in time"


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    secured = Secured(tmp_path_factory.mktemp("secured"))
    yield secured
    log = secured.server.log.read_text()
    assert secured.server.stop() == 0, log
    for secret in ["first-key", "second-key", "third-key"]:
        assert secret not in log


def test_a_client_needs_a_certificate_of_the_right_authority(secured):
    assert secured.answers("first-key") == grpc.StatusCode.OK
    own = secured.shown(*secured.clients.sign())
    assert secured.answers("first-key", own) == grpc.StatusCode.OK
    of_another = secured.shown(*Authority("clients").sign())
    assert secured.answers("first-key", of_another) == grpc.StatusCode.UNAVAILABLE
    none = secured.shown(None, None)
    assert secured.answers("first-key", none) == grpc.StatusCode.UNAVAILABLE


def test_a_key_is_needed_besides(secured):
    assert secured.answers("second-key") == grpc.StatusCode.OK
    for key in [None, "third-key", "FIRST-KEY"]:
        assert secured.answers(key) == grpc.StatusCode.UNAUTHENTICATED, key


def test_a_certificate_is_replaced_under_a_live_stream(secured):
    control = control_pb2_grpc.ControlStub(secured.server.channel)
    request = control_pb2.WatchLoadRequest(interval_ms=100)
    loads = control.WatchLoad(request, timeout=300, metadata=bearer("first-key"))
    next(loads)
    for _ in range(3):
        before, after = secured.certificate(), secured.replace_certificate()
        assert before != after
        until(lambda after=after: secured.certificate() == after)
        next(loads)
    assert loads.is_active()
    loads.cancel()
    assert secured.answers("first-key") == grpc.StatusCode.OK


def test_a_pair_that_does_not_fit_changes_nothing(secured):
    before = secured.certificate()
    replace(secured.folder / "server.key", secured.servers.sign()[1])
    series = 'paternoster_reloads_total{what="tls",outcome="failed"}'
    until(lambda: series in secured.server.get("/metrics"))
    assert secured.certificate() == before
    after = secured.replace_certificate()
    until(lambda: secured.certificate() == after)


def test_a_key_that_is_taken_out_of_the_file_is_refused(secured):
    assert secured.answers("second-key") == grpc.StatusCode.OK
    secured.replace_keys(first="first-key", third="third-key")
    until(lambda: secured.answers("second-key") == grpc.StatusCode.UNAUTHENTICATED)
    for key in ["first-key", "third-key"]:
        assert secured.answers(key) == grpc.StatusCode.OK, key
    # A signal reads it at once; a file that cannot be read takes nothing away.
    secured.replace_keys(first="first-key", second="second-key")
    secured.server.process.send_signal(signal.SIGHUP)
    until(lambda: secured.answers("second-key") == grpc.StatusCode.OK)
    assert secured.answers("third-key") == grpc.StatusCode.UNAUTHENTICATED
    replace(secured.folder / "keys.toml", b"[[key]]\nname = ")
    secured.server.process.send_signal(signal.SIGHUP)
    series = 'paternoster_reloads_total{what="keys",outcome="failed"}'
    until(lambda: series in secured.server.get("/metrics"))
    assert secured.answers("second-key") == grpc.StatusCode.OK
    secured.replace_keys(first="first-key", second="second-key")


def tls_flags(secured: Secured, *names: str) -> list[str]:
    files = ["ca.pem", "client.pem", "client.key"]
    return [word for name, file in zip(names, files, strict=True) for word in (name, secured.path(file))]


def test_grpcurl_with_an_authority_a_certificate_and_a_key(secured):
    address = f"localhost:{secured.server.port}"
    flags = tls_flags(secured, "-cacert", "-cert", "-key")
    data = json.dumps({"prompt": "What is 7 + 5?", "stopping": {"max_tokens": 4}})
    call = ["-d", data, address, f"{INFERENCE}/Complete"]
    out = run("grpcurl", *flags, "-H", "authorization: Bearer first-key", *call)
    assert json.loads(out)["completions"]
    refused = subprocess.run(["grpcurl", *flags, *call], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 64 + grpc.StatusCode.UNAUTHENTICATED.value[0]
    assert "BAD_API_KEY" in refused.stderr


def test_ghz_with_a_key(secured):
    report = run_json(
        "ghz", *tls_flags(secured, "--cacert", "--cert", "--key"), "--call", f"{INFERENCE}.Complete",
        "-d", json.dumps({"prompt": "What is 7 + 5?", "stopping": {"max_tokens": 4}}),
        "-m", json.dumps({"authorization": "Bearer first-key"}),
        "-c", "16", "-n", "200", "--timeout", "60s", "-O", "json", f"localhost:{secured.server.port}",
    )  # fmt: skip
    assert report["statusCodeDistribution"] == {"OK": 200}, report["errorDistribution"]


def test_the_health_probe_speaks_tls_and_needs_no_key(secured):
    def ask(*flags: str) -> int:
        command = [BINARY, "health", "--timeout", "10s", "--addr", f"localhost:{secured.server.port}", *flags]
        return subprocess.run(command, capture_output=True, timeout=60).returncode

    flags = tls_flags(secured, "--tls-ca", "--tls-client-cert", "--tls-client-key")
    assert ask(*flags) == 0
    assert ask(*flags, "--service", f"{INFERENCE}") == 0
    assert ask(*flags[:2]) != 0, "it shows no certificate"
    assert ask() != 0, "it speaks no TLS"


def test_a_quota_for_everybody_is_each_tenants_own(tmp_path):
    replace(tmp_path / "keys.toml", keys_file(first="first-key", second="second-key"))
    flags = ["--api-keys-file", str(tmp_path / "keys.toml"), "--tenant-requests-per-minute", "1"]
    server = Server(*flags)
    for key in ["first-key", "second-key"]:
        server.inference.Complete(question(), timeout=60, metadata=bearer(key))
        with pytest.raises(grpc.RpcError) as failure:
            server.inference.Complete(question(), timeout=60, metadata=bearer(key))
        assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        trailers = dict(failure.value.trailing_metadata())
        assert 0 < int(trailers["grpc-retry-pushback-ms"]) <= 60_000
    assert server.stop() == 0
