"""The last layer on cached features: curvature, solvers, and nets whose last layer is no head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from influx.engines import head_solvers
from influx.engines.head_solvers import Kronecker, conjugate_gradients, solver
from influx.engines.heads import Objective, features_work
from influx.errors import IncompatibleError, NumericalError
from influx.learners.torch.optimizers import SGD, AdamW
from influx.learners.torch.tasks import task_for
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.planning import Planned, Prospect
from influx.problem import Data

NAMES = [
    "if_last_layer",
    "representer_point",
    "representer_l1",
    "representer_nuclear",
    "rps_lje",
    "renorm_representer",
]


def objective(penalty: float = 0.0, pinned: bool = False) -> tuple[Objective, Tensor]:
    torch.manual_seed(0)
    f, t = torch.randn(12, 4).double(), torch.softmax(torch.randn(12, 3).double(), 1)
    each = torch.full((4,), penalty, dtype=torch.float64)
    pin = torch.tensor([0, 0, 0, 0.5]).double() if pinned else None
    return Objective(task_for("classification"), f, t, each, pin), torch.randn(3, 4).double()


@pytest.mark.parametrize("chunk", [1, 64 << 20])
def test_products_and_the_matrix_are_the_second_derivative(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("influx.engines.heads.PRODUCT_BYTES", chunk)
    made, theta = objective(0.3)

    def risk(flat: Tensor) -> Tensor:
        return cross_entropy(made.f @ flat.view(3, 4).T, made.t) + 0.15 * flat.square().sum()

    outputs = made.outputs(theta)
    expected = torch.autograd.functional.hessian(risk, theta.flatten())
    torch.testing.assert_close(made.matrix(outputs), expected, rtol=0, atol=1e-14)
    v = torch.randn(5, 3, 4).double()
    torch.testing.assert_close(made.product(outputs, v).flatten(1), v.flatten(1) @ expected, rtol=0, atol=1e-14)
    assert made.mean_eigenvalue(outputs) == pytest.approx(float(expected.diagonal().mean()), rel=1e-12)
    gradient = torch.autograd.functional.jacobian(risk, theta.flatten())
    torch.testing.assert_close(made.gradient(theta, outputs).flatten(), gradient, rtol=0, atol=1e-14)


def test_the_pin_is_in_products_and_in_the_matrix() -> None:
    made, theta = objective(0.0, pinned=True)
    outputs, v = made.outputs(theta), torch.randn(2, 3, 4).double()
    torch.testing.assert_close(made.product(outputs, v).flatten(1), v.flatten(1) @ made.matrix(outputs))
    alike = torch.zeros(1, 3, 4).double()
    alike[..., 3] = 1.0  # softmax does not see it, the pin does
    torch.testing.assert_close(made.product(outputs, alike), 0.5 * alike, rtol=0, atol=1e-15)


def test_conjugate_gradients_solve_as_the_factor_does(monkeypatch: pytest.MonkeyPatch) -> None:
    made, theta = objective(0.01)
    outputs, right = made.outputs(theta), torch.randn(5, 3, 4).double()
    dense = solver(made, outputs, 0.02, 0.0)
    monkeypatch.setattr(head_solvers, "DENSE", 0)
    monkeypatch.setattr(head_solvers, "CG_TOLERANCE", 1e-12)
    iterative = solver(made, outputs, 0.02, 0.0)
    torch.testing.assert_close(iterative.solve(right), dense.solve(right), rtol=1e-10, atol=1e-10)
    assert iterative.report["residual"] <= 1e-11 and iterative.report["solver"] == "conjugate gradients"
    assert iterative.own(right[:, :, 0], right[:, :, 0], made.f[:5]) is None


def test_right_hand_sides_of_conjugate_gradients_do_not_see_each_other() -> None:
    made, theta = objective(0.01)
    outputs, right = made.outputs(theta), torch.randn(3, 3, 4).double()
    right[1] = 0.0

    def product(v: Tensor) -> Tensor:
        return made.product(outputs, v)

    together, _ = conjugate_gradients(product, right, Kronecker.of(made, outputs, 0.0), 1e-12, 500)
    alone, _ = conjugate_gradients(product, right[2:], Kronecker.of(made, outputs, 0.0), 1e-12, 500)
    assert not together[1].any()
    torch.testing.assert_close(together[2:], alone, rtol=1e-12, atol=1e-12)


def test_the_factor_gives_values_of_instances_on_themselves() -> None:
    made, theta = objective(0.2)
    outputs = made.outputs(theta)
    r, s = made.residual(outputs), torch.randn(12, 3).double()
    rows = [(side[:, :, None] * made.f[:, None]).flatten(1) for side in (r, s)]
    inverse = torch.linalg.inv(made.matrix(outputs))
    found = solver(made, outputs, 0.0, 0.0).own(s, r, made.f)
    torch.testing.assert_close(found, torch.einsum("np,pq,nq->n", rows[1], inverse, rows[0]))


def test_conjugate_gradients_that_do_not_arrive_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made, theta = objective(1e-9)
    monkeypatch.setattr(head_solvers, "DENSE", 0)
    monkeypatch.setattr(head_solvers, "CG_STEPS", 1)
    with pytest.raises(NumericalError, match=r"1 iterations and not .*; raise estimator.damping, for example to"):
        solver(made, made.outputs(theta), 0.0, 0.0).solve(torch.randn(2, 3, 4).double())


class Probabilities(nn.Module):
    def __init__(self, data: Data) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(data.train.x.shape[1], 4), nn.Tanh(), nn.Linear(4, data.n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.layers(x), 1)


class Cosines(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x @ normalize(self.weight).T


class Tied(nn.Module):
    def __init__(self, data: Data) -> None:
        super().__init__()
        size = data.train.x.shape[1]
        self.first, self.last = nn.Linear(size, size), nn.Linear(size, size)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


@dataclass(frozen=True, kw_only=True)
class Made:
    which: str

    def build(self, data: Data) -> nn.Module:
        if self.which == "cosines":
            return nn.Sequential(nn.Linear(data.train.x.shape[1], 4), Cosines(4, data.n_outputs, bias=False))
        return Tied(data) if self.which == "tied" else Probabilities(data)


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("softmax", "must end in a linear layer"),
        ("cosines", "Cosines does something else; choose a model that ends in torch.nn.Linear"),
        ("tied", "another layer uses them too; choose a model without tied weights"),
    ],
)
def test_a_net_without_a_linear_head_is_refused_in_one_sentence(which: str, words: str, tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), Made(which=which), SGD(lr=0.1), epochs=1)
    for name in NAMES:
        with pytest.raises(IncompatibleError, match=words) as refused:
            toy.estimate(name)
        assert "\n" not in str(refused.value)


def test_plans_know_the_head_and_refuse_nets_without_one(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=4))
    shape = toy.learner.net_shape(toy.problem)
    for name in NAMES:
        estimator = estimator_named(name)
        assert isinstance(estimator, Planned)
        prospect = Prospect(problem=toy.problem, who=name, shape=shape)
        work = estimator.plan(prospect)
        assert work.flops > features_work(prospect).flops
        assert "3 x 5" in work.formula or "15 weights" in work.formula
        with pytest.raises(IncompatibleError, match="must end in a linear layer"):
            estimator.plan(replace(prospect, shape=replace(shape, head=0)))


def test_decay_is_that_of_the_recipe(tmp_path: Path) -> None:
    def stationarity(toy: Toy) -> float:
        return float(toy.estimate("if_last_layer", damping=1.0).report["gradient_norm"])

    toy = toys.train(tmp_path, toys.table(), MLP(width=3), SGD(lr=0.2, weight_decay=0.3, decay_on="weights"))
    module = toy.module()
    x, y = toy.tensors(toy.train)
    head = module[-1]  # type: ignore[index]
    weight, bias = torch.autograd.grad(cross_entropy(module(x), y), list(head.parameters()))
    expected = torch.cat([(weight + 0.3 * head.weight).flatten(), bias]).norm().detach()
    assert stationarity(toy) == pytest.approx(float(expected), rel=1e-10)


def test_decoupled_decay_is_warned_about(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=3), AdamW(lr=0.01))
    estimator = estimator_named("if_last_layer")
    run = toy.run(estimator, "if_last_layer")
    estimator.estimate(run)
    assert any("decoupled weight decay" in warning for warning in run.warnings)


def test_a_singular_curvature_names_a_penalty_that_works() -> None:
    made, theta = objective(1e-18)
    outputs, made = made.outputs(theta), replace(made, f=made.f * 1e3)
    with pytest.raises(NumericalError, match=r"set estimator.penalty=") as refused:
        head_solvers.newton_step(made, outputs, made.gradient(theta, outputs))
    named = torch.full((4,), float(str(refused.value).rpartition("=")[2])).double()
    made = replace(made, penalty=named)
    assert head_solvers.newton_step(made, outputs, made.gradient(theta, outputs)).isfinite().all()
