"""A server in this process that does what a test tells it to, attempt by attempt."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from paternoster.v1 import embed_pb2, generate_pb2, inference_pb2_grpc

STARTED = generate_pb2.GenerateResponse(started=generate_pb2.Started(request_id="r", model="m"))
DELTA = generate_pb2.GenerateResponse(delta=generate_pb2.Delta(text="ab", token_ids=[1, 2]))
FINISHED = generate_pb2.GenerateResponse(
    finished=generate_pb2.Finished(reason=generate_pb2.FINISH_REASON_STOP)
)
WHOLE = generate_pb2.CompleteResponse(
    completions=[generate_pb2.Completion(text="ab", reason=generate_pb2.FINISH_REASON_STOP)]
)

WAIT = object()
"""An attempt goes on until its caller ends it."""


@dataclass(frozen=True)
class Fail:
    """An attempt that ends with a status."""

    code: grpc.StatusCode
    reason: str = "DRAINING"
    retry_after: float | None = None
    pushback: str | None = None
    raw: bytes | None = None
    """Details as bytes, in place of those of a server that means well."""

    def trailers(self) -> list[tuple[str, Any]]:
        details = [error_details_pb2.ErrorInfo(reason=self.reason, domain="paternoster.v1")]
        if self.retry_after is not None:
            delay = duration_pb2.Duration(nanos=int(self.retry_after * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.code.value[0])
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        raw = status.SerializeToString() if self.raw is None else self.raw
        trailers: list[tuple[str, Any]] = [("grpc-status-details-bin", raw)]
        if self.pushback is not None:
            trailers.append(("grpc-retry-pushback-ms", self.pushback))
        return trailers


@dataclass
class Flaky(inference_pb2_grpc.InferenceServicer):
    """Each call takes the next step of the script: messages to send, then perhaps a failure."""

    script: list[list[Any]]
    metadata: list[dict[str, Any]] = field(default_factory=list)
    time_left: list[float] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    """A call has come."""

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: ARG002, N802
        yield from self._step(context)

    def Complete(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        list(self._step(context))
        return WHOLE

    def Embed(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        list(self._step(context))
        return embed_pb2.EmbedResponse()

    def _step(self, context: Any) -> Iterator[Any]:
        attempt = len(self.metadata)
        self.metadata.append(dict(context.invocation_metadata()))
        self.time_left.append(context.time_remaining())
        self.arrived.set()
        for action in self.script[attempt]:
            if isinstance(action, Fail):
                context.set_trailing_metadata(action.trailers())
                context.abort(action.code, "as the script says")
            if action is WAIT:
                ended = threading.Event()
                if context.add_callback(ended.set):
                    ended.wait()
                return
            yield action

    @property
    def attempts(self) -> int:
        """How many calls arrived."""
        return len(self.metadata)


@contextlib.contextmanager
def serving(
    script: list[list[Any]], credentials: grpc.ServerCredentials | None = None
) -> Iterator[tuple[Flaky, str]]:
    """A server that follows a script, and its address."""
    flaky = Flaky(script)  # type: ignore[abstract]
    server = grpc.server(futures.ThreadPoolExecutor(4))
    inference_pb2_grpc.add_InferenceServicer_to_server(flaky, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield flaky, f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
