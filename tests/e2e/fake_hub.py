"""A Hugging Face hub on two ports of this machine: its API and files, and a content network that large
files are redirected to."""

import hashlib
import http.server
import json
import ssl
import threading
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class FakeHub:
    """Serves folders as models: `{"org/name": folder}`."""

    def __init__(self, models: dict[str, Path], tls: ssl.SSLContext | None = None):
        self.tls = tls
        scheme = "https" if tls else "http"
        self.models = {
            model: {
                str(path.relative_to(folder)): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
            for model, folder in models.items()
        }
        self.requests: list[tuple[bool, str, dict[str, str]]] = []
        # Answers instead of all else: a status, for the paths that contain a word.
        self.refuse: dict[str, int] = {}
        # Large files stop in their middle until this is set.
        self.flowing = threading.Event()
        self.flowing.set()
        self.stalled = threading.Event()
        self.hub, self.cdn = (self.listen(is_cdn) for is_cdn in (False, True))
        self.endpoint = f"{scheme}://127.0.0.1:{self.hub.server_port}"
        self.network = f"{scheme}://127.0.0.1:{self.cdn.server_port}"

    def listen(self, is_cdn: bool) -> http.server.ThreadingHTTPServer:
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                fake.requests.append((is_cdn, self.path, dict(self.headers)))
                fake.answer(self, is_cdn)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        # A client that does not trust us hangs up.
        server.handle_error = lambda *_: None
        if self.tls:
            server.socket = self.tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def close(self) -> None:
        self.flowing.set()
        for server in (self.hub, self.cdn):
            server.shutdown()
            server.server_close()

    def answer(self, request, is_cdn: bool) -> None:
        path = request.path.split("?")[0]
        for word, status in self.refuse.items():
            if word in path:
                return send(request, status, b"")
        for model, files in self.models.items():
            api = f"/api/models/{model}/"
            if path.startswith(f"{api}revision/"):
                if path.rsplit("/", 1)[1] in ("main", COMMIT):
                    return send(request, 200, json.dumps({"id": model, "sha": COMMIT}).encode())
            elif path == f"{api}tree/{COMMIT}":
                entries = [self.entry(name, data) for name, data in files.items()]
                return send(request, 200, json.dumps(entries).encode())
            elif path.startswith(f"/{model}/resolve/{COMMIT}/"):
                name = path.split(f"/resolve/{COMMIT}/")[1]
                if name in files:
                    return self.file(request, name, files[name], is_cdn)
        send(request, 404, b"")

    def is_large(self, name: str) -> bool:
        return name.endswith((".safetensors", ".bin"))

    def entry(self, name: str, data: bytes) -> dict:
        entry = {"type": "file", "path": name, "size": len(data), "oid": git_hash(data)}
        if self.is_large(name):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
        return entry

    def file(self, request, name: str, data: bytes, is_cdn: bool) -> None:
        if self.is_large(name) and not is_cdn:
            place = f"{self.network}{request.path}?Signature=canary_signed"
            return send(request, 302, b"", location=place)
        start = 0
        if span := request.headers.get("range"):
            start = int(span.removeprefix("bytes=").removesuffix("-"))
        headers = {"x-repo-commit": COMMIT}
        if start:
            headers["content-range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if self.is_large(name) and not self.flowing.is_set():
            request.send_response(206 if start else 200)
            for key, value in headers.items():
                request.send_header(key, value)
            request.send_header("content-length", str(len(body)))
            request.end_headers()
            request.wfile.write(body[: len(body) // 2])
            request.wfile.flush()
            self.stalled.set()
            self.flowing.wait()
            request.close_connection = True
            return
        send(request, 206 if start else 200, body, **headers)


def send(request, status: int, body: bytes, **headers: str) -> None:
    request.send_response(status)
    for key, value in headers.items():
        request.send_header(key, value)
    request.send_header("content-length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
