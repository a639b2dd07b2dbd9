"""What both clients are, whether they wait by a thread or by a task: a channel, its stubs, and for
each method the call to make and how to read its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from grpc_health.v1 import health_pb2, health_pb2_grpc

from . import _requests, _results
from ._call import TIMEOUT, Defaults, Progress, Tls, channel_options
from ._errors import PaternosterError
from ._requests import (
    ClassifyOptions,
    EmbedOptions,
    GenerateOptions,
    Messages,
    ModelOptions,
    Prompt,
    RerankOptions,
)
from ._results import FinishReason
from ._retry import Retry
from .v1 import control_pb2, control_pb2_grpc, generate_pb2, inference_pb2_grpc, tokenize_pb2

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Unary(Generic[Answer]):
    """A call with one answer."""

    method: Callable[..., Any]
    request: Any
    read: Callable[[Any], Answer]


class Connection:
    """A channel and its stubs."""

    _grpc: ClassVar[Any]
    """The package that makes the channel: grpc or grpc.aio."""

    def __init__(
        self,
        address: str = "localhost:50051",
        *,
        api_key: str | None = None,
        tls: Tls | bool = False,
        timeout: float = TIMEOUT,
        retry: Retry | None = None,
        metadata: Mapping[str, str] | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        secure = Tls() if tls is True else tls or None
        self._defaults = Defaults(timeout, retry or Retry(), metadata or {}, api_key)
        arguments = channel_options(secure, options)
        self._channel = (
            self._grpc.insecure_channel(address, arguments)
            if secure is None
            else self._grpc.secure_channel(address, secure.credentials(), arguments)
        )
        self.inference = inference_pb2_grpc.InferenceStub(self._channel)
        """The generated stub of the service Inference, for what this class has no method for."""
        self.control = control_pb2_grpc.ControlStub(self._channel)
        """The generated stub of the service Control."""
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def _generation(
        self, prompt: Prompt | None, messages: Messages | None, options: GenerateOptions
    ) -> Unary[_results.Generation]:
        request = _requests.generate_request(prompt, messages, options)
        return Unary(self.inference.Complete, request, _results.generation_of)

    def _generating(
        self, prompt: Prompt | None, messages: Messages | None, options: GenerateOptions
    ) -> tuple[Callable[[], Any], Progress]:
        """What opens a stream, again and again, and what keeps account of it."""
        request = _requests.generate_request(prompt, messages, options)
        call = self._defaults.call(options)

        def open_call() -> Any:
            return self.inference.Generate(
                request, timeout=call.remaining(), metadata=call.metadata
            )

        return open_call, Progress(call, options.get("n") or 1)

    def _tokens(
        self, text: str | Messages, add_special_tokens: bool | None, options: ModelOptions
    ) -> Unary[_results.Tokens]:
        request = _requests.tokenize_request(text, add_special_tokens, options.get("model"))
        return Unary(self.inference.Tokenize, request, _results.tokens_of)

    def _text(self, token_ids: Iterable[int], options: ModelOptions) -> Unary[str]:
        request = tokenize_pb2.DetokenizeRequest(
            model=options.get("model") or "", token_ids=token_ids
        )
        return Unary(self.inference.Detokenize, request, lambda answer: str(answer.text))

    def _embeddings(
        self, inputs: str | Sequence[str], options: EmbedOptions
    ) -> Unary[_results.Embeddings]:
        request = _requests.embed_request(inputs, options)
        return Unary(self.inference.Embed, request, _results.embeddings_of)

    def _ranking(
        self, query: str, texts: Sequence[str], options: RerankOptions
    ) -> Unary[_results.Ranking]:
        request = _requests.rerank_request(query, texts, options)
        return Unary(self.inference.Rerank, request, _results.ranking_of)

    def _classifications(
        self, inputs: str | Sequence[str], options: ClassifyOptions
    ) -> Unary[_results.Classifications]:
        request = _requests.classify_request(inputs, options)
        return Unary(self.inference.Classify, request, _results.classifications_of)

    def _models(self) -> Unary[list[_results.Model]]:
        request = control_pb2.ListModelsRequest()
        return Unary(
            self.control.ListModels, request, lambda answer: _results.models_of(answer.models)
        )

    def _loads(self) -> Unary[list[_results.Load]]:
        request = control_pb2.GetLoadRequest()
        return Unary(self.control.GetLoad, request, lambda answer: _results.loads_of(answer.loads))

    def _serving(self, service: str) -> Unary[bool]:
        request = health_pb2.HealthCheckRequest(service=service)
        serving = health_pb2.HealthCheckResponse.SERVING
        return Unary(self._health.Check, request, lambda answer: bool(answer.status == serving))


class Closing:
    """A stream whose work on the server ends with it."""

    _call: Any

    def close(self) -> None:
        """Ends the work on the server. Closing twice is fine."""
        self._call.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_call"):
            self.close()


class Generating(Closing):
    """A generation that is read as it comes."""

    def __init__(self, open_call: Callable[[], Any], progress: Progress) -> None:
        self._open = open_call
        self._progress = progress
        self._closed = False
        self._call = open_call()

    def _take(self, response: generate_pb2.GenerateResponse) -> _results.Delta | None:
        return self._progress.take(response)

    def _end(self) -> None:
        self._closed = True
        self._progress.check_whole()

    def _pause(self, error: Any) -> float:
        """How long to wait before the stream is opened again; raises if it is not."""
        try:
            return self._progress.pause(self._progress.call.failure(error))
        except PaternosterError as final:
            self._closed = True
            raise final from error

    def _whole(self) -> _results.Generation:
        """Everything, once it was read to its end."""
        if len(self._progress.finished) < self._progress.n:
            raise self._progress.broken("the stream was closed before its end")
        return self._progress.generation()

    def finish_reason(self, index: int = 0) -> FinishReason | None:
        """Why a sequence ended; None while it goes on."""
        return self._progress.finish_reason(index)

    @property
    def request_id(self) -> str:
        """The name of the request, as it stands in the server's log."""
        return self._progress.request_id

    def close(self) -> None:
        """Ends the work on the server. Closing twice is fine."""
        self._closed = True
        super().close()
