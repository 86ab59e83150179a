"""What a net allows: found out by running it on two instances, not by knowing its layers."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from influx.errors import IncompatibleError
from influx.learners.torch.sequential import GLOBAL_GENERATOR, has_batch_statistics, random_state
from influx.learners.torch.tasks import Task


@dataclass(frozen=True)
class Traits:
    """Whether training couples the instances of a batch, draws random numbers, and can be stacked.

    ``stackable`` means that torch.func can train copies of the module with stacked parameters.
    """

    coupled: bool
    random: bool
    stackable: bool


def traits_of(module: nn.Module, task: Task, x: Tensor, y: Tensor) -> Traits:
    """Try a copy of the module on the instances ``x`` (2, ...) and their targets."""
    coupled, random = has_batch_statistics(module), is_random(module, x)
    return Traits(coupled, random, not (coupled or random) and _stackable(module, task, x, y))


def is_random(module: nn.Module, x: Tensor) -> bool:
    """True when a training forward pass moves torch's global generator.

    ``RReLU`` is known by its type: it draws for negative inputs only, which two instances may not show.
    """
    if any(isinstance(m, nn.RReLU) for m in module.modules()):
        return True
    probe = copy.deepcopy(module).train()
    devices = [x.device] if x.device.type == "cuda" else []
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=devices), torch.no_grad():
        before = random_state(x.device)
        probe(x)
        return not torch.equal(before, random_state(x.device))


def _stackable(module: nn.Module, task: Task, x: Tensor, y: Tensor) -> bool:
    stacked = {name: torch.stack([p.detach()] * 2) for name, p in module.named_parameters()}

    def loss(params: dict[str, Tensor]) -> Tensor:
        return task.loss(functional_call(module, params, (x,)), y).sum()

    try:
        vmap(grad(loss))(stacked)
    except RuntimeError:  # data-dependent control flow, in-place writes, operations without a batching rule
        return False
    return True


def check_trainable(module: nn.Module, task: Task, x: Tensor, y: Tensor, smallest_batch: int) -> None:
    """Refuse a module that training would fail on later.

    Raises:
        IncompatibleError: frozen parameters, batches too small for batch statistics, outputs of another shape.
    """
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    if frozen:
        raise IncompatibleError(
            f"all parameters of the model must be trainable, {', '.join(frozen[:3])} is frozen (requires_grad=False); "
            "make it a buffer or trainable"
        )
    if has_batch_statistics(module) and smallest_batch < 3 and not _takes_one(module, x):
        raise IncompatibleError(
            f"batch normalisation needs two instances where one has been removed, the smallest batch has "
            f"{smallest_batch}; change training.batch_size, set training.drop_last=true or use a model with norm=group"
        )
    probe = copy.deepcopy(module).train()
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        try:
            task.loss(probe(x), y).sum().backward()
        except (RuntimeError, ValueError, IndexError) as error:
            first = str(error).splitlines()[0]
            raise IncompatibleError(
                f"the model cannot be trained on inputs of shape {tuple(x.shape[1:])} ({first}); "
                "choose another model or another shape of the dataset"
            ) from error


def _takes_one(module: nn.Module, x: Tensor) -> bool:
    devices = [x.device] if x.device.type == "cuda" else []
    try:
        with GLOBAL_GENERATOR, torch.random.fork_rng(devices=devices), torch.no_grad():
            copy.deepcopy(module).train()(x[:1])
    except ValueError:  # torch: expected more than 1 value per channel
        return False
    return True
