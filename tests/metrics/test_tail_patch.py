"""One step on one instance, written out; and the mean over proponents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from influx.engines.one_step import OneStep
from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD, Adam, Optimizer
from influx.metrics.tail_patch import TailPatch
from influx.models.mlp import MLP
from influx.oracles import plain, toys
from influx.oracles.toys import Toy
from influx.run import Run
from influx.store import Folder

OPTIMIZERS = [SGD(lr=0.2, momentum=0.9, weight_decay=0.01), Adam(lr=0.05)]
CLIP = 0.05


def trained(tmp_path: Any, optimizer: Optimizer, **settings: Any) -> Toy:
    return toys.train(tmp_path, toys.table(n_train=9, n_test=4), MLP(width=4), optimizer, epochs=2, **settings)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return trained(tmp_path_factory.mktemp("toy"), SGD(lr=0.2))


def after(toy: Toy, row: int, lr: float, clip: float | None = None) -> np.ndarray:
    """Test losses after the optimizer's textbook step, in the state that training left."""
    module, optimizer, total = toy.module(), toy.learner.optimizer, toy.steps()[-1]
    params, slots = list(module.parameters()), toy.fitted.state(total).slots
    x, y = toy.tensors(toy.train)
    plain.risks(toy.task, module(x[row : row + 1]), y[row : row + 1]).sum().backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(params, clip)
    with torch.no_grad():
        for i, p in enumerate(params):
            assert p.grad is not None
            if isinstance(optimizer, SGD):
                memory = slots["momentum"][i] if slots else torch.zeros_like(p)
                p -= lr * (optimizer.momentum * memory + p.grad + optimizer.weight_decay * p)
            else:
                first = (0.9 * slots["first"][i] + 0.1 * p.grad) / (1 - 0.9 ** (total + 1))
                second = (0.999 * slots["second"][i] + 0.001 * p.grad**2) / (1 - 0.999 ** (total + 1))
                p -= lr * first / (second.sqrt() + 1e-8)
    return plain.losses(toy, module, toy.test)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("clip", [None, CLIP])
def test_the_step_is_that_of_the_trainings_optimizer(tmp_path: Any, optimizer: Optimizer, clip: float | None) -> None:
    toy = trained(tmp_path, optimizer, clip_norm=clip)
    wanted = np.zeros((9, 4), bool)
    wanted[[2, 5], [1, 3]] = wanted[2, 0] = True
    steps = list(OneStep(toy.fitted).losses(toy.train, toy.test, wanted, 0.1))
    assert [(row, columns.tolist()) for row, columns, _ in steps] == [(2, [0, 1]), (5, [3])]
    for row, columns, losses in steps:
        np.testing.assert_allclose(losses, after(toy, row, 0.1, clip)[columns], rtol=1e-9)


def measured(toy: Toy, values: np.ndarray, **settings: Any) -> pd.DataFrame:
    metric = TailPatch(**{"k": 3, "n_boot": 200} | settings)
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    run = Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=metric.requires, who="tail_patch")
    return metric.evaluate(Influence(values=values), run).set_index("metric")


@pytest.mark.parametrize("lr", [None, 0.01])
def test_the_patch_is_the_mean_fall_of_the_risk_over_proponents(toy: Toy, lr: float | None) -> None:
    values = np.random.default_rng(0).normal(size=(9, 4))
    found = measured(toy, values, lr=lr)
    before = plain.losses(toy, toy.module(), toy.test)
    falls = np.array([before - after(toy, row, lr or 0.2) for row in range(9)])  # (9, 4)
    chosen = np.array([falls[np.argsort(-values[:, j])[:3], j] for j in range(4)])
    assert found.value["tail_patch"] == pytest.approx(chosen.mean())
    assert found.value["tail_patch_raised"] == pytest.approx((chosen > 0).mean())
    drawn = found.note["tail_patch"].split("random proponents: ")[1].split(";")[0]
    excess = found.value["tail_patch"] - found.value["tail_patch_excess"]
    assert excess == pytest.approx(float(drawn), rel=1e-3) and falls.min() < excess < falls.max()
    assert f"lr={lr or 0.2:g}" in found.protocol["tail_patch"] and (found.n == 4).all()


def test_the_best_proponents_by_their_own_steps_beat_random_ones(toy: Toy) -> None:
    before = plain.losses(toy, toy.module(), toy.test)
    falls = np.array([before - after(toy, row, 0.2) for row in range(9)])
    found, worst = measured(toy, falls), measured(toy, -falls)
    assert found.ci_low["tail_patch_excess"] > 0 > worst.ci_high["tail_patch_excess"]


def test_the_control_is_drawn_from_what_has_scores(toy: Toy) -> None:
    values = np.random.default_rng(1).normal(size=(9, 4))
    values[[0, 2, 3, 5, 6, 8]] = np.nan  # three are left, so that proponents and control are the same set
    found = measured(toy, values)
    assert found.value["tail_patch_excess"] == pytest.approx(0, abs=1e-12)


def test_what_has_no_step_says_why(tmp_path: Any, toy: Toy) -> None:
    values = np.random.default_rng(0).normal(size=(9, 4))
    still = trained(tmp_path, SGD(lr=0.2), schedule="cosine")
    fitted = replace(still.fitted, recipe=replace(still.fitted.recipe, optimizer=SGD(lr=1e-300)))
    assert OneStep(fitted).last_rate < 1e-300
    zero = replace(still, fitted=replace(fitted, recipe=replace(fitted.recipe, training=_ends_at_zero(still))))
    found = measured(zero, values)
    assert (found.status == "not applicable").all() and found.note.str.contains("set metric.tail_patch.lr").all()
    assert (measured(toy, values, k=10).status == "not applicable").all()
    assert (measured(toy, np.ones((9, 4))).status == "degenerate").all()


def _ends_at_zero(toy: Toy) -> Any:
    """A recipe whose last step has the learning rate 0."""
    return replace(toy.learner.training, schedule="step", decay_every=1, decay_factor=1e-100)


@pytest.mark.parametrize("settings", [{"k": 0}, {"lr": 0.0}, {"lr": float("inf")}, {"n_boot": 9}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"metric.tail_patch.{next(iter(settings))}"):
        TailPatch(**settings)


def test_the_order_of_instances_changes_no_number(toy: Toy) -> None:
    values = np.round(np.random.default_rng(2).normal(size=(9, 4)))  # many ties
    train, test = np.random.default_rng(3).permutation(9), np.array([2, 0, 3, 1])
    data = replace(toy.problem.data, train=toy.train.take(train), test=toy.test.take(test))
    here, there = measured(toy, values).value, measured(toy.with_data(data), values[train][:, test]).value
    assert there.to_dict() == pytest.approx(here.to_dict(), rel=1e-9)
