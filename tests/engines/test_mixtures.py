"""Mixtures of densities with and without each instance."""

from __future__ import annotations

import numpy as np
import pytest

from influx.engines.mixtures import Mixtures, averaged, jackknifed, left_out

FOLDS = np.array([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]])


def collected(shift: float = 0.0) -> tuple[Mixtures, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    tests, train = rng.normal(size=(6, 3)) + shift, rng.normal(size=(6, 5)) + shift
    mixtures = Mixtures(FOLDS, 3, "logmeanexp")
    for rows in (np.array([4, 0]), np.array([1, 2, 5]), np.array([3])):  # as blocks of a bank come
        mixtures.add(rows, tests[rows], train[rows])
    return mixtures, tests, train


def test_both_sides_are_means_of_densities() -> None:
    mixtures, tests, train = collected()
    ((rows, found),) = mixtures.on_tests()
    assert rows == slice(0, 5)
    for i in range(5):
        out = np.array([FOLDS[0, i], 3 + FOLDS[1, i]])
        held = np.setdiff1d(np.arange(6), out)
        assert np.allclose(found.inside[i], np.log(np.exp(tests[held]).mean(axis=0)))
        assert np.allclose(found.outside[i], np.log(np.exp(tests[out]).mean(axis=0)))
        assert np.allclose(mixtures.own.value[i], np.log(np.exp(train[held, i]).mean() / np.exp(train[out, i]).mean()))


def test_densities_far_below_the_smallest_number_keep_their_digits() -> None:
    near, far = collected()[0], collected(-1e5)[0]
    assert np.allclose(near.own.value, far.own.value, atol=1e-9)
    values = np.array([[-1e4], [-2e4], [0.0]])
    assert np.allclose(left_out(values, "logmeanexp")[:, 0], [-np.log(2), -np.log(2), -1e4 - np.log(2)])
    assert averaged(values, "logmeanexp") == pytest.approx(-np.log(3))


def value_of(rows: list[int], tests: np.ndarray, folds: np.ndarray, i: int) -> np.ndarray:
    """From the repeats ``rows`` alone, one density at a time."""
    out = [3 * r + folds[r, i] for r in rows]
    held = [k for r in rows for k in range(3 * r, 3 * r + 3) if k not in out]
    return np.log(np.exp(tests[held]).mean(axis=0)) - np.log(np.exp(tests[out]).mean(axis=0))


@pytest.mark.parametrize("debias", [False, True])
def test_errors_leave_out_groups_of_repeats_and_are_of_what_is_left_of_a_bias(debias: bool) -> None:
    rng, groups = np.random.default_rng(0), np.array([0, 1, 2, 0])
    folds = np.stack([rng.permutation(5) % 3 for _ in groups])
    tests = 2 * rng.normal(size=(12, 2))
    mixtures = Mixtures(folds, 3, "logmeanexp", groups, debias)
    mixtures.add(np.arange(12), tests, rng.normal(size=(12, 5)))
    ((_, found),) = mixtures.on_tests()

    def statistic(among: list[int], i: int) -> np.ndarray:
        rows, every = [r for r in range(4) if groups[r] in among], len(among)
        value = value_of(rows, tests, folds, i)
        if not debias:
            return value
        parts = [value_of([r for r in rows if groups[r] != g], tests, folds, i) for g in among]
        return every * value - (every - 1) * np.mean(parts, axis=0)

    for i in range(5):
        left = np.stack([statistic([h for h in range(3) if h != g], i) for g in range(3)])
        assert np.allclose(found.value[i], statistic([0, 1, 2], i))
        assert np.allclose(found.stderr[i], np.sqrt(2 / 3 * ((left - left.mean(axis=0)) ** 2).sum(axis=0)))


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=(7, 2))
    error = jackknifed(left_out(values, "mean_log"))
    assert np.allclose(error, values.std(axis=0, ddof=1) / np.sqrt(7))
    assert np.isnan(jackknifed(values[:1])).all()
