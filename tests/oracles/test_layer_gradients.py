"""Per-instance gradients by factors against one backward pass per instance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influx.engines.factors import Dense, Product
from influx.engines.gradients import GradientsAt, head_of
from influx.engines.layers import Flat, Weighted
from influx.errors import IncompatibleError, NumericalError
from influx.learners.torch.tasks import Classification, Regression
from influx.problem import Split


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Twice(nn.Module):
    """One layer called twice: its parameters are shared between two places."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.inner(torch.tanh(self.inner(x)))))
        return out


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return out


class Functional(nn.Module):
    """A layer's weight used without calling the layer, and a parameter of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(F.linear(x, self.inner.weight, self.inner.bias)) * self.scale)
        return out


class Borrowed(nn.Module):
    """A layer that is called once, and whose weight is used once more without it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.inner(x)) @ self.inner.weight)
        return out


class Skipped(nn.Module):
    """A layer that is there and never used."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x)
        return out


def net(*layers: nn.Module, flat: int) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.Linear(flat, 3))


def normalised(norm: nn.Module, shape: tuple[int, ...]) -> nn.Sequential:
    """A norm with affine parameters and statistics that are not the initial ones."""
    for values in [*norm.parameters(), *norm.buffers()]:
        if values.is_floating_point():
            values.data = torch.rand_like(values) + 0.5
    return net(norm, flat=int(np.prod(shape)))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: net(nn.Linear(4, 5), flat=5), (4,)),
    "linear without bias": (lambda: net(nn.Linear(4, 5, bias=False), flat=5), (4,)),
    "in place": (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)), (4,)),
    "short sequence": (lambda: net(nn.Linear(16, 18), flat=2 * 18), (2, 16)),
    "long sequence": (lambda: net(nn.Linear(3, 2), flat=7 * 2), (7, 3)),
    "two sequence axes": (lambda: net(nn.Linear(3, 2, bias=False), flat=6 * 2), (2, 3, 3)),
    "conv1d": (lambda: net(nn.Conv1d(2, 4, 3, stride=2, padding=1), flat=4 * 4), (2, 7)),
    "conv1d grouped dilated": (lambda: net(nn.Conv1d(4, 6, 2, dilation=2, groups=2), flat=6 * 5), (4, 7)),
    "conv2d": (lambda: net(nn.Conv2d(2, 3, 3, padding=1), flat=3 * 25), (2, 5, 5)),
    "conv2d few positions": (lambda: net(nn.Conv2d(16, 24, 3), flat=24), (16, 3, 3)),
    "conv2d strided": (
        lambda: net(nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), flat=4 * 3 * 3),
        (2, 5, 5),
    ),
    "conv2d grouped": (lambda: net(nn.Conv2d(4, 8, 3, groups=4, bias=False), flat=8 * 9), (4, 5, 5)),
    "conv2d same padding": (lambda: net(nn.Conv2d(2, 3, 3, padding="same"), flat=3 * 16), (2, 4, 4)),
    "conv2d circular padding": (
        lambda: net(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), flat=3 * 16),
        (2, 4, 4),
    ),
    "conv3d": (lambda: net(nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1), flat=3 * 4 * 2 * 4), (2, 3, 3, 3)),
    "layer norm": (lambda: normalised(nn.LayerNorm(4), (4,)), (4,)),
    "layer norm of a sequence": (lambda: normalised(nn.LayerNorm(4), (3, 4)), (3, 4)),
    "layer norm over two axes": (lambda: normalised(nn.LayerNorm((3, 4)), (3, 4)), (3, 4)),
    "layer norm without bias": (lambda: normalised(nn.LayerNorm(4, bias=False), (3, 4)), (3, 4)),
    "group norm": (lambda: normalised(nn.GroupNorm(2, 4), (4, 3, 3)), (4, 3, 3)),
    "group norm of a table": (lambda: normalised(nn.GroupNorm(2, 4), (4,)), (4,)),
    "batch norm 1d": (lambda: normalised(nn.BatchNorm1d(4), (4,)), (4,)),
    "batch norm 1d of a sequence": (lambda: normalised(nn.BatchNorm1d(4), (4, 5)), (4, 5)),
    "batch norm 2d": (lambda: normalised(nn.BatchNorm2d(4, eps=0.1), (4, 3, 3)), (4, 3, 3)),
    "batch norm 3d": (lambda: normalised(nn.BatchNorm3d(2), (2, 2, 2, 2)), (2, 2, 2, 2)),
    "transposed convolution": (lambda: net(nn.ConvTranspose2d(2, 3, 2), flat=3 * 16), (2, 3, 3)),
    "called twice": (Twice, (4,)),
    "tied": (Tied, (4,)),
    "functional": (Functional, (4,)),
    "borrowed": (Borrowed, (4,)),
    "never used": (Skipped, (4,)),
}


def case(name: str, task: Any = None) -> tuple[GradientsAt, Tensor, Tensor]:
    torch.manual_seed(0)
    make, shape = NETS[name]
    module = make().double().eval()
    x, y = torch.randn(5, *shape, dtype=torch.float64), torch.arange(5) % 3
    return GradientsAt(module, task or Classification(), "all", lambda split: (x[split.ids], y[split.ids])), x, y


def by_loop(at: GradientsAt, x: Tensor, y: Tensor) -> Tensor:
    rows = []
    for i in range(len(x)):
        loss = F.cross_entropy(at.module(x[i : i + 1]), y[i : i + 1])
        grads = torch.autograd.grad(loss, list(at.parameters.values()), allow_unused=True)
        pairs = zip(grads, at.parameters.values(), strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", list(NETS))
def test_gradients_norms_and_products_are_those_of_autograd(name: str) -> None:
    at, x, y = case(name)
    expected, rows = by_loop(at, x, y), at.rows(x, y)
    assert torch.allclose(rows.flat(), expected, rtol=1e-10, atol=1e-13)
    assert torch.allclose(rows.squares(), expected.square().sum(1), rtol=1e-10)
    some = at.rows(x[:3], y[:3])
    size = float(expected.square().sum(1).max())
    assert torch.allclose(rows.dot(some), expected @ expected[:3].T, rtol=1e-10, atol=1e-13 * size)


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.fault(29, "the same values to rounding")
def test_blocks_of_any_size_give_the_same_products(name: str) -> None:
    at, x, y = case(name)
    split = Split(x=x.numpy(), y=y.numpy(), ids=np.arange(5))
    expected = by_loop(at, x, y)
    found = torch.full((5, 5), torch.nan, dtype=torch.float64)
    for mine, rows in at.blocks(split, 2):
        for theirs, columns in at.blocks(split, 3):
            found[mine, theirs] = rows.dot(columns)
    assert torch.allclose(found, expected @ expected.T, rtol=1e-10, atol=1e-13 * float(expected.square().sum(1).max()))
    assert torch.allclose(at.squares(split), expected.square().sum(1), rtol=1e-10)


@pytest.mark.parametrize("together", [4, 10])  # one product per two blocks of two, then one of one; one of all
@pytest.mark.parametrize("name", list(NETS))
def test_products_of_several_blocks_at_once_are_those_of_each(
    name: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, x, y = case(name)
    split = Split(x=x.numpy(), y=y.numpy(), ids=np.arange(5))
    expected = by_loop(at, x, y)
    monkeypatch.setattr(GradientsAt, "block_size", lambda at, split: 2)
    monkeypatch.setattr("influx.engines.gradients.TOGETHER", together)
    monkeypatch.setattr(Weighted, "way", lambda layer, left, right: "written")
    found, size = torch.full((5, 5), torch.nan, dtype=torch.float64), expected.square().sum(1)
    for rows, columns, products, mine, theirs in at.dots(split, split):
        found[rows, columns] = products
        assert torch.allclose(mine, size[rows], rtol=1e-10)
        assert torch.allclose(theirs, size[columns], rtol=1e-10)
    assert torch.allclose(found, expected @ expected.T, rtol=1e-10, atol=1e-13 * float(size.max()))


@pytest.mark.parametrize("positions", [1, 2, 6])
def test_both_ways_to_multiply_agree(positions: int) -> None:
    torch.manual_seed(0)
    shapes = ((4, positions, 16), (4, positions, 18))
    made = [Product(*(Dense(torch.randn(s, dtype=torch.float64)) for s in shapes)) for _ in range(2)]
    left, right = (Weighted(4, [term], bias=True) for term in made)
    assert torch.allclose(left.dot(right), Flat(left.flat()).dot(right), rtol=1e-10, atol=1e-10)


def test_the_head_is_the_last_linear_layer_and_its_gradients_are_a_part_of_all() -> None:
    at, x, y = case("conv2d")
    head = GradientsAt(at.module, at.task, "head", lambda split: (x, y), x[:1])
    assert head_of(at.module, x[:1])[0] == "3" and head.size == 3 * 75 + 3
    assert torch.allclose(head.rows(x, y).flat(), by_loop(at, x, y)[:, -head.size :], rtol=1e-10, atol=1e-13)


def test_a_model_without_a_linear_head_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="must end in a linear layer"):
        head_of(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), torch.ones(1, 3))


def test_a_model_that_loses_instances_is_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 3), Lambda(lambda out: out[:1]))
    at = GradientsAt(module.double().eval(), Classification(), "all", lambda split: (x, y))
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3
    with pytest.raises(IncompatibleError, match=r"shape \(1, 3\) for 5 instances"):
        at.rows(x, y)


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    at, x, y = case("linear")
    with pytest.raises(NumericalError, match="not finite"):
        at.rows(x * torch.inf, y)


def test_regression_gradients_are_residual_times_derivative_of_the_output() -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 1).double().eval()
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    residual = (module(x)[:, 0] - y).detach()
    expected = torch.cat([residual[:, None] * x, residual[:, None]], 1)
    found = GradientsAt(module, Regression(), "all", lambda split: (x, y)).rows(x, y).flat()
    assert torch.allclose(found, expected, rtol=1e-12)
