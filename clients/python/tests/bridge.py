"""Either client behind one blocking face, so that every test is one test of both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

from paternoster import AsyncClient, Client

KINDS = ["sync", "asyncio"]


class Bridge:
    """`AsyncClient`, or one of its streams, driven on a loop of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, inner: Any) -> None:
        self._loop = loop
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        return self._call(attribute) if callable(attribute) else attribute

    def _call(self, method: Any) -> Any:
        def call(*positional: Any, **named: Any) -> Any:
            async def inside() -> Any:
                answer = method(*positional, **named)
                return await answer if inspect.isawaitable(answer) else answer

            answer = self._loop.run_until_complete(inside())
            return Bridge(self._loop, answer) if hasattr(answer, "__anext__") else answer

        return call

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self._loop.run_until_complete(self._inner.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._inner.__aexit__(None, None, None))
        if isinstance(self._inner, AsyncClient):
            self._loop.close()


def connect(kind: str, address: str, **options: Any) -> Any:
    """A client of this kind; to be used in `with`."""
    if kind == "sync":
        return Client(address, **options)
    loop = asyncio.new_event_loop()

    async def make() -> AsyncClient:
        return AsyncClient(address, **options)

    return Bridge(loop, loop.run_until_complete(make()))
