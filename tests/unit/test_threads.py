"""Calls that threads make ahead: their order, how many there are at once, and errors."""

from __future__ import annotations

import threading

import pytest

from tasks.fetch.errors import NetworkError
from tasks.fetch.threads import call_ahead


def test_results_are_in_order_and_calls_at_once() -> None:
    together = threading.Barrier(4)

    def call(number: int) -> int:
        together.wait(60)  # of four: one after another, it would fail
        return number * 2

    found = call_ahead(call, range(12), 4, lambda _: 1, 100)
    assert list(found) == [number * 2 for number in range(12)]


@pytest.mark.parametrize(("most", "expected"), [(7, 3), (2, 1), (0, 1), (100, 5)])
def test_calls_are_ahead_by_their_cost_at_most(most: int, expected: int) -> None:
    lock, begun, most_ahead = threading.Lock(), 0, 0

    def call(number: int) -> int:
        nonlocal begun
        with lock:
            begun += 1
        return number

    for number in call_ahead(call, range(40), 5, lambda _: 2, most):
        with lock:
            most_ahead = max(most_ahead, begun - number)
    assert begun == 40
    assert most_ahead <= expected


def test_error_is_raised_in_its_place() -> None:
    def call(number: int) -> int:
        if number == 3:
            raise NetworkError("no host")
        return number

    found = call_ahead(call, range(9), 4, lambda _: 1, 100)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(NetworkError, match="no host"):
        next(found)
