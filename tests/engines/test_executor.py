"""Blocks done in threads: their order, and what is left of them when one stops."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from influx.engines.executor import Local
from influx.errors import Interrupted


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
def test_results_come_in_order(at_once: int) -> None:
    def later_is_faster(block: int) -> int:
        time.sleep(0.002 * (5 - block))
        return block**2

    assert list(Local().map(later_is_faster, range(5), at_once)) == [(b, b**2) for b in range(5)]


@pytest.mark.usefixtures("two_threads")
def test_what_was_finished_before_and_beside_a_stop_is_given_out() -> None:
    begun, finished, beside = [], [], threading.Event()

    def work(block: int) -> int:
        begun.append(block)
        if block == 2:
            assert beside.wait(5)
            raise Interrupted(signal.SIGTERM)
        if block == 3:
            beside.set()
            time.sleep(0.05)
        finished.append(block)
        return -block

    given = []
    with pytest.raises(Interrupted):
        for pair in Local().map(work, range(20), 2):
            given.append(pair)
    assert given[:3] == [(0, 0), (1, -1), (3, -3)]
    assert [block for block, _ in given] == sorted(finished)
    assert max(begun) <= 5  # those that were waiting may have begun before the stop was seen, none after
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_is_restored() -> None:
    inside = [threads for _, threads in Local().map(lambda block: torch.get_num_threads(), range(3), 2)]
    assert inside == [1, 1, 1]
    assert torch.get_num_threads() == 2
