"""Products with the Hessian of a batch, written out for plain networks or by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from influx.engines import products
from influx.engines.dense_curvature import DenseCurvature
from influx.engines.products import Hessians
from influx.learners.torch.tasks import Classification, Regression, Task
from influx.models.layers import ACTIVATIONS
from tests.engines import nets

WRITTEN_OUT = ("tanh", "relu", "gelu", "silu", "sigmoid")
CLASSES, NUMBERS = Classification(), Regression()


def net(activation: str, depth: int, bias: bool, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip([6, 5, 4][:depth], [5, 4, 3], strict=False):
        layers += [nn.Linear(before, after, bias), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear([6, 5, 4, 3][depth], outputs, bias)).double()


def batch(task: Task, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, *shape, generator=generator, dtype=torch.float64)
    return x, torch.arange(7) % 3 if isinstance(task, Classification) else torch.linspace(-1, 1, 7).double()


def directions(module: nn.Module, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(count, *p.shape, generator=generator, dtype=p.dtype) for p in module.parameters()]


def flat(vectors: list[Tensor]) -> Tensor:
    return torch.cat([v.flatten(1) for v in vectors], 1)


def matrix(module: nn.Module, task: Task, x: Tensor, y: Tensor) -> Tensor:
    """``(p, p)`` by ``torch.autograd.functional``."""
    named = dict(module.named_parameters())

    def risk(theta: Tensor) -> Tensor:
        pieces = theta.split([p.numel() for p in named.values()])
        params = {name: piece.view_as(p) for (name, p), piece in zip(named.items(), pieces, strict=True)}
        return task.loss(functional_call(module, params, (x,)), y).mean()

    theta = torch.cat([p.detach().flatten() for p in named.values()])
    return torch.autograd.functional.hessian(risk, theta)


def gauss_newton(module: nn.Module, task: Task, x: Tensor, y: Tensor) -> Tensor:
    """``(p, p)`` mean of Jᵀ Λ J, from Jacobians and risks' Hessians of one instance after the other."""
    named = dict(module.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def outputs(theta: Tensor) -> Tensor:
        params = {n: piece.view_as(p) for (n, p), piece in zip(named.items(), theta.split(sizes), strict=True)}
        return functional_call(module, params, (x,))

    theta = torch.cat([p.detach().flatten() for p in named.values()])
    total = torch.zeros(len(theta), len(theta), dtype=theta.dtype)
    for rows, made, target in zip(torch.autograd.functional.jacobian(outputs, theta), outputs(theta), y, strict=True):
        curved = torch.autograd.functional.hessian(lambda f, t=target: task.loss(f[None], t[None])[0], made)
        total += rows.T @ curved @ rows / len(x)
    return total.detach()


def agrees(module: nn.Module, task: Task, *shape: int) -> bool:
    """Whether its products are those with the matrices; whether they were written out."""
    (x, y), vectors = batch(task, *shape), directions(module, 5)
    hessians, halves = Hessians(module, task), Hessians(module, task, gauss_newton=True)
    whole, half = matrix(module, task, x, y), gauss_newton(module, task, x, y)
    for product, of in (
        (hessians.of(x, y), whole),
        (hessians._by_autograd(x, y), whole),
        (halves.of(x, y), half),
        (halves._by_outputs(x), half),
    ):
        found, expected = flat(product(vectors)), flat(vectors) @ of
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    if hessians.dense is not None:
        for is_half, of in ((False, whole), (True, half)):
            sums = DenseCurvature(*hessians.dense, task, is_half)
            sums.add(x[:4], y[:4])
            sums.add(x[4:], y[4:])
            assert (sums.matrix() / len(x) - of).abs().max() <= 1e-12 * of.abs().max()
    return hessians.dense is not None


@pytest.mark.parametrize("task", [CLASSES, NUMBERS], ids=["classification", "regression"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_of_a_plain_network(activation: str, depth: int, bias: bool, task: Task) -> None:
    outputs = 3 if isinstance(task, Classification) else 1
    written_out = agrees(net(activation, depth, bias, outputs), task, 2, 3)
    assert written_out is (depth == 0 or activation in WRITTEN_OUT)


def test_of_a_bare_layer_and_of_one_activation_used_twice() -> None:
    assert agrees(nn.Linear(6, 3).double(), CLASSES, 6)
    turn = nn.SiLU()
    assert agrees(nn.Sequential(nn.Linear(6, 4), turn, nn.Linear(4, 4), turn, nn.Linear(4, 3)).double(), CLASSES, 6)
    named = nn.Sequential(nn.Linear(6, 4), nn.Identity(), nn.GELU(), nn.Flatten(), nn.Linear(4, 3))
    assert agrees(named.double(), CLASSES, 6)


@pytest.mark.parametrize("make", [nets.repeated, nets.tied, nets.halved, nets.hooked, nets.doubled, nets.HeadFirst])
def test_of_what_only_looks_like_a_plain_network(make: type[nn.Module]) -> None:
    assert not agrees(make().double(), CLASSES, 3)


def test_of_convolutions_and_group_norm() -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)]
    assert not agrees(nn.Sequential(*layers).double(), CLASSES, 1, 6, 6)


def test_parameters_may_change_between_calls_and_a_product_keeps_its_own() -> None:
    module = net("tanh", 2, True, 3)
    hessians, (x, y), vectors = Hessians(module, CLASSES), batch(CLASSES, 2, 3), directions(module, 2)
    hessians.of(x, y)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1.5)
    expected = flat(vectors) @ matrix(module, CLASSES, x, y)
    assert torch.allclose(flat(hessians.of(x, y)(vectors)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "make", [lambda: net("gelu", 1, True, 3), lambda: net("elu", 1, False, 3)], ids=["gelu", "elu"]
)
def test_each_instance_with_a_vector_of_its_own(make: type[nn.Module]) -> None:
    module = make()
    (x, y), vectors = batch(CLASSES, 2, 3), directions(module, 7)
    found = flat(Hessians(module, CLASSES).each(x, y, vectors))
    for i, vector in enumerate(flat(vectors)):
        expected = vector @ matrix(module, CLASSES, x[i : i + 1], y[i : i + 1])
        assert torch.allclose(found[i], expected, rtol=0, atol=1e-12)


def test_vectors_stay_as_they_are() -> None:
    module = net("tanh", 2, True, 3)
    vectors = directions(module, 3)
    before = flat(vectors).clone()
    Hessians(module, CLASSES).of(*batch(CLASSES, 2, 3))(vectors)
    assert torch.equal(flat(vectors), before)


def test_gauss_newton_without_forward_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulling back twice gives the same tangents."""
    module, (x, _), vectors = net("elu", 1, True, 3), batch(CLASSES, 2, 3), directions(net("elu", 1, True, 3), 4)
    halves = Hessians(module, CLASSES, gauss_newton=True)
    expected = flat(halves._by_outputs(x)(vectors))
    monkeypatch.setattr(products, "_has_tangents", lambda module, forward, named: False)
    torch.testing.assert_close(flat(halves._by_outputs(x)(vectors)), expected, rtol=0, atol=1e-13)
