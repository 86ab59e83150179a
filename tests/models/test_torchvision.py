"""Torchvision classifiers: which names are offered, and what each does with small images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision import models

from influx.errors import IncompatibleError
from influx.models.torchvision import Torchvision, architectures

SMALL_ENOUGH = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"]
# regnets compute their widths with tensors, which the meta device used below cannot do
LISTED = [name for name in architectures() if not name.startswith("regnet")]


def test_only_image_classifiers_are_offered() -> None:
    assert {"resnet18", "vit_b_16", "regnet_y_400mf"} <= set(architectures())
    assert not {"fcn_resnet50", "fasterrcnn_resnet50_fpn", "raft_large", "r3d_18"} & set(architectures())


@pytest.mark.parametrize("name", SMALL_ENOUGH)
def test_values_are_those_of_torchvision_itself(name: str, make_data: Any) -> None:
    torch.manual_seed(1)
    ours = Torchvision(architecture=name).build(make_data((3, 64, 64), classes=5)).eval()
    torch.manual_seed(1)
    theirs = models.get_model(name, weights=None, num_classes=5).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_grey_images_are_repeated_over_the_colours(make_data: Any) -> None:
    network = Torchvision(architecture="squeezenet1_1").build(make_data((1, 32, 32))).eval()
    grey = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(grey), network[1](torch.cat([grey] * 3, dim=1)))


@pytest.mark.parametrize("name", ["alexnet", "inception_v3", "vit_b_16", "maxvit_t"])
def test_sizes_that_do_not_fit_are_refused(name: str, make_data: Any) -> None:
    with torch.device("meta"), pytest.raises(IncompatibleError, match=rf"{name} cannot take the 20x20 .*dataset=noise"):
        Torchvision(architecture=name).build(make_data((3, 20, 20)))


def test_vision_transformers_need_square_images(make_data: Any) -> None:
    with pytest.raises(IncompatibleError, match="square"):
        Torchvision(architecture="vit_b_16").build(make_data((3, 32, 64)))


def test_other_channel_counts_are_refused(make_data: Any) -> None:
    with pytest.raises(IncompatibleError, match=r"1 or 3 channels, dataset=noise has 4"):
        Torchvision().build(make_data((4, 32, 32)))


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_every_listed_name_builds_at_its_own_size(name: str, make_data: Any) -> None:
    data = make_data((3, 224, 224), classes=7)
    with torch.device("meta"):
        network = Torchvision(architecture=name).build(data)
        assert network.eval()(torch.zeros(2, 3, 224, 224)).shape == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_400mf", "regnet_y_1_6gf"])
def test_regnets_build(name: str, make_data: Any) -> None:
    network = Torchvision(architecture=name).build(make_data((3, 32, 32), classes=7))
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
