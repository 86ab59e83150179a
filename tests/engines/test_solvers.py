"""Curvature solvers against dense solutions, and what they say when they cannot solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from influx.engines.curvature import Curvature
from influx.engines.factorised import factorise
from influx.engines.lanczos import extremes, lanczos
from influx.engines.operators import Kind, Operator
from influx.engines.solvers.arnoldi import Arnoldi, LowRank
from influx.engines.solvers.cg import BlockCG, ConjugateGradients
from influx.engines.solvers.choice import Choice
from influx.engines.solvers.lissa import LiSSA, Series
from influx.errors import ConfigError, NumericalError
from influx.learners.torch.optimizers import SGD
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.needs import Need
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.problem import Data
from influx.run import Run

DAMPING = 0.3


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A net whose Hessian has negative eigenvalues."""
    below = tmp_path_factory.mktemp("solvers")
    return toys.train(below, toys.table(n_train=30), MLP(width=4), SGD(lr=0.1, weight_decay=0.05))


@pytest.fixture(scope="module")
def curvature(toy: Toy) -> Curvature:
    return Curvature(toy.fitted, toy.train)


def run_of(toy: Toy) -> Run:
    return toy.run(estimator_named("if_exact"), "candidate", requires=frozenset({Need.CURVATURE, Need.GRADIENTS}))


def vectors(count: int, size: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def dense(operator: Operator) -> Tensor:
    return operator.product(torch.eye(operator.size, dtype=torch.float64))


def cg(operator: Operator, tolerance: float = 1e-8, iterations: int = 200) -> BlockCG:
    return BlockCG(operator, tolerance, iterations, None, remedy=ConjugateGradients().remedy)


@pytest.mark.parametrize("kind", ["ggn", "hessian", "fisher", "sampled_fisher", "empirical_fisher"])
def test_products_are_those_with_the_matrix(curvature: Curvature, kind: Kind) -> None:
    uniform = np.random.default_rng(0).random(len(curvature.train))
    operator = curvature.operator(kind, DAMPING, uniform)
    v = vectors(5, operator.size)
    expected = v @ curvature.matrix(kind, 1000, uniform) + DAMPING * v
    torch.testing.assert_close(operator.product(v), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["ggn", "hessian", "empirical_fisher"])
def test_products_with_batches_average_to_that_with_the_whole_and_inverses_do_not(
    curvature: Curvature, kind: Kind
) -> None:
    """T2's trap: the mean of the batches' solutions is another vector than the solution."""
    operator = curvature.operator(kind, 2.0)
    v, batches = vectors(2, operator.size), np.arange(30).reshape(3, 10)
    mean = torch.stack([operator.product(v, rows) for rows in batches]).mean(0)
    torch.testing.assert_close(mean, operator.product(v), rtol=0, atol=1e-12)
    eye = torch.eye(operator.size, dtype=torch.float64)
    each = torch.stack([torch.linalg.solve(operator.product(eye, rows), v.T).T for rows in batches]).mean(0)
    whole = torch.linalg.solve(dense(operator), v.T).T
    assert float((each - whole).norm() / whole.norm()) > 1e-3


def test_the_sampled_fisher_is_an_estimate_of_the_gauss_newton_matrix(curvature: Curvature) -> None:
    expected, rng = curvature.matrix("ggn", 1000), np.random.default_rng(0)
    drawn = [curvature.matrix("sampled_fisher", 1000, rng.random(30)) for _ in range(400)]
    mean, error = torch.stack(drawn).mean(0), torch.stack(drawn).std(0) / 20
    assert float(((mean - expected).abs() <= 4 * error + 1e-12).double().mean()) > 0.99
    assert float((drawn[0] - expected).norm() / expected.norm()) > 0.05


def test_conjugate_gradients_meet_their_tolerance_by_fresh_products(curvature: Curvature) -> None:
    operator = curvature.operator("ggn", 1e-3)
    rhs, matrix = vectors(6, operator.size), dense(operator)
    for tolerance in (1e-4, 1e-12):
        solver = cg(operator, tolerance)
        residual = solver.solve(rhs) @ matrix - rhs
        assert float((residual.norm(dim=1) / rhs.norm(dim=1)).max()) <= tolerance * 1.01
        assert float(solver.report["residual"]) <= tolerance


def test_a_block_needs_fewer_iterations_than_one_by_one_and_solves_the_same(curvature: Curvature) -> None:
    operator = curvature.operator("ggn", 1e-3)
    rhs = vectors(8, operator.size)
    together, alone = cg(operator, 1e-10), cg(operator, 1e-10)
    found = together.solve(rhs)
    expected = torch.cat([alone.solve(row[None]) for row in rhs])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
    assert float(together.report["iterations"]) < float(alone.report["iterations"]) / 2


def test_dependent_zero_and_tiny_right_hand_sides_are_solved_too(curvature: Curvature) -> None:
    operator = curvature.operator("ggn", DAMPING)
    v = vectors(2, operator.size)
    rhs = torch.cat([v, v[:1] + v[1:], 0 * v[:1], 1e-9 * v[:1], v])
    expected = torch.linalg.solve(dense(operator), rhs.T).T
    found = cg(operator).solve(rhs)
    assert float(((found - expected).norm(dim=1) <= 1e-7 * expected.norm(dim=1).clamp_min(1e-300)).double().mean()) == 1


def test_negative_curvature_is_named_with_a_damping_that_works(curvature: Curvature) -> None:
    operator = curvature.operator("hessian", 0.0)
    negative = -1.0
    bent = Operator(operator.at, operator.task, operator.train, "hessian", operator.decay + negative)
    with pytest.raises(NumericalError, match=r"eigenvalue of about -1.*; set estimator\.damping=([\d.e+-]+)") as caught:
        cg(bent).solve(vectors(2, bent.size))
    enough = float(str(caught.value).split("estimator.damping=")[1].split()[0])
    solver = cg(bent.damped(enough))
    solver.solve(vectors(2, bent.size))
    assert float(solver.report["residual"]) <= 1e-8


def test_too_few_iterations_are_said(curvature: Curvature) -> None:
    with pytest.raises(NumericalError, match=r"relative residual of .* in 2 iterations.*estimator\.max_iterations"):
        cg(curvature.operator("ggn", 1e-6), 1e-12, 2).solve(vectors(1, curvature.at.size))


def test_the_preconditioner_changes_the_way_and_not_the_answer(tmp_path: Path) -> None:
    """Inputs of very different sizes, which the layers' own factors know."""
    data = toys.table(n_train=40, features=12)
    scales = np.geomspace(0.01, 3, 12).astype(np.float32)
    data = replace(data, train=replace(data.train, x=data.train.x * scales))
    toy = toys.train(tmp_path, data, Linear(), SGD(lr=0.01))
    rhs = vectors(1, Curvature(toy.fitted, toy.train).at.size)
    solvers = [
        ConjugateGradients(tolerance=1e-8, preconditioner=before).inverse(run_of(toy), "ggn", 1e-6)  # type: ignore[arg-type]
        for before in ("none", "ekfac")
    ]
    first, second = (solver.solve(rhs) for solver in solvers)
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max()))
    assert float(solvers[1].report["iterations"]) < 0.9 * float(solvers[0].report["iterations"])


def series(toy: Toy, damping: float, **settings: object) -> Series:
    return LiSSA(**settings).inverse(run_of(toy), "ggn", damping)  # type: ignore[arg-type]


def test_a_series_of_the_whole_curvature_is_its_inverse(toy: Toy, curvature: Curvature) -> None:
    operator = curvature.operator("ggn", DAMPING)
    rhs = vectors(2, operator.size)
    found = series(toy, DAMPING, batch_size=30, depth=400, repeats=1, averaged=False).solve(rhs)
    torch.testing.assert_close(found, torch.linalg.solve(dense(operator), rhs.T).T, rtol=1e-10, atol=1e-10)


def test_e5_published_damping_is_ours_over_the_scale(toy: Toy, curvature: Curvature) -> None:
    """u ← v + (1 - d) u - H u / σ, then u / σ, solves (H + d σ I) x = v: ours with δ = d σ."""
    operator, scale, d = curvature.operator("ggn", 0.0), 20.0, 0.05
    h, v = dense(operator), vectors(2, operator.size)
    published = v.clone()
    for _ in range(500):
        published = v + (1 - d) * published - published @ h / scale
    settings = {"batch_size": 30, "depth": 500, "repeats": 1, "averaged": False, "lissa_scale": scale}
    ours = series(toy, d * scale, **settings).solve(v)
    torch.testing.assert_close(ours, published / scale, rtol=1e-9, atol=1e-11)
    wrong = series(toy, d, **settings).solve(v)
    assert float((wrong - published / scale).norm() / ours.norm()) > 0.1


def test_the_spread_of_runs_covers_the_exact_solution(toy: Toy, curvature: Curvature) -> None:
    operator = curvature.operator("ggn", DAMPING)
    rhs = vectors(3, operator.size)
    runs = series(toy, DAMPING, batch_size=10, depth=80, repeats=12).repeats(rhs)
    exact = torch.linalg.solve(dense(operator), rhs.T).T
    error, se = (runs.mean(0) - exact).abs(), runs.std(0) / 12**0.5
    assert float((error <= 2.2 * se).double().mean()) > 0.85  # 95 % of Student's t with 11 degrees
    assert float(se.mean()) > 0


def test_averaging_makes_the_runs_agree(toy: Toy) -> None:
    rhs = vectors(2, Curvature(toy.fitted, toy.train).at.size)
    last, averaged = (
        series(toy, DAMPING, batch_size=5, depth=80, repeats=4, averaged=which).repeats(rhs).std(0).mean()
        for which in (False, True)
    )
    assert float(averaged) < 0.5 * float(last)


@pytest.mark.fault(21, "a diverging series is stopped with a scale that is enough")
def test_divergence_is_caught_early_and_explained(toy: Toy) -> None:
    largest = extremes(Curvature(toy.fitted, toy.train).operator("ggn", DAMPING).product, 31, torch.zeros(1).double())
    too_small = largest[1] / 2.2
    diverging = series(toy, DAMPING, batch_size=30, depth=2000, repeats=1, lissa_scale=too_small)
    with pytest.raises(NumericalError, match=r"LiSSA diverges .*its scale .*set estimator\.lissa_scale="):
        diverging.solve(vectors(1, diverging.operator.size))


def space(toy: Toy, damping: float, kind: Kind = "ggn", **settings: object) -> LowRank:
    return Arnoldi(**settings).inverse(run_of(toy), kind, damping)  # type: ignore[arg-type]


def test_a_whole_krylov_space_is_exact_with_negative_eigenvalues_too(toy: Toy, curvature: Curvature) -> None:
    for kind in ("ggn", "hessian"):
        operator = curvature.operator(kind, 3.0)  # type: ignore[arg-type]
        rhs = vectors(2, operator.size)
        found = space(toy, 3.0, kind, iterations=1000, rank=1000, negative="keep")  # type: ignore[arg-type]
        expected = torch.linalg.solve(dense(operator), rhs.T).T
        torch.testing.assert_close(found.solve(rhs), expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found.quadratic(rhs), (rhs * expected).sum(1), rtol=1e-9, atol=1e-10)


def test_low_rank_solutions_are_those_of_the_kept_pairs(toy: Toy, curvature: Curvature) -> None:
    h = dense(curvature.operator("ggn", 0.0))
    values, eigenvectors = torch.linalg.eigh(h)
    top, v = eigenvectors[:, -4:].T, vectors(2, len(h))
    inside = (v @ top.T / (values[-4:] + DAMPING)) @ top
    outside = v - (v @ top.T) @ top
    mean = float(values[:-4].mean())
    for complement, expected in (
        ("drop", inside),
        ("zero", inside + outside / DAMPING),
        ("mean", inside + outside / (DAMPING + mean)),
    ):
        found = space(toy, DAMPING, iterations=1000, rank=4, complement=complement).solve(v)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_the_share_of_the_gradient_in_the_space_is_reported(toy: Toy) -> None:
    found = space(toy, DAMPING, iterations=1000, rank=2)
    v = vectors(3, found.vectors.shape[1])
    found.solve(torch.cat([found.vectors[:1], v]))
    shares = (v @ found.vectors.T).square().sum(1) / v.square().sum(1)
    assert found.report["explained_min"] == pytest.approx(float(shares.min()))


def test_an_invariant_space_is_left_for_further_copies_of_its_eigenvalues() -> None:
    matrix = torch.diag(torch.tensor([3.0, 3.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    ritz = lanczos(lambda v: v @ matrix, torch.ones(5, dtype=torch.float64), 5)
    torch.testing.assert_close(ritz.values, torch.tensor([0.0, 0.0, 1.0, 3.0, 3.0]).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(ritz.vectors @ ritz.vectors.T, torch.eye(5).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(ritz.vectors @ matrix, ritz.values[:, None] * ritz.vectors, rtol=0, atol=1e-12)


def test_residuals_bound_the_distance_to_an_eigenvalue(curvature: Curvature) -> None:
    h = dense(curvature.operator("hessian", 0.0))
    ritz, values = lanczos(lambda v: v @ h, vectors(1, len(h))[0], 8), torch.linalg.eigvalsh(h)
    nearest = (ritz.values[:, None] - values).abs().min(dim=1).values
    assert bool((nearest <= ritz.residuals + 1e-12).all()) and float(ritz.residuals.max()) > 1e-4
    direct = (ritz.vectors @ h - ritz.values[:, None] * ritz.vectors).norm(dim=1)
    torch.testing.assert_close(ritz.residuals, direct, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("size", [40, 400])
def test_extreme_eigenvalues_decide_the_damping(size: int) -> None:
    """The report's eigenvalues, from few products for large matrices, against all of them."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3 * size, size, generator=generator, dtype=torch.float64)
    h = rows.T @ rows / (3 * size)
    values, found = torch.linalg.eigvalsh(h), factorise(h, None)
    assert found.report["damping"] == 0
    assert found.report["lambda_max"] == pytest.approx(float(values[-1]), rel=0.01)
    assert found.report["lambda_min"] == pytest.approx(float(values[0]), rel=0.05)
    singular = factorise(h - 0.999999999999 * float(values[0]) * torch.eye(size, dtype=torch.float64), None)
    assert singular.report["damping"] == pytest.approx(0.1 * float((values - values[0]).mean()), rel=1e-6)
    damped = factorise(h, DAMPING)
    expected = float((values / (values + DAMPING)).sum())
    assert damped.report["effective_dimension"] == pytest.approx(expected, rel=1e-9 if size <= 256 else 0.02)


CHOICES = [(1000, 100, 650, "exact"), (1000, 100, 11_000, "cg"), (50_000, 10_000, 100_000_000, "ekfac")]


@pytest.mark.parametrize(("n", "m", "p", "name"), CHOICES)
def test_the_solver_is_chosen_by_size(n: int, m: int, p: int, name: str) -> None:
    assert Choice("auto").chosen(n, m, p) == name


BAD: list[tuple[Callable[[], object], str]] = [
    (partial(ConjugateGradients, tolerance=2.0), "tolerance"),
    (partial(ConjugateGradients, max_iterations=0), "max_iterations"),
    (partial(ConjugateGradients, preconditioner="x"), "preconditioner"),
    (partial(LiSSA, depth=0), "depth"),
    (partial(LiSSA, lissa_scale=-1.0), "lissa_scale"),
    (partial(Arnoldi, rank=300), "rank"),
    (partial(Arnoldi, negative="x"), "negative"),
    (partial(Arnoldi, complement="x"), "complement"),
    (partial(Choice, "x"), "solver"),
]


@pytest.mark.parametrize(("make", "name"), BAD)
def test_bad_settings_are_named(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"estimator\.{name} must"):
        make()


class Tokens:
    """A model of token ids."""

    def build(self, data: Data) -> nn.Module:
        return nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 3))


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    data = toys.table(n_train=12, features=4)
    tokens = [replace(s, x=(np.abs(s.x) * 2).astype(np.int64) % 7) for s in (data.train, data.test)]
    toy = toys.train(tmp_path, replace(data, kind="text", train=tokens[0], test=tokens[1]), Tokens(), SGD(lr=0.1))
    found = [toy.estimate(name, damping=0.1).values for name in ("if_exact", "if_cg")]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6 * np.abs(found[0]).max())


def test_short_series_that_diverge_are_caught_too(toy: Toy) -> None:
    diverging = series(toy, 0.0, batch_size=30, depth=20, repeats=1, lissa_scale=0.02)
    with pytest.raises(NumericalError, match="LiSSA diverges"):
        diverging.solve(vectors(1, diverging.operator.size))


@pytest.mark.parametrize("averaged", [False, True])
def test_the_reported_bias_is_that_along_the_smallest_eigenvalue(
    toy: Toy, curvature: Curvature, averaged: bool
) -> None:
    values, eigenvectors = torch.linalg.eigh(dense(curvature.operator("ggn", 0.1)))
    run = series(toy, 0.1, batch_size=30, depth=40, repeats=1, averaged=averaged)
    slowest = eigenvectors[:, :1].T  # decay and damping alone act on it: the smallest eigenvalue there is
    assert float(values[0]) == pytest.approx(0.15)
    bias = 1 - float(run.solve(slowest) @ slowest.T) * float(values[0])
    assert run.report["bias_bound"] == pytest.approx(bias, rel=1e-6)


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_the_rest_of_the_spectrum_is_its_mean(toy: Toy, curvature: Curvature, kind: Kind) -> None:
    values = torch.linalg.eigvalsh(dense(curvature.operator(kind, 0.0)))
    kept = values[values.abs().argsort(descending=True)]
    kept = kept[kept > 0][:3]
    found = space(toy, 2.0, kind, iterations=1000, rank=3)
    mean = float((values.sum() - kept.sum()) / (len(values) - 3))
    assert found.report["lambda_tail"] == pytest.approx(max(mean, 0.0), rel=1e-6)


def test_rounding_is_no_eigenvalue(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(n_train=2), Linear(), SGD(lr=0.1))
    for settings in ({"complement": "drop"}, {"complement": "drop", "negative": "keep"}):
        found = toy.estimate("if_arnoldi", damping=0.0, curvature="empirical_fisher", rank=10, **settings)
        assert np.abs(found.values).max() < 1e6


def test_a_trace_by_random_signs_is_close_and_a_small_one_exact(
    curvature: Curvature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = curvature.operator("hessian", 0.2)
    assert small.trace() == pytest.approx(float(dense(small).trace()), rel=1e-10)
    toy = toys.train(tmp_path, toys.table(n_train=30), MLP(width=[12, 12]), SGD(lr=0.1))
    large = Curvature(toy.fitted, toy.train).operator("ggn", 0.2)
    assert large.size > 128
    expected = float(dense(large).trace())
    monkeypatch.setattr(torch, "eye", lambda *sizes, **kind: pytest.fail("as many numbers as in the whole matrix"))
    assert large.trace() == pytest.approx(expected, rel=0.1)


def test_the_report_says_what_was_inverted(toy: Toy) -> None:
    for solver, curvature in (("datainf", "empirical_fisher"), ("identity", "none"), ("cg", "hessian")):
        found = toy.estimate("influence_functions", solver=solver, curvature="hessian", damping=5.0)
        assert found.report["curvature"] == curvature and found.report["solver"] == solver


def test_a_large_net_with_a_hessian_is_left_to_conjugate_gradients() -> None:
    assert Choice("auto").chosen(50_000, 10_000, 100_000_000, "hessian") == "cg"
