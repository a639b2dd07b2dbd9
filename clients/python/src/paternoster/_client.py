"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar

import grpc
from typing_extensions import Self, Unpack

from . import _requests, _results
from ._call import Call
from ._connection import Answer, Closing, Connection, Generating, Unary
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
from .v1 import embed_pb2


class TextStream(Generating, Iterator[_results.Delta]):
    """The deltas of one generation. Closing it, or dropping it, ends the work on the server."""

    def __next__(self) -> _results.Delta:
        while not self._closed:
            try:
                response = next(self._call)
            except StopIteration:
                self._end()
            except grpc.RpcError as error:
                time.sleep(self._pause(error))
                self._call = self._open()
            else:
                delta = self._take(response)
                if delta is not None:
                    return delta
        raise StopIteration

    def result(self) -> _results.Generation:
        """Reads to the end and returns everything, what was read before included."""
        for _ in self:
            pass
        return self._whole()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EmbedStream(Closing, Iterator[_results.Embeddings]):
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client(Connection):
    """A connection to a server. Safe to share between threads; close it, or use it in `with`."""

    _grpc: ClassVar[Any] = grpc

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
        return self._unary(self._generation(prompt, None, options), options)

    def generate_stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> TextStream:
        """Continues a prompt and returns the answer as it comes."""
        return TextStream(*self._generating(prompt, None, options))

    def chat(self, messages: Messages, **options: Unpack[GenerateOptions]) -> _results.Generation:
        """Continues a conversation and returns the whole answer."""
        return self._unary(self._generation(None, messages, options), options)

    def chat_stream(self, messages: Messages, **options: Unpack[GenerateOptions]) -> TextStream:
        """Continues a conversation and returns the answer as it comes."""
        return TextStream(*self._generating(None, messages, options))

    def tokenize(
        self,
        text: str | Messages,
        *,
        add_special_tokens: bool | None = None,
        **options: Unpack[ModelOptions],
    ) -> _results.Tokens:
        """Turns a text, or a conversation, into tokens."""
        return self._unary(self._tokens(text, add_special_tokens, options), options)

    def detokenize(self, token_ids: Iterable[int], **options: Unpack[ModelOptions]) -> str:
        """Turns tokens into text."""
        return self._unary(self._text(token_ids, options), options)

    # === vectors and scores ===

    def embed(
        self, inputs: str | Sequence[str], **options: Unpack[EmbedOptions]
    ) -> _results.Embeddings:
        """Embeds texts: one vector for each."""
        return self._unary(self._embeddings(inputs, options), options)

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
        return self._unary(self._ranking(query, texts, options), options)

    def classify(
        self, inputs: str | Sequence[str], **options: Unpack[ClassifyOptions]
    ) -> _results.Classifications:
        """Sorts texts into the model's classes."""
        return self._unary(self._classifications(inputs, options), options)

    # === the server ===

    def models(self, **options: Unpack[CallOptions]) -> list[_results.Model]:
        """The models served, in the order of the server's command line."""
        return self._unary(self._models(), options)

    def loads(self, **options: Unpack[CallOptions]) -> list[_results.Load]:
        """How busy each model is."""
        return self._unary(self._loads(), options)

    def health(self, service: str = "", **options: Unpack[CallOptions]) -> bool:
        """Whether a service is SERVING: the empty one, "model/NAME", "liveness" and others."""
        return self._unary(self._serving(service), options)

    # === calls ===

    def _unary(self, unary: Unary[Answer], options: CallOptions) -> Answer:
        call = self._defaults.call(options)
        while True:
            try:
                answer = unary.method(
                    unary.request, timeout=call.remaining(), metadata=call.metadata
                )
            except grpc.RpcError as error:
                try:
                    pause = call.pause(call.failure(error))
                except PaternosterError as final:
                    raise final from error
                time.sleep(pause)
            else:
                return unary.read(answer)
