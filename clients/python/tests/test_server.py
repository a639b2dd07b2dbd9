"""Against the real server: what a list of scenarios does not say."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from bridge import KINDS, connect
from scenarios import wait_idle

from paternoster import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    FinishReason,
    GenerateOptions,
    IncompleteGenerationError,
    Message,
    NotFound,
    Retry,
    Unavailable,
)

CANCELLED = "paternoster_client_cancellations_total"
ENDLESS: GenerateOptions = {"max_tokens": 2000, "ignore_eos": True}


def metric(address: str, name: str, label: str = "") -> float:
    """The sum of a metric's series that have this label."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    series = [line.rsplit(" ", 1) for line in lines if line.split("{")[0] == name and label in line]
    assert series, f"no series {name}"
    return sum(float(value) for _, value in series)


def wait_nothing_active(address: str) -> None:
    """Looks until no request runs and no KV block is in use."""
    end = time.monotonic() + 60
    blocks = ("paternoster_kv_blocks", 'state="active"')
    while metric(address, "paternoster_requests_running") or metric(address, *blocks):
        assert time.monotonic() < end, "the server still works on abandoned streams"


def test_a_thousand_abandoned_iterators_leave_nothing(address: str) -> None:
    cancelled = metric(address, CANCELLED)
    with Client(address) as client:

        def abandon(number: int) -> str:
            for delta in client.generate_stream(f"Count from {number}.", **ENDLESS):
                return delta.text
            raise AssertionError("no delta")

        with ThreadPoolExecutor(16) as pool:
            assert len(list(pool.map(abandon, range(1000)))) == 1000
        wait_nothing_active(address)
    assert metric(address, CANCELLED) - cancelled == 1000


def test_a_thousand_abandoned_asynchronous_iterators_leave_nothing(address: str) -> None:
    cancelled = metric(address, CANCELLED)

    async def abandon(client: AsyncClient, number: int) -> str:
        async for delta in client.generate_stream(f"Count from {number}.", **ENDLESS):
            return delta.text
        raise AssertionError("no delta")

    async def everyone() -> list[str]:
        async with AsyncClient(address) as client:
            texts = []
            for first in range(0, 1000, 50):
                some = range(first, first + 50)
                texts += await asyncio.gather(*(abandon(client, one) for one in some))
            await asyncio.to_thread(wait_nothing_active, address)
            return texts

    assert len(asyncio.run(everyone())) == 1000
    assert metric(address, CANCELLED) - cancelled == 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_was_closed_ends_quietly(kind: str, address: str) -> None:
    cancelled = metric(address, CANCELLED)
    with connect(kind, address) as client:
        stream = client.generate_stream("Hello", **ENDLESS)
        next(stream)
        stream.close()
        stream.close()
        assert list(stream) == []
        assert stream.finish_reason() is None
        with pytest.raises(IncompleteGenerationError) as caught:
            stream.result()
        assert caught.value.text[0]
        wait_idle(client)
        assert metric(address, CANCELLED) == cancelled + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_is_closed_ends_its_streams(kind: str, address: str) -> None:
    with connect(kind, address) as client:
        stream = client.generate_stream("Hello", **ENDLESS)
        next(stream)
    wait_nothing_active(address)


@pytest.mark.parametrize("kind", KINDS)
def test_a_deadline_ends_a_running_stream(kind: str, address: str) -> None:
    with connect(kind, address, timeout=0.05) as client:
        with pytest.raises(DeadlineExceeded):
            client.generate_stream("Hello", **ENDLESS).result()
        wait_nothing_active(address)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_and_the_whole_are_equal(kind: str, address: str) -> None:
    options = {"max_tokens": 20, "temperature": 3.0, "seed": 7, "n": 3, "logprobs": 2, "echo": True}
    with connect(kind, address) as client:
        whole = client.generate("Name", request_id="same", **options)
        streamed = client.generate_stream("Name", request_id="same", **options).result()
        assert streamed.completions == whole.completions
        assert streamed.usage.generated_tokens == whole.usage.generated_tokens
        assert streamed.request_id == whole.request_id == "same"
        assert len({one.text for one in whole.completions}) == 3
        assert len(whole.completions[0].logprobs[0].top) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_chats_take_messages_of_both_forms(kind: str, address: str) -> None:
    with connect(kind, address) as client:
        mapping = client.chat([{"role": "user", "content": "Great, thanks."}], max_tokens=20)
        message = client.chat([Message("user", "Great, thanks.")], max_tokens=20)
        assert mapping.text == message.text == "You are welcome."
        assert mapping.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("kind", KINDS)
def test_one_text_is_a_list_of_one(kind: str, address: str) -> None:
    with connect(kind, address) as client:
        assert len(client.embed("A lift that never stops.").vectors) == 1
        assert client.embed("Hello", pooling="cls", normalize=True).model == "demo-embed"


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_caller_raises_comes_back(kind: str, address: str) -> None:
    def batches() -> Iterator[list[str]]:
        yield ["first"]
        raise KeyError("mine")

    with connect(kind, address) as client, pytest.raises(KeyError, match="mine"):
        list(client.embed_stream(batches()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_of_ten_thousand_batches(kind: str, address: str) -> None:
    with connect(kind, address, timeout=300) as client:
        batches = ([f"text {number}"] for number in range(10_000))
        assert sum(len(answer.vectors) for answer in client.embed_stream(batches)) == 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_health(kind: str, address: str) -> None:
    with connect(kind, address) as client:
        assert client.health()
        assert client.health("model/demo")


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_there(kind: str) -> None:
    options = {"retry": Retry(attempts=2, first=0.001)}
    with connect(kind, "127.0.0.1:1", **options) as client:
        with pytest.raises(Unavailable) as caught:
            client.generate("Hello")
        assert caught.value.request_id


@pytest.mark.parametrize("kind", KINDS)
def test_scores_reach_the_server(kind: str, address: str) -> None:
    """The demo models have no reranker and no classifier; the server says which way it cannot."""
    with connect(kind, address) as client:
        with pytest.raises(NotFound):
            client.rerank("q", ["a"])
        with pytest.raises(NotFound):
            client.classify("a")
