"""Weights of checkpoints, where every step of the training counts once, and sums over instances in passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from influx.engines import curvature, gradients, operators
from influx.engines.curvature import Curvature
from influx.engines.operators import Kind
from influx.engines.products import Hessians
from influx.engines.spread import JACKKNIFE
from influx.engines.weighting import RateAt, weighted_checkpoints
from influx.learners.torch.optimizers import SGD
from influx.models.cnn import CNN
from influx.oracles import toys
from influx.oracles.checkpoints import left_out
from influx.problem import Checkpoint

RATES = np.array([6.0, 5, 4, 3, 2, 1, 0.5])
SAVED = [Checkpoint(step=s, lr=(0.0,), path=Path()) for s in (0, 2, 3, 6, 7)]
LR_AT = get_args(RateAt)


@pytest.mark.parametrize("checkpoints", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("lr_at", LR_AT)
def test_calibrated_weights_sum_to_all_rates_over_n(lr_at: RateAt, checkpoints: int | None) -> None:
    weighted = weighted_checkpoints(SAVED, RATES, 10, checkpoints, lr_at, "calibrated")
    assert sum(weight for _, weight in weighted) == pytest.approx(RATES.sum() / 10, rel=1e-12)


@pytest.mark.parametrize("lr_at", ["next", "segment_mean"])
def test_the_first_kept_checkpoint_also_stands_for_the_steps_before_it(lr_at: RateAt) -> None:
    weighted = weighted_checkpoints(SAVED[1:], RATES, 10, 2, lr_at, "calibrated")
    assert {checkpoint.step: weight for checkpoint, weight in weighted} == pytest.approx({2: 2.1, 6: 0.05})


@pytest.mark.parametrize(("lr_at", "rates"), [("next", [6.0, 0.5]), ("prev", [5.0, 0.5]), ("segment_mean", [3.5, 0.5])])
def test_paper_weights_are_the_rates_beside_the_checkpoint(lr_at: RateAt, rates: list[float]) -> None:
    weighted = weighted_checkpoints(SAVED, RATES, 10, 2, lr_at, "paper")
    assert [weight for _, weight in weighted] == rates


@pytest.mark.parametrize(("lr_at", "steps"), [("next", [2, 6]), ("prev", [3, 7]), ("segment_mean", [2, 6])])
def test_loss_drop_keeps_the_ends_of_the_intervals_in_which_the_loss_falls_most(
    lr_at: RateAt, steps: list[int]
) -> None:
    losses = np.array([2.0, 2.1, 1.0, 0.9, 0.5])  # at steps 0, 2, 3, 6 and 7
    weighted = weighted_checkpoints(SAVED, RATES, 10, 2, lr_at, "calibrated", losses)
    assert [checkpoint.step for checkpoint, _ in weighted] == steps
    assert sum(weight for _, weight in weighted) == pytest.approx(RATES.sum() / 10, rel=1e-12)


def test_equal_falls_keep_the_earlier_interval() -> None:
    weighted = weighted_checkpoints(SAVED, RATES, 10, 1, "next", "paper", np.array([4.0, 3.0, 2.0, 1.0, 0.0]))
    assert [checkpoint.step for checkpoint, _ in weighted] == [0]


def test_the_jackknife_is_the_spread_of_the_sums_without_one_checkpoint() -> None:
    terms = np.random.default_rng(0).normal(size=(5, 3, 2))
    found = JACKKNIFE.total((terms**2).sum(0), terms.sum(0), 5)
    np.testing.assert_allclose(found, left_out(terms), rtol=1e-10)
    np.testing.assert_allclose(found, np.sqrt(5) * terms.std(0, ddof=1), rtol=1e-10)  # of a sum of five


def test_the_jackknife_of_equal_terms_is_zero_and_not_nan() -> None:
    terms = np.full((3, 1, 1), 0.1)
    assert JACKKNIFE.total((terms**2).sum(0), terms.sum(0), 3).item() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("kind", ["hessian", "ggn", "empirical_fisher"])
def test_curvature_does_not_depend_on_the_instances_per_pass(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toys.train(tmp_path, toys.images(), CNN(channels=[2], hidden=3), SGD(lr=0.1, weight_decay=0.05))
    expected = Curvature(toy.fitted, toy.train).matrix(kind, 1000)
    passes: list[int] = []
    of = Hessians.of

    def counted(self: Hessians, x: Tensor, y: Tensor) -> Any:
        passes.append(len(x))
        return of(self, x, y)

    monkeypatch.setattr(Hessians, "of", counted)
    for module, name in ((operators, "PASS_BYTES"), (curvature, "WRITTEN_BYTES"), (gradients, "CACHED_BYTES")):
        monkeypatch.setattr(module, name, 1)
    found = Curvature(toy.fitted, toy.train).matrix(kind, 1000)
    assert set(passes) == ({1} if kind == "hessian" else set())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
