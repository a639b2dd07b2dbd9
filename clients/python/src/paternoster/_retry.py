"""When a failed call is made again. The rule is the same in all of Paternoster's clients."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import grpc

from ._errors import Failure

_PAUSE_MAX = 2**31 / 1000
"""Seconds; the longest pushback that means a time."""


@dataclass(frozen=True)
class Retry:
    """UNAVAILABLE, and RESOURCE_EXHAUSTED where the server says when to come back, are tried again
    while no token has arrived and the deadline allows it."""

    attempts: int = 4
    """Calls in all; 1 never tries again."""
    first: float = 0.1
    """Seconds before the second attempt; doubled for each further one."""
    longest: float = 5.0
    """The longest of these pauses, in seconds."""

    def pause(self, attempt: int, failure: Failure, remaining: float | None) -> float | None:
        """How many seconds to wait after the attempt of this number, from 1; None gives up."""
        overloaded = failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        again = failure.code == grpc.StatusCode.UNAVAILABLE or (
            overloaded and failure.retry_after is not None
        )
        if not again or attempt >= self.attempts:
            return None
        pause = self._length(attempt, failure)
        possible = math.inf if remaining is None else remaining
        return pause if pause is not None and pause < min(possible, _PAUSE_MAX) else None

    def _length(self, attempt: int, failure: Failure) -> float | None:
        if failure.pushback is not None:
            # gRFC A6: a value that is negative or not a number means not to try again.
            return (
                int(failure.pushback) / 1000
                if failure.pushback.isascii() and failure.pushback.isdigit()
                else None
            )
        if failure.retry_after is not None:
            return max(0.0, failure.retry_after)
        doubled = self.first * 2 ** min(attempt - 1, 30)
        return float(min(self.longest, doubled) * random.uniform(0.8, 1.2))
