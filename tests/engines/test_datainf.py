"""The mean of inverses against explicit inverses and damped empirical Fisher matrices."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from influx.engines import gradients
from influx.engines.solvers.datainf import DataInf, MeanOfInverses
from influx.errors import ConfigError, NumericalError
from influx.learners.torch.optimizers import SGD
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.needs import Need
from influx.oracles import plain
from influx.oracles.toys import Toy, table, train
from influx.run import Run

ASKS = SimpleNamespace(requires=frozenset({Need.GRADIENTS, Need.CURVATURE}))


def trained(tmp_path: Path, n_train: int = 9, decay: float = 0.0, model: object = None) -> tuple[Toy, Run]:
    optimizer = SGD(lr=0.1, weight_decay=decay)
    toy = train(tmp_path, table(n_train=n_train), model or MLP(width=3), optimizer, batch_size=1)  # type: ignore[arg-type]
    return toy, toy.run(ASKS, "mean of inverses")  # type: ignore[arg-type]


def solutions(inverse: MeanOfInverses) -> np.ndarray:
    return np.asarray(inverse.solve(torch.eye(inverse.at.size, dtype=torch.float64)).numpy())


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_it_is_the_mean_of_the_inverses(tmp_path: Path, decay: float) -> None:
    toy, run = trained(tmp_path, decay=decay)
    inverse = DataInf().inverse(run, "empirical_fisher", None)
    g = plain.gradients(toy, toy.module(), toy.train)
    expected = np.zeros((g.shape[1], g.shape[1]))
    for part in inverse.columns:
        own = g[:, part]
        ridge = 0.1 * np.square(own).mean() + decay
        terms = [np.linalg.inv(ridge * np.eye(own.shape[1]) + np.outer(row, row)) for row in own]
        expected[part, part] = np.mean(terms, axis=0)
    assert np.abs(solutions(inverse) - expected).max() < 1e-12 * np.abs(expected).max()
    rows = torch.as_tensor(g)
    assert np.allclose(inverse.quadratic(rows).numpy(), np.einsum("np,pq,nq->n", g, expected, g), rtol=1e-11)


def test_of_one_instance_it_is_the_damped_empirical_fisher_matrix(tmp_path: Path) -> None:
    toy, run = trained(tmp_path, n_train=1)
    inverse = DataInf().inverse(run, "empirical_fisher", 0.2)
    (g,) = plain.gradients(toy, toy.module(), toy.train)
    for part in inverse.columns:
        exact = np.linalg.inv(np.outer(g[part], g[part]) + 0.2 * np.eye(len(g[part])))
        assert np.abs(solutions(inverse)[part, part] - exact).max() < 1e-12 * np.abs(exact).max()


def test_larger_damping_comes_nearer_to_the_damped_empirical_fisher_matrix(tmp_path: Path) -> None:
    toy, run = trained(tmp_path, n_train=30, model=Linear(bias=False))
    g = plain.gradients(toy, toy.module(), toy.train)
    errors = []
    for factor in (0.1, 1.0, 10.0, 100.0):
        inverse = DataInf(factor=factor).inverse(run, "empirical_fisher", None)
        exact = np.linalg.inv(g.T @ g / len(g) + inverse.ridge[0] * np.eye(g.shape[1]))
        errors.append(np.linalg.norm(solutions(inverse) - exact) / np.linalg.norm(exact))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.5 and errors[-1] < 0.01  # too large at the paper's factor


def test_blocks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = trained(tmp_path)
    expected = solutions(DataInf().inverse(run, "empirical_fisher", None))
    monkeypatch.setattr(gradients, "WRITTEN_BYTES", 1)
    assert np.allclose(solutions(DataInf().inverse(run, "empirical_fisher", None)), expected, rtol=1e-12)


def test_the_report_holds_it_against_the_exact_solution(tmp_path: Path) -> None:
    _, run = trained(tmp_path)
    near = DataInf(factor=1000.0).inverse(run, "empirical_fisher", None).report
    far = DataInf().inverse(run, "empirical_fisher", None).report
    assert float(near["error"]) < 0.01 < float(far["error"]) and float(near["spearman"]) > 0.95
    assert float(far["damping_min"]) <= float(far["damping"]) <= float(far["damping_max"])


def test_what_has_no_inverse_is_refused_in_one_sentence(tmp_path: Path) -> None:
    _, run = trained(tmp_path)
    with pytest.raises(NumericalError, match=r"λ, which is 0 for 0.weight because estimator.damping is 0; set est"):
        DataInf().inverse(run, "empirical_fisher", 0.0)
    silent, own = trained(tmp_path, model=MLP(width=3, activation="relu"))
    module = own.curvature.at.module
    with torch.no_grad():
        module[0].bias.fill_(-1e9)
    with pytest.raises(NumericalError, match=r"0.weight because its gradients are zero.*set estimator.damping=0\.\d"):
        DataInf().inverse(own, "empirical_fisher", None)
    assert len(silent.train) == 9
    with pytest.raises(ConfigError, match=r"got ggn; set estimator.curvature=empirical_fisher"):
        DataInf().inverse(run, "ggn", None)
    with pytest.raises(ConfigError, match=r"estimator.factor must be above 0, got 0.0"):
        DataInf(factor=0.0)
