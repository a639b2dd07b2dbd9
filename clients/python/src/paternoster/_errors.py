"""What can go wrong, as exceptions: one class for each thing a caller may want to do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

Metadata = Iterable[tuple[str, "str | bytes"]]


@dataclass(frozen=True)
class Failure:
    """What a call ended with, read from its status, its details and its trailers."""

    code: grpc.StatusCode
    message: str
    request_id: str
    reason: str | None = None
    field: str | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retry_after: float | None = None
    """Seconds, from google.rpc.RetryInfo."""
    pushback: str | None = None
    """The trailer grpc-retry-pushback-ms."""


class PaternosterError(Exception):
    """A call failed. Every exception of this package that a server or the network causes is one."""

    def __init__(self, failure: Failure) -> None:
        reason = f" {failure.reason}" if failure.reason else ""
        message = f"{failure.code.name}{reason}: {failure.message}"
        super().__init__(f"{message} (request {failure.request_id})")
        self.failure = failure

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code."""
        return self.failure.code

    @property
    def reason(self) -> str | None:
        """The reason, of those that the contract lists: "QUEUE_FULL"."""
        return self.failure.reason

    @property
    def message(self) -> str:
        """What the server, or gRPC, said."""
        return self.failure.message

    @property
    def request_id(self) -> str:
        """The name of the request, as it stands in the server's log."""
        return self.failure.request_id

    @property
    def field(self) -> str | None:
        """The field of the request that is at fault: "stopping.max_tokens"."""
        return self.failure.field

    @property
    def metadata(self) -> Mapping[str, str]:
        """The numbers that matter, as the limit that was exceeded."""
        return self.failure.metadata

    @property
    def retry_after(self) -> float | None:
        """After how many seconds to try again; None where the server said nothing."""
        return self.failure.retry_after


class ValidationError(PaternosterError):
    """The request is wrong, wherever it is sent."""


class NotFound(PaternosterError):
    """No such model, adapter or service."""


class FailedPrecondition(PaternosterError):
    """The server's state does not allow it: an encoder was asked to generate, for example."""


class Unauthenticated(PaternosterError):
    """No API key, or a wrong one."""


class PermissionDenied(PaternosterError):
    """The API key does not allow it."""


class OverloadedError(PaternosterError):
    """More arrives than is served. `retry_after` says when to come back, if the server does."""


class Unavailable(PaternosterError):
    """The server drains, restarts or cannot be reached."""


class DeadlineExceeded(PaternosterError):
    """The deadline passed."""


class RequestAborted(PaternosterError):
    """Somebody ended the call: Control.Abort, or a client that was closed."""


class Unimplemented(PaternosterError):
    """The server cannot do this."""


class GenerationError(PaternosterError):
    """The server failed on this request."""


class IncompleteGenerationError(GenerationError):
    """A stream broke off after its first tokens, which may have been used already: it was not, and
    must not blindly be, tried again. `text` has what arrived of each sequence."""

    def __init__(self, failure: Failure, text: Mapping[int, str]) -> None:
        super().__init__(failure)
        self.text = text


_BY_CODE: Mapping[grpc.StatusCode, type[PaternosterError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: ValidationError,
    grpc.StatusCode.OUT_OF_RANGE: ValidationError,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: RequestAborted,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
}

# These codes say more with their reason.
_BY_REASON: Mapping[str, type[PaternosterError]] = {"MESSAGE_TOO_LARGE": ValidationError}

# After the first token these mean that what arrived is not the whole.
_BREAKS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.ABORTED,
}


def error_of(failure: Failure, text: Mapping[int, str] | None = None) -> PaternosterError:
    """The exception for a failure; `text` is what of a stream had arrived, if anything had."""
    if text and failure.code in _BREAKS:
        return IncompleteGenerationError(failure, text)
    kind = _BY_REASON.get(failure.reason or "") or _BY_CODE.get(failure.code, GenerationError)
    return kind(failure)


def read_failure(
    code: grpc.StatusCode, message: str | None, trailers: Metadata | None, request_id: str
) -> Failure:
    """Reads the details of a status. Details that do not parse count as absent."""
    found = dict(trailers or ())
    pushback = found.get("grpc-retry-pushback-ms")
    info, retry, bad = _details(found.get("grpc-status-details-bin", b""))
    return Failure(
        code=code,
        message=message or "",
        request_id=request_id,
        reason=info.reason or None,
        field=bad.field_violations[0].field if bad.field_violations else None,
        metadata=dict(info.metadata),
        retry_after=None if retry is None else retry.retry_delay.ToMilliseconds() / 1000,
        pushback=pushback.decode("ascii", "replace") if isinstance(pushback, bytes) else pushback,
    )


def _details(
    raw: str | bytes,
) -> tuple[
    error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo | None, error_details_pb2.BadRequest
]:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry = None
    try:
        status = status_pb2.Status.FromString(raw if isinstance(raw, bytes) else raw.encode())
        for detail in status.details:
            if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo.FromString(detail.value)
            for known in (info, bad):
                if detail.Is(known.DESCRIPTOR):
                    detail.Unpack(known)
    except DecodeError:
        pass
    return info, retry, bad
