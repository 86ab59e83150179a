"""Gradients, heads and sizes of nets whose parts do not work the usual way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from influx.engines.features import Features, head_of
from influx.engines.gradients import Gradients, GradientsAt
from influx.errors import IncompatibleError
from influx.learners.torch.pace import layer_products
from influx.learners.torch.tasks import Classification
from influx.oracles import toys
from influx.problem import Split
from tests.engines import nets
from tests.engines.nets import Own

Make = Callable[[], nn.Module]


def given(make: Make, *shape: int, first: float | None = None) -> tuple[GradientsAt, Tensor, Tensor]:
    """Gradients of a net in float64, five instances and their labels; the first may hold one number only."""
    torch.manual_seed(0)
    module = make().double().eval()
    x, y = torch.randn(5, *shape, dtype=torch.float64), torch.arange(5) % 3
    if first is not None:
        x[0] = first
    return GradientsAt(module, Classification(), "all", lambda split: (x[split.ids], y[split.ids])), x, y


def by_loop(at: GradientsAt, x: Tensor, y: Tensor) -> Tensor:
    rows = []
    for one, label in zip(x.split(1), y.split(1), strict=True):
        risk = nn.functional.cross_entropy(at.module(one), label)
        grads = torch.autograd.grad(risk, list(at.parameters.values()))
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


def is_right(at: GradientsAt, x: Tensor, y: Tensor) -> bool:
    return torch.allclose(at.rows(x, y).flat(), by_loop(at, x, y), rtol=1e-9, atol=1e-13)


def test_an_instance_of_zeros_hides_no_second_use_of_a_weight() -> None:
    assert is_right(*given(nets.AgainAfterRelu, 4, first=0.0))


def test_data_of_zeros_hide_no_second_use_of_a_weight() -> None:
    at, x, y = given(nets.AgainAfterRelu, 4)
    at.rows(torch.zeros_like(x), y)
    assert is_right(at, x, y)


def test_large_gradients_hide_no_wrong_small_ones() -> None:
    assert is_right(*given(nets.FaintlyAgain, 4))


def test_gradients_that_cancel_are_no_disagreement_in_single_precision() -> None:
    torch.manual_seed(0)
    module, x, y = nets.Deep().eval(), torch.randn(5, 16), torch.arange(5) % 3
    before = {k: v.clone() for k, v in module.state_dict().items()}
    rows = GradientsAt(module, Classification(), "all", lambda split: (x, y)).rows(x, y)
    assert len(rows.layers) > 1  # by factors
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in module.state_dict().items())


def test_a_net_that_fixes_its_precision_keeps_its_factors() -> None:
    torch.manual_seed(0)
    module, x, y = nets.Single(), torch.randn(5, 4), torch.arange(5) % 3
    rows = GradientsAt(module, Classification(), "all", lambda split: (x, y)).rows(x, y)
    assert len(rows.layers) == 2 and rows.flat().dtype == torch.float32


def test_numbers_that_are_indices_are_not_replaced_by_noise() -> None:
    at, _, y = given(nets.OneHot)
    assert is_right(at, torch.tensor([[0, 1], [2, 3], [1, 1], [3, 0], [2, 2]]), y)


def test_gradients_leave_the_global_random_state_alone() -> None:
    at, x, y = given(nets.AgainAfterRelu, 4)
    before = torch.get_rng_state()
    at.rows(x, y)
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_are_sized_for_the_way_that_gradients_take(monkeypatch: pytest.MonkeyPatch) -> None:
    at, x, y = given(nets.AgainAfterRelu, 4)
    split = Split(x=x.numpy(), y=y.numpy(), ids=np.arange(5))
    inputs, outputs, others = 3 * 4, 4 + 4 + 3, 4  # of the three products; of the activation function
    assert at.activations(split) == 2 * (outputs + others) + outputs + inputs
    monkeypatch.setattr("influx.engines.gradients.BLOCK_BYTES", 2 * 8 * (at.activations(split) + at.size))
    assert at.block_size(split) == 2


def test_the_head_is_the_layer_called_last_wherever_it_is_registered() -> None:
    net = nets.HeadFirst()
    assert head_of(net.eval(), torch.randn(1, 3)) == ("head", net.head)


@pytest.mark.parametrize("make", nets.HEADLESS)
def test_a_linear_layer_whose_output_is_not_the_models_is_no_head(make: Make) -> None:
    torch.manual_seed(0)
    with pytest.raises(IncompatibleError, match="must end in a linear layer"):
        head_of(make().eval(), torch.randn(1, 3))


def test_features_and_gradients_are_those_of_the_layer_called_last(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), Own(make=nets.HeadFirst))
    module, (x, y) = toy.module(), toys.Toy.tensors(toy.train)
    assert isinstance(module, nets.HeadFirst)
    hidden = torch.tanh(module.first(x)).detach()
    assert torch.allclose(Features(toy.fitted).penultimate(toy.train), hidden)
    head = Gradients(toy.fitted, toy.train, toy.test).at(toy.fitted.checkpoints[-1], "head")
    assert torch.allclose(head.rows(x, y).flat()[:, -3:], torch.softmax(module(x), 1) - nn.functional.one_hot(y, 3))
    assert head.size == 3 * 5 + 3


def test_a_head_made_of_several_parameters_has_gradients_of_all() -> None:
    torch.manual_seed(0)
    module = nets.normed_head().double().eval()
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 3
    head = GradientsAt(module, Classification(), "head", lambda split: (x, y), x[:1])
    assert list(head.parameters) == [
        "2.bias",
        "2.parametrizations.weight.original0",
        "2.parametrizations.weight.original1",
    ]
    assert is_right(head, x, y)


@pytest.mark.parametrize("name", nets.ODD)
def test_odd_layers_have_the_gradients_of_autograd(name: str) -> None:
    make, shape = nets.ODD[name]
    assert is_right(*given(make, *shape))


@pytest.mark.parametrize("name", nets.ODD)
def test_odd_layers_are_run_block_by_block(name: str) -> None:
    make, shape = nets.ODD[name]
    at, x, y = given(make, *shape)
    found = torch.cat([rows.squares() for _, rows in at.blocks(Split(x=x.numpy(), y=y.numpy(), ids=np.arange(5)))])
    assert torch.allclose(found, by_loop(at, x, y).square().sum(1), rtol=1e-9)


@pytest.mark.parametrize("name", nets.ODD)
def test_odd_layers_have_a_size(name: str) -> None:
    make, shape = nets.ODD[name]
    module = make()
    products = layer_products(module, torch.randn(1, *shape))
    assert sum(macs for macs, _ in products.values()) > 0 and all(dot > 0 for _, dot in products.values())


def test_a_net_that_autograd_cannot_differentiate_is_refused_by_name() -> None:
    at, x, y = given(nets.Detached, 3)
    with pytest.raises(IncompatibleError, match=r"cannot differentiate Detached .* choose another model"):
        at.rows(x, y)
