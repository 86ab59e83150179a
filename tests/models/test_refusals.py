"""Settings and datasets that a model cannot work with end in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from influx.errors import ConfigError, IncompatibleError
from influx.learners.linear.logistic import Logistic
from influx.models.cnn import CNN
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.models.torchvision import Torchvision


@pytest.mark.parametrize(
    ("model", "settings", "named"),
    [
        (Linear, {"bias": "yes"}, "model.bias"),
        (MLP, {"width": 0}, "model.width"),
        (MLP, {"width": True}, "model.width"),
        (MLP, {"width": []}, "model.width"),
        (MLP, {"width": [8, -1]}, "model.width"),
        (MLP, {"width": "wide"}, "model.width"),
        (MLP, {"width": [8, 8], "depth": 3}, "model.depth"),
        (MLP, {"depth": 0}, "model.depth"),
        (MLP, {"depth": 1.5}, "model.depth"),
        (MLP, {"activation": "swish"}, "model.activation"),
        (MLP, {"bias": None}, "model.bias"),
        (MLP, {"dropout": 1.0}, "model.dropout"),
        (MLP, {"dropout": float("nan")}, "model.dropout"),
        (CNN, {"channels": 32}, "model.channels"),
        (CNN, {"channels": [0]}, "model.channels"),
        (CNN, {"kernel_size": 4}, "model.kernel_size"),
        (CNN, {"kernel_size": 0}, "model.kernel_size"),
        (CNN, {"activation": None}, "model.activation"),
        (CNN, {"norm": "layer"}, "model.norm"),
        (CNN, {"pool": "mean"}, "model.pool"),
        (CNN, {"hidden": 0}, "model.hidden"),
        (ResNet9, {"norm": "none"}, "model.norm"),
        (ResNet9, {"width": 0}, "model.width"),
        (ResNet9, {"width": [64]}, "model.width"),
        (ResNet9, {"activation": "rellu"}, "model.activation"),
        (Torchvision, {"architecture": "resnet_18"}, "model.architecture"),
        (Torchvision, {"architecture": None}, "model.architecture"),
    ],
)
def test_bad_settings_are_refused_by_name(model: Any, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named}.* got .*; ") as caught:
        model(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "settings", "suggestion"),
    [
        (MLP, {"activation": "tahn"}, "did you mean 'tanh'"),
        (ResNet9, {"norm": "Batch"}, "did you mean 'batch'"),
        (Torchvision, {"architecture": "resnet_18"}, "did you mean 'resnet18'"),
    ],
)
def test_the_closest_name_is_suggested(model: Any, settings: dict[str, Any], suggestion: str) -> None:
    with pytest.raises(ConfigError, match=suggestion):
        model(**settings)


@pytest.mark.parametrize("model", [CNN(), ResNet9(), Torchvision()])
def test_image_models_refuse_tables(model: Any, make_data: Any) -> None:
    with pytest.raises(IncompatibleError, match=r"model=\w+ .*dataset=noise.*model=mlp.*dataset\.shape=image"):
        model.build(make_data((64,)))


@pytest.mark.parametrize("model", [Linear(), MLP(), CNN(), ResNet9(), Torchvision()])
def test_text_is_refused(model: Any, make_data: Any) -> None:
    with pytest.raises(IncompatibleError, match=r"model=\w+ .*dataset=noise"):
        model.build(make_data((7,), kind="text"))


def test_logistic_refuses_regression(make_data: Any) -> None:
    with pytest.raises(IncompatibleError, match=r"model=logistic.*dataset=noise.*model=ridge"):
        Logistic().check(make_data((4,), task="regression"))


def test_images_too_small_to_be_halved_are_refused(make_data: Any) -> None:
    with pytest.raises(IncompatibleError, match=r"model=cnn.*16x16.*dataset=noise has 8x8"):
        CNN(channels=[4, 4, 4, 4]).build(make_data((1, 8, 8)))
    with pytest.raises(IncompatibleError, match=r"model=resnet9.*8x8.*dataset=noise has 7x9"):
        ResNet9().build(make_data((1, 7, 9)))
