"""What a net allows: found out by running it on two instances, not by knowing its layers."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from influx.errors import IncompatibleError
from influx.learners.torch.mixed import Precision, passed
from influx.learners.torch.sequential import GLOBAL_GENERATOR, random_state
from influx.learners.torch.sizes import few_tokens, is_large, passes_in_outline
from influx.learners.torch.tasks import Task


@dataclass(frozen=True)
class Traits:
    """How a net trains.

    Attributes:
        coupled: an instance's output depends on the others of its batch.
        takes_one: a batch of one can be trained on.
        random: a forward pass draws random numbers.
        stackable: torch.func can train copies of the module with stacked parameters.
    """

    coupled: bool
    takes_one: bool
    random: bool
    stackable: bool


PLAIN = Traits(coupled=False, takes_one=True, random=False, stackable=True)


def traits_of(
    module: nn.Module, task: Task, x: Tensor, y: Tensor, stack: bool = True, precision: Precision = "model"
) -> Traits:
    """Try a copy of the module on the instances ``x`` (2, ...) and their targets.

    Long texts are shortened for large nets. Without ``stack`` a module is not stackable.
    """
    x = few_tokens(module, x)
    random = is_random(module, x)
    coupled = has_batch_statistics(module) or (not random and _depends_on_others(copy.deepcopy(module).train(), x))
    alone = not (coupled or random or has_parameter_hooks(module))
    stackable = stack and alone and _stackable(module, task, x, y, precision)
    return Traits(coupled, not coupled or _takes_one(module, x), random, stackable)


def has_batch_statistics(module: nn.Module) -> bool:
    """True when the module has a layer whose training statistics couple the instances of a batch."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    return any(isinstance(m, norms) for m in module.modules())


def has_parameter_hooks(module: nn.Module) -> bool:
    """True when gradients are changed on their way to a parameter or a module, which torch.func does not see."""
    on_modules = any(m._backward_hooks or m._backward_pre_hooks for m in module.modules())
    return on_modules or any(p._backward_hooks or p._post_accumulate_grad_hooks for p in module.parameters())


def _depends_on_others(module: nn.Module, x: Tensor) -> bool:
    """Whether the first instance's output changes with the batch around it, by more than rounding and chance."""
    batch, devices = _apart(x), [x.device] if x.device.type == "cuda" else []
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=devices), torch.no_grad():
        again, together = module(batch)[:1], module(batch)[:1]
        try:
            alone = module(batch[:1])
        except ValueError:  # torch: expected more than 1 value per channel
            return True
    return torch.equal(again, together) and not torch.allclose(together, alone, rtol=1e-3, atol=1e-4)


def _apart(x: Tensor) -> Tensor:
    """``x``, with other numbers in all instances but the first: equal ones would show nothing."""
    if not x.is_floating_point():
        return x
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device)
    return torch.cat([x[:1], noise[1:]])


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


def _stackable(module: nn.Module, task: Task, x: Tensor, y: Tensor, precision: Precision) -> bool:
    stacked = {name: torch.stack([p.detach()] * 2) for name, p in module.named_parameters()}

    def loss(params: dict[str, Tensor]) -> Tensor:
        return task.loss(passed(precision, lambda x: functional_call(module, params, (x,)), x), y).sum()

    try:
        vmap(grad(loss))(stacked)
        with torch.no_grad():
            vmap(lambda p: functional_call(module, p, (x,)))(stacked)
    except RuntimeError:  # data-dependent control flow, in-place writes, operations without a batching rule
        return False
    return True


def check_trainable(
    module: nn.Module, task: Task, x: Tensor, y: Tensor, smallest_batch: int, precision: Precision = "model"
) -> None:
    """Refuse a module that training would fail on later.

    Raises:
        IncompatibleError: frozen parameters, state other than tensors, batches too small for batch statistics, outputs
            of another shape.
    """
    check_state(module)
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
    _learn(module, task, x, y, precision)
    if _depends_on_others(copy.deepcopy(module).eval(), few_tokens(module, x)):
        raise IncompatibleError(
            "the model's output for an instance depends on the other instances of its batch even in eval mode, so that "
            "no instance has a loss of its own; use running statistics (track_running_stats=True) or another model"
        )


def _learn(module: nn.Module, task: Task, x: Tensor, y: Tensor, precision: Precision) -> None:
    """A forward and backward pass of a copy, also in ``precision``; of a large module without numbers, if possible."""

    def forth_and_back(probe: nn.Module, precision: Precision = "model") -> None:
        device = next(probe.parameters()).device
        task.loss(passed(precision, probe.train(), x.to(device)), y.to(device)).sum().backward()

    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        outlined = is_large(module) and passes_in_outline(module, forth_and_back)
        if outlined and precision == "model":
            return
        try:
            if not outlined:
                forth_and_back(copy.deepcopy(module))
        except (RuntimeError, ValueError, IndexError) as error:
            first = str(error).splitlines()[0]
            raise IncompatibleError(
                f"the model cannot be trained on inputs of shape {tuple(x.shape[1:])} ({first}); "
                "choose another model or another shape of the dataset"
            ) from error
        try:
            if precision != "model":
                forth_and_back(copy.deepcopy(module), precision)
        except (RuntimeError, ValueError, IndexError) as error:
            raise IncompatibleError(
                f"the model cannot be trained with training.precision={precision} ({str(error).splitlines()[0]}); "
                "use training.precision=model"
            ) from error


def check_state(module: nn.Module) -> None:
    """Refuse a module whose state is more than tensors: checkpoints hold nothing else.

    Raises:
        IncompatibleError: it is.
    """
    other = [name for name, value in module.state_dict().items() if not isinstance(value, Tensor)]
    if other:
        raise IncompatibleError(
            f"the model's state must be tensors, {other[0]} is something else (of get_extra_state), which checkpoints "
            "do not hold; make it a buffer, or leave it out of the state"
        )


def _takes_one(module: nn.Module, x: Tensor) -> bool:
    devices = [x.device] if x.device.type == "cuda" else []
    try:
        with GLOBAL_GENERATOR, torch.random.fork_rng(devices=devices), torch.no_grad():
            copy.deepcopy(module).train()(x[:1])
    except ValueError:  # torch: expected more than 1 value per channel
        return False
    return True
