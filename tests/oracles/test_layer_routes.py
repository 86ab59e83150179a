"""Every kind of layer against one backward pass per instance, and the way that it takes there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influx.engines import autograd
from influx.engines.gradients import GradientsAt, Rows
from influx.errors import IncompatibleError
from influx.learners.torch.tasks import Classification
from influx.problem import Split
from tests.oracles.layer_nets import COVERED, PARTLY, REFUSED, SEQUENCE, TABLE, TOKENS, Make, N, sharing, single


def case(make: Make, shape: tuple[int, ...]) -> tuple[GradientsAt, Tensor, Tensor]:
    torch.manual_seed(0)
    module = make().double().eval()
    for p in module.parameters():
        p.data = torch.randn(p.shape, dtype=p.dtype) * 0.6
    y = torch.arange(N) % 3
    tokens = any(isinstance(m, nn.Embedding) for m in module.modules())
    x = torch.randint(TOKENS, (N, *shape)) if tokens else torch.randn(N, *shape, dtype=torch.float64)
    return GradientsAt(module, Classification(), "all", lambda split: (x[split.ids], y[split.ids])), x, y


def by_loop(at: GradientsAt, x: Tensor, y: Tensor) -> Tensor:
    rows = []
    for one, label in zip(x.split(1), y.split(1), strict=True):
        risk = F.cross_entropy(at.module(one), label)
        found = torch.autograd.grad(risk, list(at.parameters.values()), allow_unused=True)
        pairs = zip(found, at.parameters.values(), strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g.to_dense()).flatten() for g, p in pairs]))
    return torch.stack(rows)


def check(rows: Rows, some: Rows, expected: Tensor, sizes: list[int]) -> None:
    size = float(expected.square().sum(1).max())
    close = {"rtol": 1e-10, "atol": 1e-12 * size}
    assert torch.allclose(rows.dot(some), expected @ expected[:3].T, **close)
    assert torch.allclose(rows.squares(), expected.square().sum(1), **close)
    for part, other, mine in zip(rows.tensors(), some.tensors(), expected.split(sizes, 1), strict=True):
        assert torch.allclose(part.dot(other), mine @ mine[:3].T, **close)
        assert torch.allclose(part.squares(), mine.square().sum(1), **close)
        assert torch.allclose(part.flat(), mine, rtol=1e-10, atol=1e-12 * size**0.5)
    assert torch.allclose(rows.flat(), expected, rtol=1e-10, atol=1e-12 * size**0.5)
    assert torch.allclose(rows.dot(some), expected @ expected[:3].T, **close)


@pytest.fixture
def no_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("vmap was called")

    monkeypatch.setattr(autograd, "vmap", refuse)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.usefixtures("no_vmap")
@pytest.mark.parametrize("way", ["factors", "written"])
@pytest.mark.parametrize("name", COVERED)
def test_covered_layers_are_exact_without_vmap(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("influx.engines.layers.cheaper", lambda *args, **kwargs: way)
    at, x, y = case(*COVERED[name])
    rows, some = at.rows(x, y), at.rows(x[:3], y[:3])
    assert set(at.route.values()) == {"factors"}
    check(rows, some, by_loop(at, x, y), [p.numel() for p in at.parameters.values()])


@pytest.mark.parametrize("name", PARTLY)
def test_other_parameters_alone_are_left_to_autograd(name: str) -> None:
    make, shape, free, way = PARTLY[name]
    at, x, y = case(make, shape)
    rows, some = at.rows(x, y), at.rows(x[:3], y[:3])
    assert {k: v for k, v in at.route.items() if v != "factors"} == dict.fromkeys(free, way)
    check(rows, some, by_loop(at, x, y), [p.numel() for p in at.parameters.values()])


@pytest.mark.parametrize("name", PARTLY)
def test_products_with_few_columns_need_no_gradients_written_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape, _, _ = PARTLY[name]
    at, x, y = case(make, shape)
    split = Split(x=x.numpy(), y=y.numpy(), ids=np.arange(N))
    expected = by_loop(at, x, y)
    expected = expected @ expected[:2].T
    along, passes = autograd.Free.along, []
    monkeypatch.setattr(
        autograd.Free, "along", lambda free, directions: passes.append(along(free, directions)) or passes[-1]
    )
    for forward in (True, False):
        monkeypatch.setattr(autograd.Free, "prefers_forward", lambda free, directions, forward=forward: forward)
        found = torch.cat([dots for _, _, dots in at.products(split, split.take(slice(0, 2)))])
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))
    no_forward_mode = name in ("weight norm", "used by a function that hides it")
    assert len(passes) == 1 and (passes[0] is None) == no_forward_mode


def test_a_wrong_handler_is_found_and_its_parameter_left_to_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    from influx.engines.elementwise import Affine

    at, x, y = case(single(nn.LayerNorm(4), 12), SEQUENCE)
    monkeypatch.setattr(Affine, "written", lambda self: [1.001 * self._reduced(self.normalised() * self.gradients)])
    rows = at.rows(x, y)
    assert {k for k, v in at.route.items() if v != "factors"} == {"layer.weight"}
    assert torch.allclose(rows.flat(), by_loop(at, x, y), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", REFUSED)
def test_nets_without_gradients_of_single_instances_are_refused(name: str) -> None:
    make, message = REFUSED[name]
    at, x, y = case(make, TABLE)
    with pytest.raises(IncompatibleError, match=message):
        at.rows(x, y)


def test_parameters_that_share_memory_are_refused() -> None:
    module, x = sharing().eval(), torch.randn(N, 4)
    at = GradientsAt(module, Classification(), "all", lambda split: (x, x))
    with pytest.raises(IncompatibleError, match=r"a\.weight and b\.weight share it"):
        at.rows(x, torch.arange(N) % 3)


def test_an_embedding_that_changes_its_weight_is_refused() -> None:
    at, x, y = case(single(nn.Embedding(TOKENS, 4, max_norm=1.0), 12), (3,))
    with pytest.raises(IncompatibleError, match="max_norm=None"):
        at.rows(x, y)
