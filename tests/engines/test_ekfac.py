"""Layer-wise curvature against per-instance Jacobians and dense Kronecker products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from influx.engines import kronecker, layer_passes, outer
from influx.engines.compared import rank_correlation
from influx.engines.gradients import GradientsAt
from influx.engines.kronecker import block_for
from influx.engines.layerwise import Layerwise, damped, layers_of
from influx.engines.pseudogradients import PseudoGradients
from influx.engines.solvers.ekfac import EKFAC
from influx.errors import ConfigError, NumericalError
from influx.learners.torch.optimizers import SGD
from influx.learners.torch.tasks import Classification
from influx.models.cnn import CNN
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.needs import Need
from influx.oracles.toys import Toy, images, table, train
from influx.planning import Prospect
from influx.problem import Split
from influx.run import Run

ASKS = SimpleNamespace(requires=frozenset({Need.GRADIENTS, Need.CURVATURE}))
TOKENS = 6


def run_of(toy: Toy) -> Run:
    return toy.run(ASKS, "layers")  # type: ignore[arg-type]


def small(tmp_path: Path, task: str = "classification", model: object = None, decay: float = 0.1) -> Run:
    chosen = model or Linear()
    return run_of(train(tmp_path, table(task), chosen, SGD(lr=0.1, weight_decay=decay)))  # type: ignore[arg-type]


def test_a_linear_layer_with_squared_error_is_inverted_exactly(tmp_path: Path) -> None:
    run = small(tmp_path, "regression")
    h = run.curvature.matrix("ggn", 100)
    rhs = torch.randn(5, len(h), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for strategy in ("ekfac", "kfac"):
        inverse = EKFAC(whole=0, strategy=strategy).inverse(run, "ggn", 0.3)  # type: ignore[arg-type]
        exact = torch.linalg.solve(h + 0.3 * torch.eye(len(h), dtype=h.dtype), rhs.T).T
        assert (inverse.solve(rhs) - exact).norm() < 1e-12 * exact.norm()
        assert torch.allclose(inverse.quadratic(rhs), (rhs * exact).sum(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("model", [Linear(), MLP(width=3)])
def test_eigenvalues_of_the_moments_are_nearer_than_products_of_the_factors(tmp_path: Path, model: object) -> None:
    run = small(tmp_path, model=model, decay=0.0)
    h = run.curvature.matrix("ggn", 100)
    errors = {}
    for strategy in ("ekfac", "kfac", "diagonal"):
        errors[strategy] = float((blocks_of(run, strategy) - h).norm())
    assert errors["ekfac"] < 0.999 * errors["kfac"] and errors["ekfac"] < errors["diagonal"]


def blocks_of(run: Run, strategy: str, **settings: int) -> Tensor:
    """The approximate curvature (p, p) written out."""
    found = EKFAC(**{"whole": 0, "strategy": strategy} | settings).measured(run, "ggn")  # type: ignore[arg-type]
    h = torch.zeros(run.curvature.at.size, run.curvature.at.size, dtype=torch.float64)
    for _, columns, block in found:
        turned = block.into(torch.eye(columns.stop - columns.start, dtype=torch.float64))
        h[columns, columns] = block.back(turned * block.eigenvalues)
    return h


def test_large_damping_leaves_dot_products_of_gradients(tmp_path: Path) -> None:
    toy = train(tmp_path, table(), MLP(width=3), SGD(lr=0.1, weight_decay=0.1))
    values = toy.estimate("if_ekfac", damping=1e9).values * 1e9
    dots = toy.estimate("influence_functions", solver="identity").values
    assert np.abs(values - dots).max() < 1e-7 * np.abs(dots).max()


def test_layers_that_are_small_enough_are_whole(tmp_path: Path) -> None:
    run = small(tmp_path, model=MLP(width=3), decay=0.0)
    h, found = run.curvature.matrix("ggn", 100), blocks_of(run, "ekfac", whole=1000)
    inside = found != 0
    assert torch.allclose(found[inside], h[inside], rtol=0, atol=1e-13) and inside.float().mean() == 0.5
    report = EKFAC(whole=1000).inverse(run, "ggn", None).report
    assert report["share_whole"] == 1.0 and report["share_kronecker"] == 0.0


class Sequence(nn.Module):
    """Tokens, a shared weight, a norm, positions and convolutions in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(TOKENS, 4), nn.LayerNorm(4)
        self.twice, self.mix = nn.Linear(4, 4), nn.Conv1d(4, 4, 2, groups=2)
        self.position, self.head = nn.Parameter(torch.randn(3, 4)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.embed(x) + self.position)
        h = self.twice(self.twice(h).tanh()).tanh()
        out: Tensor = self.head(self.mix(h.transpose(1, 2)).tanh().flatten(1))
        return out


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.ConvTranspose2d(3, 2, 2), nn.Tanh(), nn.Flatten(),
        nn.Linear(2 * 9, 3),
    )  # fmt: skip


def source(make: Callable[[], nn.Module], tokens: bool) -> PseudoGradients:
    torch.manual_seed(0)
    module = make().double().eval()
    x = torch.randint(0, TOKENS, (5, 3)) if tokens else torch.randn(5, 2, 4, 4, dtype=torch.float64)
    y = torch.arange(5) % 3

    def tensors(split: Split) -> tuple[Tensor, Tensor]:
        rows = torch.as_tensor(split.ids)
        return x[rows], y[rows]

    at = GradientsAt(module, Classification(), "all", tensors)
    split = Split(x=x.numpy(), y=y.numpy(), ids=np.arange(5))
    return PseudoGradients(at, Classification(), split, "ggn", 3, np.empty((5, 0)), 2)


def measured(given: PseudoGradients, strategy: str) -> Layerwise:
    layers = list(layers_of(given.first(), given.at.parameters))
    blocks = [block_for(layer, c.stop - c.start, strategy) for layer, _, c in layers]  # type: ignore[arg-type]
    for rows, weight, again in given.blocks():
        for block, layer in zip(blocks, rows.layers, strict=True):
            block.gather(layer, weight, again)
    for block in blocks:
        block.turn()
    for rows, weight, _ in given.blocks():
        for block, layer in zip(blocks, rows.layers, strict=True):
            block.measure(layer, weight)
    zero = torch.zeros(given.at.size, dtype=torch.float64)
    pairs = zip(layers, blocks, strict=True)
    return Layerwise([damped(names, c, block, zero[c], 0.2) for (_, names, c), block in pairs], {})


def pseudo(given: PseudoGradients) -> Tensor:
    """``(n k, p)`` by one backward pass per instance and output; their outer products sum to the curvature."""
    x, _ = given.at.tensors(given.split)
    params = list(given.at.module.parameters())
    jacobian = torch.stack(
        [
            torch.stack(
                [torch.cat([g.flatten() for g in torch.autograd.grad(f, params, retain_graph=True)]) for f in outputs]
            )
            for outputs in (given.at.module(x[i : i + 1])[0].unbind() for i in range(len(x)))
        ]
    )
    p = torch.softmax(given.at.module(x), 1).detach()
    factors = p.sqrt()[:, :, None] * (torch.eye(3, dtype=p.dtype) - p[:, None, :])  # (n, k, outputs)
    return torch.einsum("nkc,ncp->nkp", factors, jacobian).flatten(0, 1) / len(x) ** 0.5


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(("make", "tokens"), [(Sequence, True), (convolutions, False)])
def test_every_kind_of_layer_against_moments_of_written_out_gradients(
    make: Callable[[], nn.Module], tokens: bool, pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces:
        monkeypatch.setattr(outer, "PIECE_BYTES", 1)
    given = source(make, tokens)
    g = pseudo(given)
    for strategy in ("ekfac", "diagonal"):
        inverse = measured(given, strategy)
        expected = torch.zeros(given.at.size, given.at.size, dtype=torch.float64)
        for part in inverse.parts:
            own, eye = g[:, part.columns], torch.eye(part.columns.stop - part.columns.start, dtype=torch.float64)
            basis = part.block.back(part.block.into(eye))
            assert torch.allclose(basis, eye, rtol=0, atol=1e-12)  # a rotation
            basis = part.block.into(eye).flatten(1)
            moments = torch.diag((own @ basis).square().sum(0))
            expected[part.columns, part.columns] = basis @ (moments + 0.2 * eye) @ basis.T
            assert part.block.trace == pytest.approx(float(own.square().sum()), rel=1e-10)
        rhs = torch.randn(4, given.at.size, dtype=torch.float64)
        exact = torch.linalg.solve(expected, rhs.T).T
        assert (inverse.solve(rhs) - exact).norm() < 1e-11 * exact.norm()
        rows = given.at.rows(*given.at.tensors(given.split))
        assert torch.allclose(inverse.quadratic_of(rows), inverse.quadratic(rows.flat()), rtol=1e-11, atol=0)


def test_kinds_of_blocks_cover_every_parameter() -> None:
    inverse = measured(source(Sequence, True), "ekfac")
    kinds = {part.names: part.block.kind for part in inverse.parts}
    assert kinds == {
        ("position",): "whole",
        ("embed.weight",): "kronecker",
        ("norm.weight", "norm.bias"): "whole",
        ("twice.weight", "twice.bias"): "kronecker",
        ("mix.weight", "mix.bias"): "whole",
        ("head.weight", "head.bias"): "kronecker",
    }
    assert sum(part.columns.stop - part.columns.start for part in inverse.parts) == len(inverse.damping)


def test_many_sampled_labels_come_near_the_expectation(tmp_path: Path) -> None:
    run = small(tmp_path, model=MLP(width=3))
    expected = trace_of(run, EKFAC(whole=0), "ggn")
    few, many = (
        [abs(trace_of(run, EKFAC(whole=0, samples=s), "sampled_fisher", who) - expected) for who in range(4)]
        for s in (1, 100)
    )
    assert np.mean(many) < 0.3 * np.mean(few) and np.mean(many) < 0.1 * expected


def trace_of(run: Run, solver: EKFAC, kind: str, seed: int = 0) -> float:
    other = replace(run, problem=replace(run.problem, seed=seed))
    return sum(block.trace for _, _, block in solver.measured(other, kind))  # type: ignore[arg-type]


def test_sampled_labels_of_regression_have_unit_variance(tmp_path: Path) -> None:
    run = small(tmp_path, "regression")
    expected = trace_of(run, EKFAC(whole=0), "ggn")
    assert trace_of(run, EKFAC(whole=0, samples=400), "sampled_fisher") == pytest.approx(expected, rel=0.1)


def test_some_instances_stand_for_all(tmp_path: Path) -> None:
    run = small(tmp_path)
    every = blocks_of(run, "ekfac")
    assert torch.equal(blocks_of(run, "ekfac", max_examples=9), every)
    some = blocks_of(run, "ekfac", max_examples=4)
    assert 0.2 < float(some.trace() / every.trace()) < 5 and not torch.allclose(some, every)


def test_the_report_says_how_far_to_believe_it(tmp_path: Path) -> None:
    report = EKFAC(whole=0).inverse(small(tmp_path, model=MLP(width=3)), "ggn", None).report
    assert "trace_kept" not in report and 0.1 < float(report["captured"]) < 1
    assert 0 < float(report["error"]) < 1 and 0.5 < float(report["spearman"]) <= 1
    exact = EKFAC(whole=0).inverse(small(tmp_path, "regression"), "ggn", None).report
    assert float(exact["error"]) < 1e-10 and exact["spearman"] == pytest.approx(1.0)
    assert exact["captured"] == pytest.approx(1.0)


def test_the_captured_share_is_only_of_a_projection_of_this_curvature(tmp_path: Path) -> None:
    run = small(tmp_path, model=MLP(width=3))

    def report(kind: str = "ggn", **settings: object) -> dict[str, float | str]:
        return EKFAC(whole=0, **settings).inverse(run, kind, 0.1).report  # type: ignore[arg-type]

    h = run.curvature.matrix("ggn", 100) - torch.diag(run.curvature.decay)
    for strategy in ("ekfac", "diagonal"):
        made = blocks_of(run, strategy)
        share = float(made.square().sum() / h.square().sum())
        assert report(strategy=strategy)["captured"] == pytest.approx(share, rel=1e-9)
        assert float((made * (h - made)).sum()) == pytest.approx(0, abs=1e-12)  # a projection
    assert "captured" in report("empirical_fisher") and "captured" in report(max_examples=len(run.train))
    for other in (report("sampled_fisher"), report(max_examples=3), report(strategy="kfac")):
        assert "captured" not in other
    product = blocks_of(run, "kfac").trace()
    assert report(strategy="kfac")["trace_kept"] == pytest.approx(float(product / h.trace()), rel=1e-9)
    assert abs(float(product / h.trace()) - 1) > 1e-3


def test_layers_have_damping_of_their_own_and_the_report_has_its_range(tmp_path: Path) -> None:
    inverse = EKFAC(whole=0).inverse(small(tmp_path, model=MLP(width=3)), "ggn", None)
    own = [part.damping for part in inverse.parts]
    assert inverse.report["damping_min"] == min(own) < max(own) == inverse.report["damping_max"]
    assert min(own) < float(inverse.report["damping"]) < max(own)


def test_ties_get_their_mean_rank() -> None:
    left = torch.tensor([[0.0], [0.0], [1.0], [2.0]])
    assert rank_correlation(left, left[[1, 0, 2, 3]]) == pytest.approx(1.0)
    right = torch.tensor([[1.0], [0.0], [2.0], [3.0]])
    assert rank_correlation(left, right) == pytest.approx(rank_correlation(left[[1, 0, 2, 3]], right[[1, 0, 2, 3]]))


@pytest.mark.parametrize("strategy", ["ekfac", "kfac"])
def test_a_side_that_is_too_large_keeps_its_own_basis(
    tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small(tmp_path, model=MLP(width=2), decay=0.0)  # sides 2 x 4 and 3 x 3
    monkeypatch.setattr(kronecker, "SIDE", 3)
    h = run.curvature.matrix("ggn", 100)
    found = EKFAC(whole=0, strategy=strategy).measured(run, "ggn")  # type: ignore[arg-type]
    assert [block.kind for _, _, block in found] == ["partial", "kronecker"]
    _, columns, block = found[0]
    basis = block.into(torch.eye(8, dtype=torch.float64)).view(8, 2, 4)
    inputs = torch.cat([torch.arange(3).repeat(2), torch.tensor([3, 3])])  # of the weight, then of the bias
    assert torch.equal(basis.abs().sum(1) > 0, inputs[:, None] == torch.arange(4))
    squares = np.append(np.square(run.train.x.astype(np.float64)).mean(0), 1.0)
    if strategy == "ekfac":
        moments = torch.einsum("irc,ij,jrc->rc", basis, h[columns, columns], basis)
        assert torch.allclose(block.eigenvalues, moments, rtol=1e-10, atol=1e-14)
    else:
        total = block.eigenvalues.sum(0).numpy()
        assert np.allclose(total / total[-1], squares, rtol=1e-10, atol=0)
    report = EKFAC(whole=0, strategy=strategy).inverse(run, "ggn", None).report  # type: ignore[arg-type]
    assert report["share_partial"] == pytest.approx(8 / len(h)) and report["share_diagonal"] == 0


class Shared(nn.Module):
    """Tokens and a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.twice, self.head = nn.Embedding(TOKENS, 4), nn.Linear(4, 4), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.twice(self.twice(self.embed(x)).tanh()).tanh().flatten(1))
        return out


def transposed() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(2, 3, 2, stride=2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(192, 3))


def expected_factors(given: PseudoGradients, layer: nn.Module) -> tuple[Tensor, Tensor, int]:
    """Σ of outer products of inputs and of output gradients over n, by hooks; and the positions of an instance."""
    x, _ = given.at.tensors(given.split)
    seen: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _, ins, out: seen.append((ins[0], out)))
    outputs = given.at.module(x)
    hook.remove()
    p = torch.softmax(outputs, 1).detach()
    factors = p.sqrt()[:, :, None] * (torch.eye(3, dtype=p.dtype) - p[:, None, :])
    inputs, pulls = [], []
    for k in range(3):
        gradients = torch.autograd.grad(outputs, [out for _, out in seen], factors[:, k], retain_graph=True)
        for (given_in, _), gradient in zip(seen, gradients, strict=True):
            if isinstance(layer, nn.Embedding):
                vectors = nn.functional.one_hot(given_in, TOKENS).double()
            elif isinstance(layer, nn.ConvTranspose2d):  # each input position makes a patch of the output
                vectors = given_in.flatten(2).transpose(1, 2)
                gradient = nn.functional.unfold(gradient, 2, stride=2).transpose(1, 2)
            else:
                vectors = torch.cat([given_in, torch.ones_like(given_in[..., :1])], -1)
            pulls.append(gradient.reshape(-1, gradient.shape[-1]))
            inputs += [vectors.reshape(-1, vectors.shape[-1]).detach()] * (k == 0)
    a, g = torch.cat(inputs), torch.cat(pulls)
    return a.T @ a / len(x), g.T @ g / len(x), len(a) // len(x)


@pytest.mark.parametrize(
    ("make", "name"),
    [(Shared, "embed"), (Shared, "twice"), (transposed, "0")],
    ids=["embedding", "shared", "transposed"],
)
def test_kfac_is_the_product_of_the_factors_of_every_kind_of_layer(make: Callable[[], nn.Module], name: str) -> None:
    given = source(make, make is Shared)
    parts = measured(given, "kfac").parts
    part = next(part for part in parts if part.names[0] == f"{name}.weight")
    layer = given.at.module.get_submodule(name)
    inputs, pulls, positions = expected_factors(given, layer)
    eye = torch.eye(part.columns.stop - part.columns.start, dtype=torch.float64)
    turned = part.block.into(eye)
    found = part.block.back(turned * part.block.eigenvalues)
    if isinstance(layer, nn.Linear):  # the weight row by row, then the bias
        numbers = torch.arange(20).view(4, 5)
        expected = torch.kron(pulls, inputs) / positions
        order = torch.cat([numbers[:, :4].flatten(), numbers[:, 4]])
        expected = expected[order][:, order]
    else:
        expected = torch.kron(inputs, pulls) / positions
    assert part.block.kind == "kronecker" and torch.allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_the_plan_has_the_largest_side_and_whole_matrices(tmp_path: Path) -> None:
    toy = train(tmp_path, table(features=300), Linear(), SGD(lr=0.01), epochs=1)
    shape = toy.learner.net_shape(toy.problem)
    assert shape.sides == ((3, 301, 903),)
    prospect = Prospect(problem=toy.problem, who="layers", shape=shape)
    sides, whole = (EKFAC(whole=w, audit=False).work(prospect, "ggn", False) for w in (0, 903))
    assert sides.bytes >= 8 * 4 * 301**2 and whole.bytes >= 8 * 4 * 903**2
    assert EKFAC(whole=10**6, audit=False).work(prospect, "ggn", False).bytes == whole.bytes
    assert sides.flops >= 2 * 15 * 301**3 and whole.flops > 20 * sides.flops
    audited = EKFAC(whole=0).work(prospect, "ggn", False)
    assert audited.bytes >= 8 * 4 * 903**2 and audited.flops > sides.flops
    wide = replace(shape, sides=((3, 9001, 27003),), parameters=27003)
    bounded = EKFAC(whole=0).work(replace(prospect, shape=wide), "ggn", False)
    assert bounded.bytes < 8 * 9001**2


def test_a_tenth_of_each_layers_mean_eigenvalue_damps_it(tmp_path: Path) -> None:
    inverse = EKFAC(whole=0).inverse(small(tmp_path, model=MLP(width=3)), "ggn", None)
    for part in inverse.parts:
        undamped = part.divisor - part.damping
        assert part.damping == pytest.approx(0.1 * float(undamped.mean()))
        assert float(undamped.min()) > 0.1 - 1e-12  # weight decay


def test_what_cannot_be_inverted_is_refused_in_one_sentence(tmp_path: Path) -> None:
    run = small(tmp_path, decay=0.0)
    with pytest.raises(NumericalError, match=r"0.weight and 0.bias is singular.*set estimator.damping=0\.\d+ or"):
        EKFAC(whole=0).inverse(run, "ggn", 0.0)
    silent = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)).double()
    with torch.no_grad():
        silent[0].bias.fill_(-1e9)
    x, y = torch.randn(5, 2).double(), torch.arange(5) % 3
    at = GradientsAt(silent, Classification(), "all", lambda split: (x[split.ids], y[split.ids]))
    split = Split(x=x.numpy(), y=y.numpy(), ids=np.arange(5))
    given = PseudoGradients(at, Classification(), split, "ggn", 3, np.empty((5, 0)), 5)
    with pytest.raises(NumericalError, match=r"gradients of 0.weight and 0.bias are zero.*estimator.damping=0.001"):
        layers = list(layers_of(given.first(), at.parameters))
        block = block_for(layers[0][0], 6, "ekfac")
        for rows, weight, again in given.blocks():
            block.gather(rows.layers[0], weight, again)
        block.turn()
        for rows, weight, _ in given.blocks():
            block.measure(rows.layers[0], weight)
        damped(layers[0][1], layers[0][2], block, torch.zeros(6, dtype=torch.float64), None)
    with pytest.raises(ConfigError, match=r"got hessian; set estimator.curvature=ggn"):
        EKFAC(whole=0).inverse(run, "hessian", None)
    for settings in ({"strategy": "shampoo"}, {"samples": 0}, {"max_examples": 0}, {"whole": -1}):
        with pytest.raises(ConfigError, match=f"estimator.{next(iter(settings))} must.*set"):
            EKFAC(**settings)  # type: ignore[arg-type]


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 4), nn.Tanh(), nn.Linear(4, 3, bias=False))


def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"PIECE_BYTES": 1, "FEW": 2, "TILE": 1, "PANEL": 1}.items():
        monkeypatch.setattr(outer, name, size)
    for name, size in {"FACTOR_BYTES": 1, "GROUP": 2, "MOST": 2, "LEFT_BYTES": 1}.items():
        monkeypatch.setattr(layer_passes, name, size)


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(("make", "tokens"), [(Sequence, True), (convolutions, False), (dense, False)])
def test_products_by_factors_are_those_with_solutions(
    make: Callable[[], nn.Module], tokens: bool, pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces:
        in_small_pieces(monkeypatch)
    given = source(make, tokens)
    inverse = measured(given, "ekfac")
    x, y = given.at.tensors(given.split)
    held = inverse.held(given.at.rows(x[part], y[part]) for part in (slice(0, 2), slice(2, 3)))
    group, parts = layer_passes.Group(inverse, held, 5), (slice(0, 3), slice(3, 5))
    found = [group.add(given.at.rows(x[part], y[part]), part.stop - part.start) for part in parts]
    g = given.at.rows(x, y).flat()
    expected = g @ inverse.solve(g[:3]).T
    assert (group.finish() - expected).abs().max() < 1e-12 * expected.abs().max()
    assert torch.allclose(torch.cat([squares for squares, _ in found]), g.square().sum(1), rtol=1e-12, atol=0)
    assert torch.allclose(found[0][1] + found[1][1], g.sum(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ones", [False, True])
def test_moments_are_right_below_the_diagonal(ones: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outer, "PANEL", 2)
    vectors = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = torch.cat([vectors, torch.ones(7, 1)], 1) if ones else vectors
    assert torch.allclose(outer.moment(vectors, ones).tril(), (whole.T @ whole).tril(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("relative", ["none", "theta", "loss"])
def test_influence_is_that_of_solutions_whatever_the_blocks(
    tmp_path: Path, relative: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = train(tmp_path, table(), MLP(width=3), SGD(lr=0.1, weight_decay=0.1))
    run = run_of(toy)
    inverse, at = EKFAC(whole=0 if relative == "none" else None).inverse(run, "ggn", 0.3), run.curvature.at
    g, target = (at.rows(*at.tensors(split)).flat() for split in (run.train, run.test))
    moved, n = inverse.solve(g), len(run.train)
    own = (moved * g).sum(1)
    divisors = {"none": torch.ones_like(own), "theta": moved.norm(dim=1), "loss": own.sqrt()}[relative]
    name, settings = ("if_ekfac", {"whole": 0}) if relative == "none" else ("relatif", {"constraint": relative})
    given = {"curvature": "ggn", "damping": 0.3} | settings | ({} if relative == "none" else {"solver": "ekfac"})
    for pieces in (False, True):
        if pieces:
            in_small_pieces(monkeypatch)
        found = toy.estimate(name, **given)
        expected = (moved @ target.T / n / divisors[:, None]).numpy()
        assert np.abs(found.values - expected).max() < 1e-12 * np.abs(expected).max()
        assert found.self_influence is not None
        assert np.allclose(found.self_influence, (own / n / divisors).numpy(), rtol=1e-12, atol=0)


SLOW_CNN = pytest.param(CNN(channels=[2, 3], hidden=3), marks=pytest.mark.slow)


@pytest.mark.parametrize("model", [MLP(width=3), SLOW_CNN])
def test_the_precision_of_the_model_is_enough(
    tmp_path: Path, model: MLP | CNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = images() if isinstance(model, CNN) else table()
    toy = train(tmp_path, data, model, SGD(lr=0.1, weight_decay=0.1), dtype="float32")
    exact = toy.estimate("if_ekfac", whole=0, damping=0.1)
    monkeypatch.setattr("influx.engines.curvature.SMALL", 0)
    run = run_of(toy)
    assert next(iter(run.curvature.layered.parameters.values())).dtype == torch.float32
    found = toy.estimate("if_ekfac", whole=0, damping=0.1)
    assert 0 < np.abs(found.values - exact.values).max() < 1e-4 * np.abs(exact.values).max()
    assert exact.self_influence is not None
    assert np.allclose(found.self_influence, exact.self_influence, rtol=1e-3, atol=0)


@pytest.mark.parametrize("ggn", [True, False])
def test_one_forward_pass_serves_several_output_gradients(ggn: bool) -> None:
    given = source(Sequence, True)
    x, y = given.at.tensors(given.split)
    ofs = [given._gradient(slice(0, 5), number) for number in range(3)] if ggn else [None, None]
    for rows, of in zip(given.at.several(x, y, ofs), ofs, strict=True):
        assert torch.equal(rows.flat(), given.at.rows(x, y, of).flat())
