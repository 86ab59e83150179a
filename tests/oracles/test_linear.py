"""Linear learners: the optimum of every weighting, whichever way it is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.learners.linear import newton, normal
from influx.learners.linear.learner import LinearLearner
from influx.learners.linear.logistic import Logistic
from influx.learners.linear.ridge import Ridge
from influx.models.linear import Linear
from influx.oracles import plain
from influx.oracles.linear import PROBLEMS, deleted, losses
from influx.oracles.toys import Toy, bundled, converged, learned, table
from influx.problem import Data, Design, Outcomes, Split
from influx.store import Folder


def design(weights: np.ndarray, norm: Any = "full") -> Design:
    zeros = np.zeros(len(weights), np.int64)
    return Design(weights=weights, init=zeros, order=zeros, loss_norm=norm)


def retrained(toy: Toy, weights: np.ndarray, norm: Any = "full") -> tuple[Outcomes, Outcomes]:
    return toy.problem.learner.retrain(toy.problem.data, 0, design(weights, norm))


@pytest.fixture(params=list(PROBLEMS))
def problem(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return PROBLEMS[request.param](tmp_path)


@pytest.mark.parametrize("norm", ["full", "subset"])
def test_every_weighting_is_at_the_optimum_of_its_refit(norm: str, problem: Any) -> None:
    toy, refit = problem
    n = len(toy.train)
    draws = np.random.default_rng(0)
    weights = np.concatenate(
        [
            np.ones((2, n)),
            1 - np.eye(n)[:3],  # one changed entry, then six, then most
            np.stack([np.where(draws.permutation(n) < 6, 3.0, 1.0) for _ in range(4)]),
            draws.integers(0, 4, (20, n)),
            draws.random((5, n)),
        ]
    )
    train, test = retrained(toy, weights, norm)
    for row, w in enumerate(weights):
        theta = refit(w, n if norm == "full" else w.sum())
        assert np.allclose(test.loss[row], losses(toy, toy.test, theta), rtol=1e-10, atol=1e-12)
        assert np.allclose(train.loss[row], losses(toy, toy.train, theta), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", ["full", "subset"])
def test_nets_trained_on_subsets_to_convergence_are_at_the_closed_form(norm: str, tmp_path: Path) -> None:
    data = bundled("diabetes", 20, 4)
    net = converged(tmp_path, data, Linear(), 0.1)
    exact = learned(tmp_path, data, Ridge(weight_decay=0.1, penalise_intercept=True))
    weights = (np.random.default_rng(0).random((8, 20)) < 0.5).astype(np.uint8)
    for trained, solved in zip(retrained(net, weights, norm), retrained(exact, weights, norm), strict=True):
        assert np.abs(trained.loss - solved.loss).max() <= 1e-5 * solved.loss.max()
        assert np.ptp(solved.loss, axis=0).min() > 1e-3 * solved.loss.max()


@pytest.mark.parametrize(("models", "part"), [(3, 1.0), (4, 1.0), (8, 1 / 2), (9, 8 / 9), (80, 1 / 2)])
def test_few_models_are_one_block_that_one_processor_takes(
    models: int, part: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, learner = PROBLEMS["ridge"](tmp_path)[0].problem, Ridge()
    monkeypatch.setattr(Ridge, "block_size", lambda self, data: 4)
    monkeypatch.setattr(LinearLearner, "concurrent_blocks", 2)
    monkeypatch.setattr(LinearLearner, "_timed", lambda self, problem, design, repeats: 0.5 * len(design))
    asked = design(np.ones((models, len(problem.train)), np.uint8))
    assert learner.seconds_each(problem, asked) == pytest.approx(0.5 * part)


def test_leave_one_out_is_that_of_refits(problem: Any) -> None:
    toy, refit = problem
    n = len(toy.train)
    found = toy.estimate("loo", ceiling_budget=0)
    before = losses(toy, toy.test, refit(np.ones(n), n))
    expected = np.stack([losses(toy, toy.test, theta) for theta in deleted(refit, n)]) - before
    assert np.abs(found.values - expected).max() <= 1e-9 * np.abs(expected).max()


def test_margins_and_predictions_are_those_of_the_logits(problem: Any) -> None:
    toy, refit = problem
    theta, x = refit(np.ones(len(toy.train)), len(toy.train)), plain.with_ones(toy.test.x)
    outputs, found = x @ theta.T, toy.fitted.outcomes(toy.test)
    if toy.task == "regression":
        margin, prediction = -np.abs(outputs[:, 0] - toy.test.y), outputs[:, 0]
    else:
        p = plain.softmax(outputs)[np.arange(len(x)), toy.test.y]
        margin, prediction = np.log(p / (1 - p)), outputs.argmax(1)
    assert np.allclose(found.margin, margin, rtol=1e-5) and np.allclose(found.prediction, prediction, rtol=1e-5)


@pytest.mark.parametrize("norm", ["full", "subset"])
def test_a_model_without_instances_is_zero(norm: str, problem: Any) -> None:
    toy, _ = problem
    weights = np.zeros((2, len(toy.train)), np.uint8)
    weights[1] = 1
    found = retrained(toy, weights, norm)[1].loss
    zero = 0.5 * toy.test.y**2 if toy.task == "regression" else np.full(6, np.log(len(toy.problem.data.classes)))
    assert np.allclose(found[0], zero) and np.allclose(found[1], toy.fitted.outcomes(toy.test).loss, rtol=1e-11)


def test_press_residuals_are_residuals_over_one_minus_leverage(tmp_path: Path) -> None:
    toy = learned(tmp_path, table("regression"), Ridge(weight_decay=0.0))
    x, y = plain.with_ones(toy.train.x), toy.train.y.astype(np.float64)
    hat = x @ np.linalg.solve(x.T @ x, x.T)
    press = (y - hat @ y) / (1 - np.diag(hat))
    train = retrained(toy, 1 - np.eye(len(x), dtype=np.uint8))[0]
    assert np.allclose(y - np.diag(train.prediction), press, rtol=1e-5)
    assert np.allclose(np.diag(train.loss), press**2 / 2, rtol=1e-11)


def test_downdates_and_new_solutions_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, _ = PROBLEMS["ridge"](tmp_path)
    weights = np.ones((12, len(toy.train)))
    for row in range(12):
        weights[row, :row] = 0
    short = retrained(toy, weights)[1].loss
    monkeypatch.setattr(normal, "DIVISORS", 0)
    assert np.allclose(short, retrained(toy, weights)[1].loss, rtol=1e-12)


@pytest.mark.parametrize("preconditioner", [10**6, 0])
@pytest.mark.parametrize("owned", [10**6, 0])
@pytest.mark.parametrize("kind", ["softmax regression", "two classes"])
def test_conjugate_gradients_reach_the_same_optimum(
    kind: str, preconditioner: int, owned: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a preconditioner for all models or one for each."""
    toy, _ = PROBLEMS[kind](tmp_path)
    weights = np.random.default_rng(0).integers(0, 3, (30, len(toy.train)))
    expected = retrained(toy, weights, "subset")[1].loss
    monkeypatch.setattr(newton, "DENSE", 0)
    monkeypatch.setattr(newton, "FACTORISED", preconditioner)
    monkeypatch.setattr(newton, "OWNED", owned)
    learner = Logistic(weight_decay=0.1, penalise_intercept=True)
    found = learner.retrain(toy.problem.data, 0, design(weights, "subset"))[1].loss
    assert np.allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_a_hessian_in_single_precision_is_the_hessian(problem: Any) -> None:
    toy, _ = problem
    system = toy.problem.learner.system(toy.problem.data, toy.train)
    draws = np.random.default_rng(0)
    v = torch.from_numpy(draws.integers(0, 3, len(toy.train)) / len(toy.train))
    means = system.means(torch.from_numpy(draws.normal(size=(1, *system.target.shape))))
    found, expected = system.single_hessian(v, means[0]), system.hessian(v[None], means)[0]
    assert torch.allclose(found.tril().double(), expected.tril(), rtol=1e-5, atol=1e-6)


@pytest.mark.fault(25, "a class missing in a subset becomes improbable")
def test_a_class_that_is_missing_becomes_improbable(tmp_path: Path) -> None:
    toy = learned(tmp_path, table(), Logistic())
    weights = (toy.train.y != 0).astype(np.uint8)[None]
    train, _ = retrained(toy, weights)
    assert (train.loss[0][toy.train.y == 0] > 10).all() and np.isfinite(train.loss).all()


def test_steps_are_short_where_full_ones_would_diverge() -> None:
    x = np.array([[-30.0], [1.0], [2.0], [40.0], [-2.0], [0.5]], np.float32)
    split = Split(x=x, y=np.array([0, 1, 0, 1, 1, 0]), ids=np.arange(6))
    data = Data(name="far", task="classification", kind="tabular", train=split, test=split, classes=("a", "b"))
    found = Logistic(weight_decay=1e-6).retrain(data, 0, design(np.array([[1.0] * 6, [1, 50, 1, 1, 1, 1]])))[0]
    again = Logistic(weight_decay=1e-6, max_steps=300).retrain(data, 0, design(np.ones((1, 6))))[0]
    assert np.isfinite(found.loss).all() and np.array_equal(found.loss[0], again.loss[0])


def test_the_solution_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, learner = table(), Logistic()
    first = learner.fit(data, 0, Folder(tmp_path)).outcomes(data.test)
    monkeypatch.setattr(newton, "minimise", lambda *_: pytest.fail("solved again"))
    second = Logistic().fit(data, 0, Folder(tmp_path)).outcomes(data.test)
    assert np.array_equal(first.loss, second.loss)
    (tmp_path / "linear.npz").write_bytes(b"damaged")
    monkeypatch.undo()
    assert np.array_equal(Logistic().fit(data, 0, Folder(tmp_path)).outcomes(data.test).loss, first.loss)


def repeated(task: Any) -> Data:
    """Two equal inputs."""
    data = table(task)
    twice = {
        name: Split(x=np.repeat(s.x[:, :1], 2, 1), y=s.y, ids=s.ids)
        for name, s in (("train", data.train), ("test", data.test))
    }
    return Data(name="twice", task=task, kind="tabular", classes=data.classes, **twice)


@pytest.mark.parametrize("learner", [Ridge(weight_decay=0.0), Logistic(weight_decay=0.0)])
@pytest.mark.fault(22, "one sentence that names the weight decay")
def test_a_singular_system_names_the_weight_decay(learner: LinearLearner, tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match=r"singular.*model\.weight_decay above 0"):
        learner.fit(repeated(learner.task), 0, Folder(tmp_path))


def test_separable_classes_without_penalty_have_no_optimum(tmp_path: Path) -> None:
    y = np.arange(20) % 2
    x = (y[:, None] * 4.0 - 2 + np.random.default_rng(0).uniform(-1, 1, (20, 1))).astype(np.float32)
    split = Split(x=x, y=y, ids=np.arange(20))
    data = Data(name="apart", task="classification", kind="tabular", train=split, test=split, classes=("a", "b"))
    with pytest.raises(NumericalError, match=r"no finite optimum.*model\.weight_decay"):
        Logistic(weight_decay=0.0).fit(data, 0, Folder(tmp_path))


def test_too_few_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match=r"model\.weight_decay or model\.max_steps"):
        Logistic(max_steps=1).fit(table(), 0, Folder(tmp_path))


@pytest.mark.parametrize(
    ("learner", "task", "words"),
    [
        (Ridge(), "classification", r"model=ridge.*regression.*dataset=table.*model=logistic"),
        (Logistic(), "regression", r"model=logistic.*classification.*dataset=table.*model=ridge"),
    ],
)
def test_the_other_task_is_refused(learner: LinearLearner, task: Any, words: str) -> None:
    with pytest.raises(IncompatibleError, match=words):
        learner.check(table(task))


@pytest.mark.parametrize(
    ("model", "settings"),
    [(Ridge, {"weight_decay": -1.0}), (Logistic, {"tolerance": 0.0}), (Logistic, {"max_steps": 0})],
)
def test_settings_out_of_range_are_named(model: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{next(iter(settings))} must be"):
        model(**settings)


def test_models_do_not_depend_on_those_solved_beside_them(problem: Any) -> None:
    toy, _ = problem
    weights = np.random.default_rng(0).integers(0, 3, (40, len(toy.train)))
    together = retrained(toy, weights)[1].loss
    alone = np.concatenate([retrained(toy, row[None])[1].loss for row in weights])
    assert np.allclose(together, alone, rtol=1e-10, atol=1e-12)
    assert torch.get_default_dtype() == torch.float32
