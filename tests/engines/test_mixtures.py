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


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=(7, 2))
    error = jackknifed(left_out(values, "mean_log"))
    assert np.allclose(error, values.std(axis=0, ddof=1) / np.sqrt(7))
    assert np.isnan(jackknifed(values[:1])).all()
