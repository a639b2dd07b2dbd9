"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typing_extensions import Self, Unpack

from . import _requests, _results
from ._call import TIMEOUT, Call, Defaults, Progress, Tls, channel_options
from ._errors import PaternosterError, error_of
from ._requests import (
    CallOptions,
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
from .v1 import (
    control_pb2,
    control_pb2_grpc,
    embed_pb2,
    generate_pb2,
    inference_pb2_grpc,
    tokenize_pb2,
)

Request = TypeVar("Request")
Response = TypeVar("Response")
Opened = Callable[[], Any]


class TextStream(Iterator[_results.Delta]):
    """The deltas of one generation. Closing it, or dropping it, ends the work on the server."""

    def __init__(self, open_call: Opened, progress: Progress) -> None:
        self._open = open_call
        self._progress = progress
        self._closed = False
        self._call = open_call()

    def __next__(self) -> _results.Delta:
        while not self._closed:
            try:
                response = next(self._call)
            except StopIteration:
                self._closed = True
                self._progress.check_whole()
            except grpc.RpcError as error:
                self._again(error)
            else:
                delta = self._progress.take(response)
                if delta is not None:
                    return delta
        raise StopIteration

    def _again(self, error: grpc.RpcError) -> None:
        try:
            pause = self._progress.pause(self._progress.call.failure(error))
        except PaternosterError as final:
            self._closed = True
            raise final from error
        time.sleep(pause)
        self._call = self._open()

    def result(self) -> _results.Generation:
        """Reads to the end and returns everything, what was read before included."""
        for _ in self:
            pass
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
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_call"):
            self.close()


class EmbedStream(Iterator[_results.Embeddings]):
    """The answers to batches of texts, in order. It is never tried again: its input is gone."""

    def __init__(
        self, call: Call, batches: Iterable[embed_pb2.EmbedRequest], method: Callable[..., Any]
    ) -> None:
        self._state = call
        self._input_error: Exception | None = None
        requests = self._watched(batches)
        self._call = method(requests, timeout=call.remaining(), metadata=call.metadata)

    def _watched(
        self, batches: Iterable[embed_pb2.EmbedRequest]
    ) -> Iterator[embed_pb2.EmbedRequest]:
        """An exception of the caller's own iterator comes back to the caller as it is."""
        try:
            yield from batches
        except Exception as error:
            self._input_error = error
            raise

    def __next__(self) -> _results.Embeddings:
        try:
            return _results.embeddings_of(next(self._call))
        except grpc.RpcError as error:
            if self._input_error is not None:
                raise self._input_error from None
            raise error_of(self._state.failure(error)) from error

    def close(self) -> None:
        """Ends the work on the server. Closing twice is fine."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_call"):
            self.close()


class Client:
    """A connection to a server. Safe to share between threads; close it, or use it in `with`."""

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
            grpc.insecure_channel(address, arguments)
            if secure is None
            else grpc.secure_channel(address, secure.credentials(), arguments)
        )
        self.inference = inference_pb2_grpc.InferenceStub(self._channel)
        """The generated stub of the service Inference, for what this class has no method for."""
        self.control = control_pb2_grpc.ControlStub(self._channel)
        """The generated stub of the service Control."""
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def close(self) -> None:
        """Closes the connection and ends its calls."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # === text ===

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> _results.Generation:
        """Continues a prompt and returns the whole answer."""
        return self._complete(_requests.generate_request(prompt, None, options), options)

    def generate_stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> TextStream:
        """Continues a prompt and returns the answer as it comes."""
        return self._stream(_requests.generate_request(prompt, None, options), options)

    def chat(self, messages: Messages, **options: Unpack[GenerateOptions]) -> _results.Generation:
        """Continues a conversation and returns the whole answer."""
        return self._complete(_requests.generate_request(None, messages, options), options)

    def chat_stream(self, messages: Messages, **options: Unpack[GenerateOptions]) -> TextStream:
        """Continues a conversation and returns the answer as it comes."""
        return self._stream(_requests.generate_request(None, messages, options), options)

    def tokenize(
        self,
        text: str | Messages,
        *,
        add_special_tokens: bool | None = None,
        **options: Unpack[ModelOptions],
    ) -> _results.Tokens:
        """Turns a text, or a conversation, into tokens."""
        request = _requests.tokenize_request(text, add_special_tokens, options.get("model"))
        return _results.tokens_of(self._unary(self.inference.Tokenize, request, options))

    def detokenize(self, token_ids: Iterable[int], **options: Unpack[ModelOptions]) -> str:
        """Turns tokens into text."""
        request = tokenize_pb2.DetokenizeRequest(
            model=options.get("model") or "", token_ids=token_ids
        )
        return self._unary(self.inference.Detokenize, request, options).text

    # === vectors and scores ===

    def embed(
        self, inputs: str | Sequence[str], **options: Unpack[EmbedOptions]
    ) -> _results.Embeddings:
        """Embeds texts: one vector for each."""
        request = _requests.embed_request(inputs, options)
        return _results.embeddings_of(self._unary(self.inference.Embed, request, options))

    def embed_stream(
        self, batches: Iterable[Sequence[str]], **options: Unpack[EmbedOptions]
    ) -> EmbedStream:
        """Embeds any number of batches: one answer for each, in order. The batches are read as the
        server takes them. The deadline is that of the whole stream."""
        requests = (_requests.embed_request(batch, options) for batch in batches)
        return EmbedStream(self._defaults.call(options), requests, self.inference.EmbedStream)

    def rerank(
        self, query: str, texts: Sequence[str], **options: Unpack[RerankOptions]
    ) -> _results.Ranking:
        """Orders texts by how well they answer a query."""
        request = _requests.rerank_request(query, texts, options)
        return _results.ranking_of(self._unary(self.inference.Rerank, request, options))

    def classify(
        self, inputs: str | Sequence[str], **options: Unpack[ClassifyOptions]
    ) -> _results.Classifications:
        """Sorts texts into the model's classes."""
        request = _requests.classify_request(inputs, options)
        return _results.classifications_of(self._unary(self.inference.Classify, request, options))

    # === the server ===

    def models(self, **options: Unpack[CallOptions]) -> list[_results.Model]:
        """The models served, in the order of the server's command line."""
        request = control_pb2.ListModelsRequest()
        return _results.models_of(self._unary(self.control.ListModels, request, options).models)

    def loads(self, **options: Unpack[CallOptions]) -> list[_results.Load]:
        """How busy each model is."""
        request = control_pb2.GetLoadRequest()
        answer = self._unary(self.control.GetLoad, request, options)
        return _results.loads_of(answer.loads)

    def health(self, service: str = "", **options: Unpack[CallOptions]) -> bool:
        """Whether a service is SERVING: the empty one, "model/NAME", "liveness" and others."""
        request = health_pb2.HealthCheckRequest(service=service)
        answer = self._unary(self._health.Check, request, options)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    # === calls ===

    def _complete(
        self, request: generate_pb2.GenerateRequest, options: GenerateOptions
    ) -> _results.Generation:
        return _results.generation_of(self._unary(self.inference.Complete, request, options))

    def _stream(
        self, request: generate_pb2.GenerateRequest, options: GenerateOptions
    ) -> TextStream:
        call = self._defaults.call(options)

        def open_call() -> Any:
            return self.inference.Generate(
                request, timeout=call.remaining(), metadata=call.metadata
            )

        return TextStream(open_call, Progress(call, options.get("n") or 1))

    def _unary(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        options: CallOptions,
    ) -> Response:
        call = self._defaults.call(options)
        while True:
            try:
                return method(request, timeout=call.remaining(), metadata=call.metadata)
            except grpc.RpcError as error:
                try:
                    pause = call.pause(call.failure(error))
                except PaternosterError as final:
                    raise final from error
                time.sleep(pause)
