"""The client for asyncio: `Client` with `await`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, ClassVar

import grpc
import grpc.aio
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


class AsyncTextStream(Generating, AsyncIterator[_results.Delta]):
    """The deltas of one generation. Closing it, or dropping it, ends the work on the server."""

    async def __anext__(self) -> _results.Delta:
        while not self._closed:
            try:
                response = await self._call.read()
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(self._pause(error))
                self._call = self._open()
                continue
            if response is grpc.aio.EOF:
                self._end()
            elif (delta := self._take(response)) is not None:
                return delta
        raise StopAsyncIteration

    async def result(self) -> _results.Generation:
        """Reads to the end and returns everything, what was read before included."""
        async for _ in self:
            pass
        return self._whole()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class AsyncEmbedStream(Closing, AsyncIterator[_results.Embeddings]):
    """The answers to batches of texts, in order. It is never tried again: its input is gone."""

    def __init__(
        self, call: Call, batches: AsyncIterator[embed_pb2.EmbedRequest], method: Callable[..., Any]
    ) -> None:
        self._state = call
        self._input_error: Exception | None = None
        requests = self._watched(batches)
        self._call = method(requests, timeout=call.remaining(), metadata=call.metadata)

    async def _watched(
        self, batches: AsyncIterator[embed_pb2.EmbedRequest]
    ) -> AsyncIterator[embed_pb2.EmbedRequest]:
        """An exception of the caller's own iterator comes back to the caller as it is."""
        try:
            async for batch in batches:
                yield batch
        except Exception as error:
            self._input_error = error
            self._call.cancel()
            raise

    async def __anext__(self) -> _results.Embeddings:
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise error_of(self._state.failure(error)) from error
        except asyncio.CancelledError:
            if self._input_error is not None:
                raise self._input_error from None
            raise
        if response is grpc.aio.EOF:
            raise StopAsyncIteration
        return _results.embeddings_of(response)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class AsyncClient(Connection):
    """A connection to a server, to be made inside a running event loop. Close it, or use it in
    `async with`."""

    _grpc: ClassVar[Any] = grpc.aio

    async def close(self) -> None:
        """Closes the connection and ends its calls."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # === text ===

    async def generate(
        self, prompt: Prompt, **options: Unpack[GenerateOptions]
    ) -> _results.Generation:
        """Continues a prompt and returns the whole answer."""
        return await self._unary(self._generation(prompt, None, options), options)

    def generate_stream(
        self, prompt: Prompt, **options: Unpack[GenerateOptions]
    ) -> AsyncTextStream:
        """Continues a prompt and returns the answer as it comes."""
        return AsyncTextStream(*self._generating(prompt, None, options))

    async def chat(
        self, messages: Messages, **options: Unpack[GenerateOptions]
    ) -> _results.Generation:
        """Continues a conversation and returns the whole answer."""
        return await self._unary(self._generation(None, messages, options), options)

    def chat_stream(
        self, messages: Messages, **options: Unpack[GenerateOptions]
    ) -> AsyncTextStream:
        """Continues a conversation and returns the answer as it comes."""
        return AsyncTextStream(*self._generating(None, messages, options))

    async def tokenize(
        self,
        text: str | Messages,
        *,
        add_special_tokens: bool | None = None,
        **options: Unpack[ModelOptions],
    ) -> _results.Tokens:
        """Turns a text, or a conversation, into tokens."""
        return await self._unary(self._tokens(text, add_special_tokens, options), options)

    async def detokenize(self, token_ids: Iterable[int], **options: Unpack[ModelOptions]) -> str:
        """Turns tokens into text."""
        return await self._unary(self._text(token_ids, options), options)

    # === vectors and scores ===

    async def embed(
        self, inputs: str | Sequence[str], **options: Unpack[EmbedOptions]
    ) -> _results.Embeddings:
        """Embeds texts: one vector for each."""
        return await self._unary(self._embeddings(inputs, options), options)

    def embed_stream(
        self,
        batches: Iterable[Sequence[str]] | AsyncIterable[Sequence[str]],
        **options: Unpack[EmbedOptions],
    ) -> AsyncEmbedStream:
        """Embeds any number of batches: one answer for each, in order. The batches are read as the
        server takes them. The deadline is that of the whole stream."""
        requests = (_requests.embed_request(batch, options) async for batch in _async(batches))
        return AsyncEmbedStream(self._defaults.call(options), requests, self.inference.EmbedStream)

    async def rerank(
        self, query: str, texts: Sequence[str], **options: Unpack[RerankOptions]
    ) -> _results.Ranking:
        """Orders texts by how well they answer a query."""
        return await self._unary(self._ranking(query, texts, options), options)

    async def classify(
        self, inputs: str | Sequence[str], **options: Unpack[ClassifyOptions]
    ) -> _results.Classifications:
        """Sorts texts into the model's classes."""
        return await self._unary(self._classifications(inputs, options), options)

    # === the server ===

    async def models(self, **options: Unpack[CallOptions]) -> list[_results.Model]:
        """The models served, in the order of the server's command line."""
        return await self._unary(self._models(), options)

    async def loads(self, **options: Unpack[CallOptions]) -> list[_results.Load]:
        """How busy each model is."""
        return await self._unary(self._loads(), options)

    async def health(self, service: str = "", **options: Unpack[CallOptions]) -> bool:
        """Whether a service is SERVING: the empty one, "model/NAME", "liveness" and others."""
        return await self._unary(self._serving(service), options)

    # === calls ===

    async def _unary(self, unary: Unary[Answer], options: CallOptions) -> Answer:
        call = self._defaults.call(options)
        while True:
            try:
                answer = await unary.method(
                    unary.request, timeout=call.remaining(), metadata=call.metadata
                )
            except grpc.aio.AioRpcError as error:
                try:
                    pause = call.pause(call.failure(error))
                except PaternosterError as final:
                    raise final from error
                await asyncio.sleep(pause)
            else:
                return unary.read(answer)


async def _async(
    batches: Iterable[Sequence[str]] | AsyncIterable[Sequence[str]],
) -> AsyncIterator[Sequence[str]]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
    else:
        for batch in batches:
            yield batch
