"""Each architecture against counts and formulas worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from influx.models.cnn import CNN
from influx.models.layers import ACTIVATIONS, group_norm
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (Linear(), 20 * 3 + 3),
        (Linear(bias=False), 20 * 3),
        (MLP(), 20 * 32 + 32 + 32 * 3 + 3),
        (MLP(bias=False), 20 * 32 + 32 * 3),
        (MLP(width=8, depth=3, dropout=0.5), 20 * 8 + 8 + 2 * (8 * 8 + 8) + 8 * 3 + 3),
        (MLP(width=[16, 4]), 20 * 16 + 16 + 16 * 4 + 4 + 4 * 3 + 3),
    ],
)
def test_parameter_counts_on_a_table(model: Any, parameters: int, make_data: Any) -> None:
    assert count(model.build(make_data((20,)))) == parameters


def test_parameter_count_of_the_default_cnn_on_digits(make_data: Any) -> None:
    convolutions = 1 * 32 * 9 + 32 + 32 * 64 * 9 + 64
    head = 64 * 2 * 2 * 128 + 128 + 128 * 10 + 10  # 8x8 halved twice
    assert count(CNN().build(make_data((1, 8, 8), classes=10))) == convolutions + head


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_normalisation_adds_a_scale_and_a_shift_per_channel(norm: str, make_data: Any) -> None:
    data = make_data((1, 8, 8))
    assert count(CNN(norm=norm).build(data)) - count(CNN().build(data)) == 2 * (32 + 64)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_parameter_count_of_resnet9_on_cifar(norm: str, make_data: Any) -> None:
    channels = [(3, 64), (64, 128), (128, 128), (128, 128), (128, 256), (256, 512), (512, 512), (512, 512)]
    expected = sum(9 * a * b + 2 * b for a, b in channels) + 512 * 10 + 10
    assert count(ResNet9(norm=norm).build(make_data((3, 32, 32), classes=10))) == expected


def test_width_scales_the_channels_of_resnet9(make_data: Any) -> None:
    network = ResNet9(width=0.25).build(make_data((3, 32, 32)))
    widths = [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert widths == [16, 32, 32, 32, 64, 128, 128, 128]


@pytest.mark.parametrize("size", [8, 28, 32, 47])
def test_resnet9_takes_other_sizes(size: int, make_data: Any) -> None:
    network = ResNet9(width=0.125).build(make_data((1, size, size)))
    assert network(torch.zeros(2, 1, size, size)).shape == (2, 3)


def test_mlp_computes_its_formula(make_data: Any) -> None:
    data = make_data((4,))
    network = MLP(width=5, activation="tanh").build(data)
    x = torch.from_numpy(data.train.x)
    (w1, b1, w2, b2) = network.parameters()
    torch.testing.assert_close(network(x), torch.tanh(x @ w1.T + b1) @ w2.T + b2)


def test_linear_flattens_images_row_by_row(make_data: Any) -> None:
    data = make_data((2, 3, 4))
    network = Linear().build(data)
    weight, bias = network.parameters()
    expected = data.train.x.reshape(6, -1) @ weight.detach().numpy().T + bias.detach().numpy()
    torch.testing.assert_close(network(torch.from_numpy(data.train.x)).detach(), torch.from_numpy(expected))


def test_a_residual_block_adds_its_input(make_data: Any) -> None:
    network = ResNet9(width=0.125).build(make_data((1, 8, 8)))
    stage = network[1]
    with torch.no_grad():
        stage[2].block[1][1].weight.zero_()  # the last normalisation of the block; relu(0) = 0 remains
    x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stage(x), stage[1](stage[0](x)))


def test_dropout_acts_in_training_only(make_data: Any) -> None:
    data = make_data((4,))
    network = MLP(dropout=0.5).build(data)
    x = torch.from_numpy(data.train.x)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_is_the_function_of_its_name(name: str, make_data: Any) -> None:
    layer = MLP(activation=name).build(make_data((4,)))[1]
    x = torch.linspace(-3, 3, 13)
    function = getattr(nn.functional, name, None) or getattr(torch, name)
    torch.testing.assert_close(layer(x), function(x))


@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (12, 4), (6, 2), (5, 1)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    layer = group_norm(channels)
    assert isinstance(layer, nn.GroupNorm) and layer.num_groups == groups


@pytest.mark.parametrize(("pool", "value"), [("max", 4.0), ("avg", 2.5)])
def test_pooling_is_the_one_named(pool: str, value: float, make_data: Any) -> None:
    layers = CNN(channels=[2], pool=pool).build(make_data((1, 4, 4)))
    assert layers[2](torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).item() == value
