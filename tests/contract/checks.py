"""What every estimator must do. Each check takes an estimator and a maker of trained problems.

A maker trains the same problem anew at every call, in a folder of its own; keywords are settings of ``Training``.
To hold an estimator of one's own against the contract, call the checks with one's own maker.
"""

from __future__ import annotations

import hashlib
import importlib
import pickle
import pkgutil
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

import influx.engines
import influx.learners.linear
import influx.learners.torch
from influx import results
from influx.errors import IncompatibleError, UndeclaredNeed
from influx.influence import Influence
from influx.learners.torch.fitted import TorchFitted
from influx.oracles.toys import Toy
from influx.problem import Split
from influx.run import Estimator, refuse_missing
from influx.store import Folder

Maker = Callable[..., Toy]
WHO = "candidate"  # the name under which estimators draw random numbers here
SAME = 1e-11  # float64 sums in another order, relative to the largest value


def values_are_finite_float64_numbers_for_every_pair(estimator: Estimator, make: Maker) -> None:
    toy = make()
    influence = measure(estimator, toy)
    assert influence.values.shape == (len(toy.train), len(toy.test))
    assert influence.values.dtype == np.float64 and np.isfinite(influence.values).all()
    if influence.self_influence is not None:
        assert influence.self_influence.shape == (len(toy.train),)
        assert np.isfinite(influence.self_influence).all()
    if influence.stderr is not None:
        assert influence.stderr.shape == influence.values.shape and (influence.stderr >= 0).all()


def scale_is_the_declared_one(estimator: Estimator, make: Maker) -> None:
    assert measure(estimator, make()).scale == estimator.scale


def running_twice_gives_the_same_bits(estimator: Estimator, make: Maker) -> None:
    first, second = measure(estimator, make()), measure(estimator, make())
    assert first.values.tobytes() == second.values.tobytes()
    assert own(first).tobytes() == own(second).tobytes()


def nothing_outside_is_changed(estimator: Estimator, make: Maker) -> None:
    toy = make()
    before = surroundings(toy)
    measure(estimator, toy)
    assert surroundings(toy) == before


def block_sizes_do_not_matter(estimator: Estimator, make: Maker) -> None:
    expected = measure(estimator, make())
    with small_blocks():
        toy = make(block=2)
        found = estimator.estimate(toy.run(estimator, WHO, matrix_mb=0))
    alike(found.values, expected.values)
    alike(own(found), own(expected))


def columns_do_not_depend_on_each_other(estimator: Estimator, make: Maker) -> None:
    toy = make()
    few = toy.with_data(replace(toy.problem.data, test=toy.test.take(slice(0, 2))))
    alike(measure(estimator, few).values, measure(estimator, toy).values[:, :2])


def permuted_test_instances_permute_columns(estimator: Estimator, make: Maker) -> None:
    toy = make()
    order = np.roll(np.arange(len(toy.test)), 1)
    moved = toy.with_data(replace(toy.problem.data, test=toy.test.take(order)))
    alike(measure(estimator, moved).values, measure(estimator, toy).values[:, order])


def permuted_training_instances_permute_rows(estimator: Estimator, make: Maker) -> None:
    toy = make()
    order = np.roll(np.arange(len(toy.train)), 1)
    moved = measure(estimator, toy.with_data(replace(toy.problem.data, train=toy.train.take(order))))
    expected = measure(estimator, toy)
    alike(moved.values, expected.values[order])
    alike(own(moved), own_at(expected, order))


def equal_instances_score_alike(estimator: Estimator, make: Maker) -> None:
    toy = make()
    first, second = twins(toy.train)
    influence = measure(estimator, toy)
    alike(influence.values[first], influence.values[second])
    alike(own_at(influence, [first]), own_at(influence, [second]))


def it_uses_what_it_declares_and_nothing_else(estimator: Estimator, make: Maker) -> None:
    run = make().run(estimator, WHO)
    estimator.estimate(run)
    assert run.used == estimator.requires


def an_undeclared_need_is_refused(estimator: Estimator, make: Maker) -> None:
    for need in estimator.requires:
        with pytest.raises(UndeclaredNeed, match=need.name):
            estimator.estimate(make().run(estimator, WHO, requires=estimator.requires - {need}))


def a_learner_without_a_need_is_refused_by_name(estimator: Estimator, make: Maker) -> None:
    requires, provides = estimator.requires, make().problem.learner.provides
    refuse_missing(requires, provides, WHO, "enough")
    for need in requires:
        with pytest.raises(IncompatibleError, match=f"{WHO} needs {need}.*model=lacking"):
            refuse_missing(requires, provides - {need}, WHO, "lacking")


def saving_and_loading_keeps_everything(estimator: Estimator, make: Maker) -> None:
    toy = make()
    saved = measure(estimator, toy)
    folder = Folder(toy.folder / "saved")
    files = results.save_influence(folder, saved, toy.problem.data, "float64")
    loaded = results.load_influence(folder)
    assert all(folder.has(file) for file in files)
    assert np.array_equal(loaded.values, saved.values)
    assert (loaded.scale, loaded.self_influence_note) == (saved.scale, saved.self_influence_note)
    assert (loaded.self_influence is None) == (saved.self_influence is None)
    assert np.allclose(own(loaded), own(saved), rtol=1e-15, atol=0)
    assert (loaded.stderr is None) == (saved.stderr is None)
    assert dict(loaded.report) == dict(saved.report) and set(loaded.tables) == set(saved.tables)


CHECKS = [
    values_are_finite_float64_numbers_for_every_pair,
    scale_is_the_declared_one,
    running_twice_gives_the_same_bits,
    nothing_outside_is_changed,
    block_sizes_do_not_matter,
    columns_do_not_depend_on_each_other,
    permuted_test_instances_permute_columns,
    permuted_training_instances_permute_rows,
    equal_instances_score_alike,
    it_uses_what_it_declares_and_nothing_else,
    an_undeclared_need_is_refused,
    a_learner_without_a_need_is_refused_by_name,
    saving_and_loading_keeps_everything,
]


def measure(estimator: Estimator, toy: Toy) -> Influence:
    return estimator.estimate(toy.run(estimator, WHO))


def own(influence: Influence) -> np.ndarray:
    """Self-influence, empty where there is none."""
    return np.array([]) if influence.self_influence is None else influence.self_influence


def own_at(influence: Influence, rows: np.ndarray | list[int]) -> np.ndarray:
    """Self-influence of some rows, empty where there is none."""
    mine = own(influence)
    return mine[rows] if len(mine) else mine


def alike(found: np.ndarray, expected: np.ndarray) -> None:
    size = np.abs(expected).max(initial=0.0)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0.0) <= SAME * size


def twins(split: Split) -> tuple[int, int]:
    """Rows of two equal instances."""
    seen: dict[bytes, int] = {}
    for row, (x, y) in enumerate(zip(split.x, split.y, strict=True)):
        first = seen.setdefault(x.tobytes() + y.tobytes(), row)
        if first != row:
            return first, row
    raise AssertionError("the problem needs two equal training instances")


def surroundings(toy: Toy) -> dict[str, object]:
    """Everything an estimator must leave alone."""
    state = np.random.get_state()
    kept = ("checkpoints", "trajectory.npz", "linear.npz")
    files = [p for p in sorted(toy.folder.rglob("*")) if p.is_file() and p.relative_to(toy.folder).parts[0] in kept]
    return {
        "data": toy.problem.data.fingerprint(),
        "files": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
        "fitted": net(toy) if isinstance(toy.fitted, TorchFitted) else pickle.dumps(toy.fitted.outcomes(toy.train)),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (state[1].tobytes(), state[2:]),
        "python": random.getstate(),
        "modes": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
    }


def net(toy: Toy) -> dict[str, object]:
    """The trained module and the tensors that it was trained on."""
    module = toy.fitted.model()
    return {
        "model": {k: v.numpy().tobytes() for k, v in module.state_dict().items()},
        "inputs": toy.fitted.recipe.x.numpy().tobytes() + toy.fitted.recipe.y.numpy().tobytes(),
        "training": module.training,
    }


@contextmanager
def small_blocks() -> Iterator[None]:
    """Every module-level ``*_BYTES`` of engines and learners becomes 1, every ``*_CHUNK`` 3."""
    with pytest.MonkeyPatch.context() as patch:
        for package in (influx.engines, influx.learners.linear, influx.learners.torch):
            for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                module = importlib.import_module(found.name)
                for constant in vars(module).copy():
                    if constant.endswith(("_BYTES", "_CHUNK")):
                        small, value = 1 if constant.endswith("_BYTES") else 3, getattr(module, constant)
                        patch.setattr(
                            module, constant, dict.fromkeys(value, small) if isinstance(value, dict) else small
                        )
        yield
