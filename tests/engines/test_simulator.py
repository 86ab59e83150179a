"""The simulator of training finds the recursion that made its losses; recorded trainings are those of the learner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influx.engines.simulator import Curriculum, Simulator
from influx.engines.traces import Traces
from influx.errors import NumericalError
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy

N, M, BATCH = 12, 3, 4


def curriculum(seed: int, epochs: int = 4, n: int = N) -> Curriculum:
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(n) for _ in range(epochs)])
    offsets = np.arange(0, len(rows) + 1, BATCH)
    return Curriculum.of(rows, offsets, np.linspace(1, 0.5, len(offsets) - 1), n)


def planted() -> Simulator:
    rng = np.random.default_rng(0)
    return Simulator(-0.03 * rng.random((N, M)), 0.02 * rng.normal(size=(N, M)))


def recorded(true: Simulator, count: int) -> list[tuple[Curriculum, np.ndarray]]:
    made = [curriculum(seed) for seed in range(count)]
    return [(steps, true.path(steps, np.array([2.0, 1.0, 0.5]))) for steps in made]


def test_a_recursion_is_recovered() -> None:
    true = planted()
    found = Simulator.fitted(recorded(true, 12), np.ones(12), 1e-12)
    assert np.abs(found.alpha - true.alpha).max() < 1e-9 and np.abs(found.beta - true.beta).max() < 1e-9
    assert found.residual < 1e-11


def test_removal_is_the_simulation_without_the_instance() -> None:
    true, steps, start = planted(), curriculum(7), np.array([2.0, 1.0, 0.5])
    found = true.removals(steps, start)
    for i in range(N):
        kept = steps.steps.toarray()
        kept[:, i] = 0
        loss = start
        for row in kept:
            loss = loss * (1 + row @ true.alpha) + row @ true.beta
        assert found[i] == pytest.approx(loss - true.path(steps, start)[-1], rel=1e-10)


def test_clipped_factors_stay_within_one_with_and_without_the_instance() -> None:
    rng = np.random.default_rng(1)
    steps, start = curriculum(7), np.array([2.0, 1.0, 0.5])
    true = Simulator(0.3 * rng.normal(size=(N, M)), 0.02 * rng.normal(size=(N, M)), clip=True)
    found, path = true.removals(steps, start), true.path(steps, start)
    for i in range(-1, N):
        kept, loss = steps.steps.toarray(), start
        if i >= 0:
            kept[:, i] = 0
        for row in kept:
            loss = loss * np.clip(1 + row @ true.alpha, -1, 1) + row @ true.beta
        assert (path[-1] if i < 0 else found[i] + path[-1]) == pytest.approx(loss, rel=1e-10)
    assert not np.allclose(path[-1], Simulator(true.alpha, true.beta).path(steps, start)[-1], rtol=0.1)


def test_clipping_bounds_what_grows_without_bound() -> None:
    wild = Simulator(np.full((N, M), 1e60), np.ones((N, M)), clip=True)
    assert np.isfinite(wild.removals(curriculum(0, 8), np.ones(M))).all()


def test_without_a_centre_it_is_ridge_regression_on_losses() -> None:
    runs = []
    for seed in range(3):
        rows = np.concatenate([np.random.default_rng(seed).permutation(N) for _ in range(4)])
        steps = Curriculum.of(rows, np.arange(0, len(rows) + 1, BATCH), np.full(12, 0.1), N)
        runs.append((steps, planted().path(steps, np.array([2.0, 1.0, 0.5]))))
    found = Simulator.fitted(runs, np.ones(3), 0.3, towards=-1 / BATCH)
    for j in range(M):
        counts = np.concatenate([steps.steps.toarray() for steps, _ in runs])
        before, after = (np.concatenate([losses[part, j] for _, losses in runs]) for part in (np.s_[:-1], np.s_[1:]))
        x = np.hstack([counts * before[:, None], counts])
        a, b = np.split(np.linalg.solve(x.T @ x + 0.3 * np.eye(2 * N), x.T @ after), 2)
        assert np.allclose(found.alpha[:, j] + 1 / BATCH, a, atol=1e-9) and np.allclose(found.beta[:, j], b, atol=1e-9)


def test_weights_of_runs_are_repetitions() -> None:
    runs = recorded(planted(), 5)
    twice = Simulator.fitted([*runs, runs[0]], np.ones(6), 0.01)
    found = Simulator.fitted(runs, np.array([2.0, 1, 1, 1, 1]), 0.01)
    assert np.allclose(found.alpha, twice.alpha, atol=1e-10) and np.allclose(found.beta, twice.beta, atol=1e-10)


def test_losses_that_stay_as_they_are_give_no_influence() -> None:
    runs = [(curriculum(seed), np.full((13, M), 0.7)) for seed in range(4)]
    found = Simulator.fitted(runs, np.ones(4), 0.01)
    assert not found.removals(runs[0][0], np.full(M, 0.7)).any()


def test_a_smaller_batch_weighs_more_and_strangers_are_left_out() -> None:
    made = Curriculum.of(np.array([0, 1, -1, 2, 0]), np.array([0, 4, 5]), np.array([0.4, 0.2]), 3)
    assert made.steps.toarray().tolist() == [[1, 1, 1], [2, 0, 0]]


def test_growth_without_bound_is_told() -> None:
    wild = Simulator(np.full((N, M), 1e60), np.ones((N, M)))
    with pytest.raises(NumericalError, match=r"estimator\.clip=true, raise estimator\.ridge"):
        wild.removals(curriculum(0, 8), np.ones(M))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=3), SGD(lr=0.2, momentum=0.5))


def test_the_first_recorded_training_is_the_problems_own(toy: Toy) -> None:
    own, other = Traces(toy.fitted, toy.test).losses(2)
    assert np.array_equal(own[-1], toy.fitted.outcomes(toy.test).loss)
    assert len(own) == toy.fitted.recipe.total + 1
    assert np.array_equal(own[0], other[0]) and not np.allclose(own[-1], other[-1], rtol=1e-6)


def test_recorded_trainings_are_read_again_and_more_are_added(toy: Toy, tmp_path: Path) -> None:
    other = toys.train(tmp_path, toys.table(), MLP(width=3), SGD(lr=0.2, momentum=0.5))
    traces, folder = Traces(other.fitted, other.test), other.folder / "traces"
    first = np.array(traces.losses(1)[0])
    stamp = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    again = traces.losses(3)
    assert np.array_equal(again[0], first) and len(list(folder.glob("*.npy"))) == 3
    assert all((folder / name).stat().st_mtime_ns == when for name, when in stamp.items())
    next(iter(folder.glob("*_0001.npy"))).write_bytes(b"damaged")
    assert np.array_equal(Traces(other.fitted, other.test).losses(3)[1], Traces(toy.fitted, toy.test).losses(2)[1])


def test_other_test_instances_have_traces_of_their_own(toy: Toy) -> None:
    few = Traces(toy.fitted, toy.test.take(slice(1, 3))).losses(1)[0]
    assert np.allclose(few, Traces(toy.fitted, toy.test).losses(1)[0][:, 1:3], rtol=1e-12)
