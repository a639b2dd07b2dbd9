"""What a connection and a call on it need, whether they wait by a thread or by a task."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from ._errors import Failure, PaternosterError, error_of, read_failure
from ._requests import CallOptions, new_request_id
from ._results import (
    Completion,
    Delta,
    FinishReason,
    Generation,
    Usage,
    delta_of,
    finish_reason_of,
    usage_of,
)
from ._retry import Retry
from .v1 import generate_pb2

TIMEOUT = 60.0
"""Seconds a call may take if nobody says otherwise."""

CHANNEL_OPTIONS: Sequence[tuple[str, Any]] = [
    # A large batch of embeddings is larger than the 4 MiB that clients take by default.
    ("grpc.max_receive_message_length", 64 << 20),
    # So that a dead network ends a silent stream.
    ("grpc.keepalive_time_ms", 30_000),
    # The rule for trying again is this package's own, not one that a name server sends.
    ("grpc.service_config_disable_resolution", 1),
]


@dataclass(frozen=True)
class Tls:
    """How to talk TLS: all in PEM. Left out, the system's roots count and no own certificate is
    shown."""

    root_certificates: bytes | None = None
    private_key: bytes | None = None
    certificate_chain: bytes | None = None
    server_name: str | None = None
    """The name the server's certificate must have, where it is not the address."""

    def credentials(self) -> grpc.ChannelCredentials:
        """gRPC's form of it."""
        return grpc.ssl_channel_credentials(
            self.root_certificates, self.private_key, self.certificate_chain
        )


def channel_options(tls: Tls | None, options: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The options of a channel; the caller's come last and win."""
    name = [("grpc.ssl_target_name_override", tls.server_name)] if tls and tls.server_name else []
    return [*CHANNEL_OPTIONS, *name, *options]


@dataclass(frozen=True)
class Defaults:
    """What a client puts into each of its calls."""

    timeout: float
    retry: Retry
    metadata: Mapping[str, str]
    api_key: str | None

    def call(self, options: CallOptions) -> Call:
        """A call that begins now."""
        timeout = options.get("timeout")
        timeout = self.timeout if timeout is None else timeout
        request_id = options.get("request_id") or new_request_id()
        metadata = {**self.metadata, **(options.get("metadata") or {})}
        metadata["x-request-id"] = request_id
        if self.api_key is not None:
            metadata.setdefault("authorization", f"Bearer {self.api_key}")
        if traceparent := options.get("traceparent"):
            metadata["traceparent"] = traceparent
        elif "traceparent" not in metadata:
            metadata.update(_current_trace())
        end = None if math.isinf(timeout) else time.monotonic() + timeout
        return Call(request_id, tuple(metadata.items()), end, self.retry)


def _current_trace() -> dict[str, str]:
    carrier: dict[str, str] = {}
    try:
        from opentelemetry import propagate
    except ImportError:
        return carrier
    propagate.inject(carrier)
    return {key.lower(): value for key, value in carrier.items()}


@dataclass
class Call:
    """One call with all its attempts."""

    request_id: str
    metadata: tuple[tuple[str, str | bytes], ...]
    end: float | None
    retry: Retry
    attempt: int = 1

    def remaining(self) -> float | None:
        """Seconds until the deadline, None if there is none."""
        return None if self.end is None else max(0.0, self.end - time.monotonic())

    def pause(self, failure: Failure) -> float:
        """How long to wait before the next attempt; raises the failure if there is none."""
        pause = self.retry.pause(self.attempt, failure, self.remaining())
        if pause is None:
            raise error_of(failure)
        self.attempt += 1
        return pause

    def failure(self, error: Any) -> Failure:
        """Reads a gRPC error of either kind."""
        return read_failure(
            error.code(), error.details(), error.trailing_metadata(), self.request_id
        )


class Progress:
    """What has arrived of a stream."""

    def __init__(self, call: Call, n: int) -> None:
        self.call = call
        self.n = n
        self.request_id = call.request_id
        self.model = ""
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.deltas: dict[int, list[Delta]] = {}
        self.finished: dict[int, generate_pb2.Finished] = {}

    def take(self, response: generate_pb2.GenerateResponse) -> Delta | None:
        """Notes an event; what it adds, if it is a delta. Events of newer servers are passed by."""
        event = response.WhichOneof("event")
        if event == "started":
            self.request_id = response.started.request_id
            self.model = response.started.model
            self.prompt_tokens = response.started.prompt_tokens
            self.cached_tokens = response.started.cached_tokens
        elif event == "finished":
            self.finished[response.finished.index] = response.finished
        elif event == "delta":
            delta = delta_of(response.delta)
            self.deltas.setdefault(delta.index, []).append(delta)
            return delta
        return None

    def pause(self, failure: Failure) -> float:
        """How long to wait before the next attempt; raises the failure if there is none, as there
        is after the first token."""
        if self.deltas or self.finished:
            raise error_of(failure, self.text() or {0: ""})
        return self.call.pause(failure)

    def check_whole(self) -> None:
        """A stream that ended well has finished every sequence."""
        if len(self.finished) < self.n:
            raise self.broken("the stream ended before its sequences did")

    def broken(self, message: str) -> PaternosterError:
        """What arrived is not the whole."""
        failure = Failure(grpc.StatusCode.DATA_LOSS, message, self.request_id)
        return error_of(failure, self.text() or {0: ""})

    def text(self) -> dict[int, str]:
        """What arrived of each sequence."""
        return {
            index: "".join(delta.text for delta in deltas) for index, deltas in self.deltas.items()
        }

    def generation(self) -> Generation:
        """Everything as one answer, once every sequence has finished."""
        completions = tuple(self._completion(index) for index in sorted(self.finished))
        usages = [usage_of(one.usage) for one in self.finished.values()]
        usage = Usage(
            self.prompt_tokens, self.cached_tokens, sum(one.generated_tokens for one in usages)
        )
        return Generation(self.request_id, self.model, completions, usage)

    def _completion(self, index: int) -> Completion:
        deltas, end = self.deltas.get(index, []), self.finished[index]
        return Completion(
            index=index,
            text="".join(delta.text for delta in deltas),
            token_ids=tuple(token for delta in deltas for token in delta.token_ids),
            logprobs=tuple(one for delta in deltas for one in delta.logprobs),
            finish_reason=finish_reason_of(end.reason),
            stop=end.stop or None,
            stop_token_id=end.stop_token_id if end.HasField("stop_token_id") else None,
        )

    def finish_reason(self, index: int) -> FinishReason | None:
        """Why a sequence ended; None while it goes on."""
        return finish_reason_of(self.finished[index].reason) if index in self.finished else None
