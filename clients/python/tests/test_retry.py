"""When a call is made again, against a server that fails on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from bridge import KINDS, connect
from flaky import DELTA, FINISHED, STARTED, Fail, serving

from paternoster import (
    GenerationError,
    IncompleteGenerationError,
    OverloadedError,
    PaternosterError,
    Retry,
    Unauthenticated,
    Unavailable,
    ValidationError,
)

GONE = Fail(grpc.StatusCode.UNAVAILABLE)
FULL = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=0.001)
FULL_FOR_GOOD = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA")
TOO_LARGE = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
BROKEN = Fail(grpc.StatusCode.INTERNAL, "PANIC")
KEY = Fail(grpc.StatusCode.UNAUTHENTICATED, "API_KEY")
SOON = Fail(grpc.StatusCode.UNAVAILABLE, pushback="1")
NEVER = Fail(grpc.StatusCode.UNAVAILABLE, pushback="-1")
LATER = Fail(grpc.StatusCode.UNAVAILABLE, pushback="3600000")
GARBAGE = Fail(grpc.StatusCode.UNAVAILABLE, pushback="soon")
PASSED = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=-0.5)
RAW = Fail(grpc.StatusCode.INVALID_ARGUMENT, raw=b"\xff\xff")
GOOD = [STARTED, DELTA, FINISHED]


@dataclass(frozen=True)
class Case:
    """What the server does, attempt by attempt; how many there are; how the call ends."""

    script: list[list[Any]]
    attempts: int
    error: type[PaternosterError] | None = None


BEFORE_THE_FIRST_TOKEN = {
    "nothing fails": Case([GOOD], 1),
    "unavailable, then not": Case([[GONE], [GONE], GOOD], 3),
    "overloaded with a hint": Case([[FULL], GOOD], 2),
    "overloaded without a hint": Case([[FULL_FOR_GOOD], GOOD], 1, OverloadedError),
    "too large": Case([[TOO_LARGE], GOOD], 1, ValidationError),
    "a fault": Case([[BROKEN], GOOD], 1, GenerationError),
    "no key": Case([[KEY], GOOD], 1, Unauthenticated),
    "four attempts and no more": Case([[GONE]] * 4 + [GOOD], 4, Unavailable),
    "pushed back": Case([[SOON], GOOD], 2),
    "pushed back for good": Case([[NEVER], GOOD], 1, Unavailable),
    "pushed back past the deadline": Case([[LATER], GOOD], 1, Unavailable),
    "pushed back by garbage": Case([[GARBAGE], GOOD], 1, Unavailable),
    "a time to come back that has passed": Case([[PASSED], GOOD], 2),
    "details that do not parse": Case([[RAW], GOOD], 1, ValidationError),
}
IN_A_STREAM = {
    "started is not a token": Case([[STARTED, GONE], GOOD], 2),
    "after the first token": Case([[STARTED, DELTA, GONE], GOOD], 1, IncompleteGenerationError),
    "a fault after it": Case([[STARTED, DELTA, BROKEN], GOOD], 1, IncompleteGenerationError),
    "a good end too early": Case([[STARTED, DELTA], GOOD], 1, IncompleteGenerationError),
    "a good end before all": Case([[], GOOD], 1, IncompleteGenerationError),
}
QUICK = Retry(first=0.001)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", BEFORE_THE_FIRST_TOKEN.values(), ids=BEFORE_THE_FIRST_TOKEN)
def test_whole(kind: str, case: Case) -> None:
    check(kind, case, lambda client: client.generate("x").text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "case",
    [*BEFORE_THE_FIRST_TOKEN.values(), *IN_A_STREAM.values()],
    ids=[*BEFORE_THE_FIRST_TOKEN, *IN_A_STREAM],
)
def test_streamed(kind: str, case: Case) -> None:
    check(kind, case, lambda client: "".join(one.text for one in client.generate_stream("x")))


def check(kind: str, case: Case, ask: Any) -> None:
    with serving(case.script) as (flaky, address), connect(kind, address, retry=QUICK) as client:
        if case.error is None:
            assert ask(client) == "ab"
        else:
            with pytest.raises(case.error) as caught:
                ask(client)
            assert type(caught.value) is case.error
            assert caught.value.request_id in {flaky.metadata[0]["x-request-id"], "r"}
        assert flaky.attempts == case.attempts


@pytest.mark.parametrize("kind", KINDS)
def test_what_had_arrived_is_in_the_exception(kind: str) -> None:
    script = [[STARTED, DELTA, DELTA, BROKEN]]
    with serving(script) as (_, address), connect(kind, address) as client:
        with pytest.raises(IncompleteGenerationError) as caught:
            client.generate_stream("x").result()
        assert caught.value.text == {0: "abab"}
        assert caught.value.reason == "PANIC"


@pytest.mark.parametrize("kind", KINDS)
def test_overload_says_when_to_come_back(kind: str) -> None:
    once = Retry(attempts=1)
    full = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=0.25)
    with serving([[full]]) as (_, address), connect(kind, address, retry=once) as client:
        with pytest.raises(OverloadedError) as caught:
            client.embed(["x"])
        assert caught.value.retry_after == 0.25
        assert caught.value.reason == "QUEUE_FULL"


@pytest.mark.parametrize("kind", KINDS)
def test_all_attempts_share_one_name_and_one_deadline(kind: str) -> None:
    # A second in all, of which a busy machine may add to the first attempt and take from the last.
    wait = Fail(grpc.StatusCode.UNAVAILABLE, pushback="500")
    script: list[list[Any]] = [[wait], [wait], GOOD]
    with serving(script) as (flaky, address), connect(kind, address) as client:
        client.generate("x", timeout=10)
        assert len({sent["x-request-id"] for sent in flaky.metadata}) == 1
        first, _, last = flaky.time_left
        assert last < first - 0.5, "each attempt has what is left, not a deadline of its own"


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_has_a_deadline_if_nobody_says_so(kind: str) -> None:
    with serving([GOOD] * 3) as (flaky, address), connect(kind, address) as client:
        client.generate("x")
        client.generate("x", timeout=float("inf"))
        assert 50 < flaky.time_left[0] < 70
        assert flaky.time_left[1] is None or flaky.time_left[1] > 1e6


@pytest.mark.parametrize("kind", KINDS)
def test_metadata(kind: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    options: dict[str, Any] = {"api_key": "secret", "metadata": {"x-team": "blue"}}
    with serving([GOOD]) as (flaky, address), connect(kind, address, **options) as client:
        client.generate("x", traceparent=trace, request_id="mine", metadata={"x-step": "1"})
        sent = flaky.metadata[0]
        assert sent["authorization"] == "Bearer secret"
        assert sent["traceparent"] == trace
        assert sent["x-request-id"] == "mine"
        assert (sent["x-team"], sent["x-step"]) == ("blue", "1")
        assert "secret" not in repr(client)
