"""What every model must satisfy, whichever file of conf/model it comes from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_class
from torch import nn
from torch.func import functional_call, grad, vmap

CONF = Path(__file__).parents[2] / "conf" / "model"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
SMALL = {"resnet9": {"width": 0.125}, "torchvision": {"architecture": "squeezenet1_1"}}  # quick to build
CONVOLUTIONAL = ["cnn", "resnet9", "torchvision"]
LINEAR = ["logistic", "ridge"]  # solve for an optimum themselves, without a net
NORMAL = ["gaussian", "ppca"]  # so do these
TREES = [path.stem for path in (CONF.parents[1] / "influx" / "learners" / "trees").glob("*.py")]
DENSITIES = ["autoregressive", "conv_vae", "vae"]  # whose output is the risk
TEXTS = ["bag_of_words", "hf", "text_decoder", "text_encoder"]  # which read tokens
NETS = [name for name in NAMES if name not in (*LINEAR, *NORMAL, *TREES, *DENSITIES, *TEXTS, "mine")]
LINEAR_HEAD = [name for name in NETS if name != "torchvision"]
FLAT = [name for name in NETS if name not in CONVOLUTIONAL]


def settings(name: str) -> dict[str, Any]:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def model(name: str, **changes: Any) -> Any:
    values = settings(name)
    return get_class(values.pop("_target_"))(**{**values, **SMALL.get(name, {}), **changes})


@pytest.mark.parametrize("name", NAMES)
def test_yaml_lists_every_field_with_its_default(name: str) -> None:
    values = settings(name)
    default = get_class(values.pop("_target_"))()
    assert values == dataclasses.asdict(default)


@pytest.mark.parametrize("name", NAMES)
def test_yaml_opens_with_a_summary_and_is_named_after_its_module(name: str) -> None:
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ") and text[2].isupper()
    learners = {"linear": LINEAR, "densities": NORMAL, "trees": TREES}
    where = next((["learners", kind] for kind, names in learners.items() if name in names), ["models"])
    assert settings(name)["_target_"].split(".")[:-1] == ["influx", *where, name]


@pytest.mark.parametrize("name", NAMES)
def test_fields_cannot_be_changed_after_construction(name: str) -> None:
    default = model(name)
    field = dataclasses.fields(default)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(default, field, None)


@pytest.mark.parametrize("name", NETS)
def test_one_logit_per_class(name: str, make_data: Any) -> None:
    data = make_data((3, 32, 32), classes=4)
    network = model(name).build(data)
    assert network(torch.from_numpy(data.train.x)).shape == (6, 4)


@pytest.mark.parametrize("name", NETS)
def test_regression_has_one_output(name: str, make_data: Any) -> None:
    data = make_data((1, 32, 32), task="regression")
    assert model(name).build(data)(torch.from_numpy(data.train.x)).shape == (6, 1)


@pytest.mark.parametrize("name", NETS)
def test_the_global_seed_decides_the_initialisation(name: str, make_data: Any) -> None:
    data = make_data((1, 32, 32))
    networks = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        networks.append(torch.nn.utils.parameters_to_vector(model(name).build(data).parameters()))
    assert torch.equal(networks[0], networks[1])
    assert not torch.equal(networks[0], networks[2])


@pytest.mark.parametrize("name", NETS)
def test_instances_do_not_influence_each_other_in_evaluation(name: str, make_data: Any) -> None:
    data = make_data((1, 32, 32))
    network = model(name).build(data).eval()
    x = torch.from_numpy(data.train.x)
    alone = torch.cat([network(row[None]) for row in x])
    torch.testing.assert_close(network(x), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LINEAR_HEAD)
def test_the_last_layer_is_linear(name: str, make_data: Any) -> None:
    network = model(name).build(make_data((1, 32, 32)))
    leaves = [layer for layer in network.modules() if not list(layer.children())]
    assert isinstance(leaves[-1], nn.Linear)


@pytest.mark.parametrize("name", NETS)
def test_no_layer_works_in_place(name: str, make_data: Any) -> None:
    network = model(name).build(make_data((1, 32, 32)))
    assert not any(getattr(layer, "inplace", False) for layer in network.modules())


@pytest.mark.parametrize("name", NETS)
def test_models_are_returned_in_training_mode(name: str, make_data: Any) -> None:
    assert all(layer.training for layer in model(name).build(make_data((1, 32, 32))).modules())


@pytest.mark.parametrize("name", LINEAR_HEAD)
def test_many_models_in_one_program_give_the_gradients_of_each(name: str, make_data: Any) -> None:
    data = make_data((1, 8, 8))
    network = model(name).build(data).double()
    x, y = torch.from_numpy(data.train.x).double(), torch.from_numpy(data.train.y)
    weights = torch.tensor([[1.0] * 6, [0.0] + [1.0] * 5], dtype=torch.float64)  # all instances; all but the first

    def loss(params: dict[str, torch.Tensor], w: torch.Tensor) -> torch.Tensor:
        outputs = functional_call(network, params, (x,))
        return (nn.functional.cross_entropy(outputs, y, reduction="none") * w).sum()

    together = vmap(grad(loss), in_dims=(None, 0))(dict(network.named_parameters()), weights)
    for row, w in enumerate(weights):
        network.zero_grad()
        (nn.functional.cross_entropy(network(x), y, reduction="none") * w).sum().backward()
        for key, parameter in network.named_parameters():
            torch.testing.assert_close(together[key][row], parameter.grad)


@pytest.mark.parametrize("name", FLAT)
def test_flat_models_add_a_flatten_layer_only_for_images(name: str, make_data: Any) -> None:
    assert not isinstance(model(name).build(make_data((5,)))[0], nn.Flatten)
    assert isinstance(model(name).build(make_data((1, 4, 4)))[0], nn.Flatten)
