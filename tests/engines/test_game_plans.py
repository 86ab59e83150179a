"""Plans of games: all trainings are counted, few are listed."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from influx.engines import game_plans, subsets
from influx.engines.coalitions import powerset
from influx.engines.game_plans import Scheme, every_coalition, prefixes
from influx.engines.games import distinct, weights_of
from influx.engines.pairs import adjacent_by_size, adjacent_coalitions, taylor_by_size, taylor_coalitions
from influx.engines.permutations import prefixes_by_size, prefixes_of
from influx.planning import Work


def orders_of(players: int, count: int) -> np.ndarray:
    return subsets.permutations(np.arange(players), count, np.random.default_rng(0))


def permuted(count: int, players: int, m: int, seeds: tuple[int, ...], scheme: Scheme) -> Work:
    return game_plans.permuted(lambda few: orders_of(players, few), count, None, players, m, seeds, scheme)


def counted(work: Work) -> float:
    return sum(len(design) for design in work.trainings) + work.more_trainings


def listed_bytes(work: Work) -> int:
    return sum(design.weights.nbytes for design in work.trainings)


def test_a_million_trainings_are_counted_and_few_of_them_listed() -> None:
    start = time.process_time()
    work = permuted(1000, 1000, 10, (0, 1), prefixes(1000, 11, None, True))
    assert time.process_time() - start < 2
    assert np.isclose(counted(work), 2e6, rtol=0.01) and listed_bytes(work) <= 256 << 20
    assert "1000 permutations x 1000 coalitions x 2 seeds" in work.formula


@pytest.mark.parametrize("room", [1, 10, 1 << 20])
def test_the_count_does_not_depend_on_how_many_are_listed(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = orders_of(7, 60)
    different = len(distinct(prefixes_of(orders).reshape(-1, 7))[0])
    monkeypatch.setattr(game_plans, "LOOKED_UP", room)
    monkeypatch.setattr(game_plans, "LOOKED_UP_BYTES", 200 * room)
    for seeds in ((0,), (0, 1)):
        work = permuted(60, 7, 3, seeds, prefixes(7, 4, None, False))
        assert np.isclose(counted(work), different * len(seeds), rtol=0.1)
        assert (work.more_trainings == 0) == (room > 10)
        whole = every_coalition(7, None, 7, 3, seeds, 7)
        assert abs(counted(whole) - 127 * len(seeds)) <= len(seeds)
        assert (whole.more_trainings == 0) == (room > 10) and f"{len(seeds)} x (2^7 - 1)" in whole.formula


def test_groups_of_many_instances_are_looked_up_in_part() -> None:
    members = np.arange(50_000)[None] % 12 == np.arange(12)[:, None]
    work = every_coalition(12, members, 50_000, 2, (0,), 12)
    assert np.isclose(counted(work), 2**12, atol=1) and listed_bytes(work) <= 64 << 20
    first = next(powerset(12))[1:3]
    assert np.array_equal(work.trainings[0].weights[:2], weights_of(first, members))


def test_the_work_of_the_whole_grows_with_the_number_of_permutations() -> None:
    scheme: Scheme = prefixes(300, 11, None, False)
    few, many = (permuted(count, 300, 10, (0,), scheme) for count in (400, 800))
    assert np.isclose(many.numbers / few.numbers, 2, rtol=0.01) and np.isclose(
        counted(many) / counted(few), 2, rtol=0.01
    )


def test_more_coalitions_of_one_permutation_than_there_is_room_for() -> None:
    n, start = 1000, time.process_time()
    for coalitions, by_size in (
        (prefixes_of, prefixes_by_size(n)),
        (adjacent_coalitions, adjacent_by_size(n)),
        (taylor_coalitions, taylor_by_size(n)),
    ):
        tracemalloc.start()
        work = permuted(10**6, n, 10, (0,), Scheme(coalitions=coalitions, by_size=by_size, bytes=1, sums=1))
        assert tracemalloc.get_traced_memory()[1] < 400 << 20
        tracemalloc.stop()
        assert np.isclose(counted(work), 1e6 * by_size.sum(), rtol=0.01)
        assert 1000 <= len(work.trainings[0])
    assert time.process_time() - start < 6
