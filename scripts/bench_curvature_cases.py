"""Trained nets, ways of influx and references of ``bench_curvature``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_curvature_peers import DENSE, EMPIRICAL, HESSIAN, PROBLEM, Compute, Given, Way
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn.functional import cross_entropy

from influx.datasets.digits import Digits
from influx.engines.retrain import Bank
from influx.engines.solved import Solved
from influx.estimators.influence_functions.datainf import DataInfInfluence
from influx.estimators.influence_functions.if_arnoldi import ArnoldiInfluence
from influx.estimators.influence_functions.if_cg import ConjugateGradientInfluence
from influx.estimators.influence_functions.if_ekfac import EKFACInfluence
from influx.estimators.influence_functions.if_exact import ExactInfluenceFunction
from influx.estimators.influence_functions.if_lissa import LiSSAInfluence
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.learner import NetFactory, TorchLearner
from influx.learners.torch.optimizers import SGD
from influx.learners.torch.training import Training
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.problem import Problem
from influx.run import Run
from influx.store import Folder

DAMPING, DECAY = 0.01, 0.001
CASE = "case.json"
CHECKED = 5  # test instances whose reference is checked where the matrix is too large
PRODUCTS = 32  # vectors multiplied with a curvature at a time
AGREES = 1e-6  # relative error of a reference against the other computation
CURVATURES = {HESSIAN: "hessian", "ggn": "ggn", EMPIRICAL: "empirical_fisher"}


@dataclass(frozen=True)
class Case:
    """A net to analyse and what must be reached: times the fastest exact peer."""

    title: str
    model: NetFactory
    m: int
    goal: float = 0.0
    n: int = 1400
    epochs: int = 100

    def trained(self, folder: Path, device: str = "cpu") -> tuple[Problem, TorchFitted]:
        """Trained in ``folder``, or read from it. The objective has a minimum, near which the Hessian is definite."""
        data = Digits(n_train=self.n, n_test=self.m).load(0)
        steps = Training(epochs=self.epochs, batch_size=50, checkpoints=1, device=device)
        learner = TorchLearner(model=self.model, optimizer=SGD(lr=0.1, weight_decay=DECAY), training=steps)
        problem = Problem(data=data, learner=learner, seed=0, config={"title": self.title})
        return problem, learner.fit(data, 0, Folder(folder / "trained"))

    def write(self, folder: Path, letter: str, quick: bool) -> None:
        """Train, and write the problem for all."""
        problem, fitted = self.trained(folder)
        linear = [layer for layer in fitted.model() if isinstance(layer, nn.Linear)]
        arrays: dict[str, Any] = {"layers": len(linear), "damping": DAMPING + DECAY}
        for number, layer in enumerate(linear):
            arrays |= {f"weight{number}": layer.weight.detach().numpy(), f"bias{number}": layer.bias.detach().numpy()}
        for name, split in (("train", problem.train), ("test", problem.test)):
            arrays |= {f"x_{name}": split.x, f"y_{name}": split.y}
        np.savez(folder / PROBLEM, **arrays)
        (folder / CASE).write_text(json.dumps([letter, quick]))


def cases(quick: bool) -> dict[str, Case]:
    """The problems; small ones to try the script."""
    sizes: dict[str, Any] = {"n": 200, "m": 20, "epochs": 300} if quick else {}
    made = {
        "1": partial(Case, "softmax regression on digits", Linear(), m=200, goal=3.0),
        "2": partial(Case, "MLP 64-24-10, tanh, on digits", MLP(width=24), m=200, goal=1.5),
        "3": partial(Case, "MLP 64-256-128-10, tanh, on digits", MLP(width=[256, 128]), m=50, epochs=60),
    }
    return {letter: make(**sizes) for letter, make in made.items()}


def values(estimator: Solved, problem: Problem, fitted: TorchFitted) -> np.ndarray:
    """Influence by a run of its own, so that nothing is remembered."""
    bank = Bank(problem, Folder(Path(tempfile.gettempdir())))
    run = Run(problem=problem, fitted=fitted, bank=bank, requires=estimator.requires)
    return np.asarray(estimator.estimate(run).values)


def _way(method: str, label: str, kind: str, make: Callable[..., Solved], most: float = np.inf, **settings: Any) -> Way:
    settings = {"self_influence": False} | settings

    def prepare(given: Given) -> Compute:
        letter, quick = json.loads((given.folder / CASE).read_text())
        trained = cases(quick)[letter].trained(given.folder, given.device)
        return partial(values, make(curvature=CURVATURES[kind], damping=DAMPING, **settings), *trained)

    return Way(method, label, kind, prepare, most)


_cg = partial(_way, "cg", make=ConjugateGradientInfluence)
_ekfac = partial(_way, "ekfac", make=EKFACInfluence)
WAYS = [
    _way("exact", "dense", HESSIAN, ExactInfluenceFunction, DENSE),
    _way("exact", "dense, self-influence too", HESSIAN, ExactInfluenceFunction, DENSE, self_influence=True),
    _way("exact", "dense (default kind)", "ggn", ExactInfluenceFunction, DENSE),
    _cg("block (default)", "ggn"),
    _cg("block", HESSIAN),
    _cg("block, tolerance 1e-4", HESSIAN, tolerance=1e-4),
    _cg("block, EK-FAC preconditioner", "ggn", preconditioner="ekfac"),
    _way("lissa", "4 x 1,000 of 32 (default)", "ggn", LiSSAInfluence),
    _way("lissa", "4 x 1,000 of 32", HESSIAN, LiSSAInfluence),
    _way("lissa", "1 x 1,000 of 32", HESSIAN, LiSSAInfluence, repeats=1),
    _way("lissa", "1 x 500 of all", HESSIAN, LiSSAInfluence, batch_size=10**9, repeats=1, depth=500),
    _way("arnoldi", "100 of 200 (default)", "ggn", ArnoldiInfluence),
    _way("arnoldi", "100 of 200", HESSIAN, ArnoldiInfluence),
    _ekfac("default", "ggn"),
    _ekfac("weights up to 3,000 whole", "ggn", whole=3000),
    _ekfac("own labels", EMPIRICAL),
    _way("datainf", "default", EMPIRICAL, DataInfInfluence),
]


def products(given: Given, kind: str) -> Callable[[Tensor], Tensor]:
    """Products of vectors ``(k, p)`` with the undamped curvature of the mean loss, by torch alone, in double precision.

    Uses no part of influx.
    """
    model = given.model.double()
    named = {name: q.detach() for name, q in model.named_parameters()}
    x, y, n = given.x_train.double(), given.y_train, given.n
    theta = torch.cat([q.flatten() for q in named.values()])

    def outputs(flat: Tensor, inputs: Tensor) -> Tensor:
        parts = flat.split([q.numel() for q in named.values()])
        return functional_call(model, {k: v.view_as(q) for (k, q), v in zip(named.items(), parts, strict=True)}, inputs)

    def mean(flat: Tensor) -> Tensor:
        return cross_entropy(outputs(flat, x), y)

    def gauss_newton(v: Tensor) -> Tensor:
        logits, moved = jvp(lambda flat: outputs(flat, x), (theta,), (v,))
        p = logits.softmax(1)
        back = vjp(lambda flat: outputs(flat, x), theta)[1]
        return back((p * moved - p * (p * moved).sum(1, keepdim=True)) / n)[0]

    if kind == HESSIAN:
        return vmap(lambda v: jvp(grad(mean), (theta,), (v,))[1], chunk_size=PRODUCTS)
    if kind == "ggn":
        return vmap(gauss_newton, chunk_size=PRODUCTS)
    rows = gradients(given, given.x_train, given.y_train)
    return lambda v: v @ rows.T @ rows / n


def gradients(given: Given, x: Tensor, y: Tensor) -> Tensor:
    """``(k, p)`` gradients of the loss at single instances, in double precision."""
    model = given.model.double()
    named = {name: q.detach() for name, q in model.named_parameters()}

    def loss(params: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, params, one[None]), label[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(named, x.double(), y)
    return torch.cat([q.flatten(1) for q in found.values()], 1)


def conjugate_gradients(product: Callable[[Tensor], Tensor], rhs: Tensor, tolerance: float) -> Tensor:
    """Solutions ``(k, p)``, each with step lengths of its own."""
    found, left = torch.zeros_like(rhs), rhs.clone()
    direction, size = left.clone(), left.square().sum(1, keepdim=True)
    goal = tolerance**2 * size
    while (size > goal).any():
        moved = product(direction)
        step = size / (direction * moved).sum(1, keepdim=True)
        found, left = found + step * direction, left - step * moved
        before, size = size, left.square().sum(1, keepdim=True)
        direction = left + size / before * direction
    return found


def reference(case: Case, folder: Path, kind: str) -> tuple[np.ndarray, float]:
    """Exact damped influence by influx, and its error relative to another computation's.

    Raises:
        ArithmeticError: the two do not agree.
    """
    given = Given.read(folder, "cpu")
    product, rhs = products(given, kind), gradients(given, given.x_test, given.y_test)
    settings: Any = {"curvature": CURVATURES[kind], "damping": DAMPING, "self_influence": False}
    if rhs.shape[1] <= DENSE:
        exact = values(ExactInfluenceFunction(**settings), *case.trained(folder))
        matrix = product(torch.eye(rhs.shape[1], dtype=torch.float64))
        matrix.diagonal().add_(given.damping)
        solved = torch.linalg.solve(matrix, rhs.T).T
    else:
        exact = values(
            ConjugateGradientInfluence(tolerance=1e-10, max_iterations=5000, **settings), *case.trained(folder)
        )
        solved = conjugate_gradients(lambda v: product(v) + given.damping * v, rhs[:CHECKED], 1e-9)
    other = (gradients(given, given.x_train, given.y_train) @ solved.T / given.n).numpy()
    error = float(np.linalg.norm(exact[:, : other.shape[1]] - other) / np.linalg.norm(other))
    if not error < AGREES:
        raise ArithmeticError(f"reference of kind {kind} is off by {error:.1e} from a computation by torch alone")
    return exact, error
