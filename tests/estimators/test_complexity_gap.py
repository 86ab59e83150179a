"""The complexity gap finds what does not fit, whatever the size of the parts that it is computed in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from influx.engines.complexity import gaps, unit
from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.problem import Data


def data(wrong: int = 0) -> Data:
    """Two clouds, and the first instances with the label of the other."""
    made = toys.table(n_train=61, n_test=3)
    keep = made.train.y < 2
    train = made.train.take(keep)
    x = train.x + 4 * np.where(train.y == 1, 1.0, -1.0)[:, None].astype(np.float32)
    y = train.y.copy()
    y[:wrong] = 1 - y[:wrong]
    return replace(made, train=replace(train, x=x.astype(np.float32), y=y))


def untrained(tmp_path: Path, made: Data) -> Toy:
    return toys.train(tmp_path, made, MLP(width=3), epochs=1)


def test_wrong_labels_have_the_largest_gaps(tmp_path: Path) -> None:
    found = untrained(tmp_path, data(wrong=3)).estimate("complexity_gap", jitter=1e-3)
    assert found.self_influence is not None
    assert set(np.argsort(-found.self_influence)[:3]) == {0, 1, 2} and (found.self_influence > 0).all()
    assert np.array_equal(found.values[:, 0], -found.self_influence)
    assert found.stderr is not None and found.report["stderr_degrees"] == 9


def test_a_large_class_is_scored_in_parts(tmp_path: Path) -> None:
    toy = untrained(tmp_path, data())
    whole, parts = (toy.estimate("complexity_gap", jitter=1e-2, most=most, repeats=40) for most in (2000, 11))
    assert np.corrcoef(whole.self_influence, parts.self_influence)[0, 1] > 0.6


def test_a_rare_class_is_not_swamped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of one class, many of another: the many are scored two at a time, beside as many of the rare one."""
    systems: list[list[float]] = []

    def seen(x: torch.Tensor, y: torch.Tensor, jitter: float) -> torch.Tensor:
        systems.append(y.tolist())
        return gaps(x, y, jitter)

    monkeypatch.setattr("influx.estimators.neighbours.complexity_gap.gaps", seen)
    made = data()
    rows = np.concatenate([np.flatnonzero(made.train.y == 0)[:2], np.flatnonzero(made.train.y == 1)])
    rare = untrained(tmp_path, replace(made, train=made.train.take(rows)))
    found = rare.estimate("complexity_gap", repeats=2).self_influence
    assert found is not None and np.isfinite(found).all() and len(found) == len(rows)
    assert all(len(y) <= 4 and abs(sum(y)) <= 1 for y in systems)
    assert sum(y.count(1.0) for y in systems) == 2 * len(rows)


def test_equal_inputs_need_jitter() -> None:
    x = unit(np.ones((3, 2)))
    y = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    with pytest.raises(NumericalError, match=r"estimator\.jitter"):
        gaps(x, y, 0.0)
    assert torch.isfinite(gaps(x, y, 1e-4)).all()


def test_what_has_no_classes_is_refused(tmp_path: Path) -> None:
    toy = untrained(tmp_path, toys.table("regression"))
    with pytest.raises(IncompatibleError, match="has none"):
        toy.estimate("complexity_gap")
    one = data()
    same = untrained(tmp_path, replace(one, train=one.train.take(one.train.y == 1)))
    with pytest.raises(IncompatibleError, match="one label"):
        same.estimate("complexity_gap")


@pytest.mark.parametrize("settings", [{"repeats": 0}, {"unbalance": 0.0}, {"jitter": -1.0}])
def test_settings_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"estimator\.{next(iter(settings))}"):
        estimator_named("complexity_gap", settings)
