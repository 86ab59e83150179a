"""Derivatives through the recorded training: one optimizer step as a function, pushed forwards or pulled backwards.

The state after a step is a function of parameters, optimizer state and the weights w of the batch's instances,
with the gradient (1/b) Σ w_i ∇L(z_i; θ). Forward mode carries dθ/dw_i for tracked instances i, reverse mode carries
the derivative of a test risk with respect to parameters and optimizer state. A step is elementwise, so that autograd
gives its derivatives for many directions at once, whatever the optimizer; for plain SGD it is linear and its own
derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from influx.engines.path import check_steps
from influx.engines.products import Hessians, Vectors
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.optimizers import SGD, Slots
from influx.learners.torch.sequential import State, decays
from influx.learners.torch.stacked import clip_each


@dataclass
class Motion:
    """Tangents or cotangents of parameters and optimizer state: tensors ``(K, *shape)``."""

    params: Vectors
    slots: Slots

    def norms(self) -> Tensor:
        """``(K,)`` norms of the parameters' part, float64."""
        return torch.stack([p.flatten(1).double().square().sum(1) for p in self.params]).sum(0).sqrt()


@dataclass(frozen=True)
class Steps:
    """The steps of one recorded training and their derivatives.

    Raises:
        IncompatibleError: steps draw random numbers, mix the instances of a batch, or are in lower precision.
    """

    fitted: TorchFitted

    def __post_init__(self) -> None:
        """Refuse what a step with its batch alone does not determine."""
        check_steps(self.fitted.recipe)

    @cached_property
    def decay(self) -> list[float]:
        """Weight decay of each parameter."""
        return decays(self.fitted.recipe.optimizer, [p.shape for p in self.fitted.build(0).parameters()])

    def still(self, count: int) -> Motion:
        """``count`` motions of nothing."""
        params = [p.new_zeros(count, *p.shape) for p in self.fitted.build(0).to(self.fitted.device).parameters()]
        return Motion(params, self.fitted.recipe.optimizer.slots(params))

    def hessians(self, state: State) -> Hessians:
        """Of batches at the parameters of ``state``, which may change."""
        return Hessians(state.module, self.fitted.task)

    def _after(self, state: State, params: Vectors, grads: Vectors, slots: Slots) -> tuple[Vectors, Slots]:
        """Many copies of the step that starts from ``state``."""
        recipe = self.fitted.recipe
        if recipe.training.clip_norm is not None:
            grads = clip_each(grads, recipe.training.clip_norm)
        lr = [recipe.lr(state.step)] * len(params)
        return recipe.optimizer.step(params, grads, slots, lr, self.decay, state.step + 1)

    @property
    def _linear(self) -> bool:
        """Whether a step is linear in parameters, gradients and optimizer state."""
        recipe = self.fitted.recipe
        return isinstance(recipe.optimizer, SGD) and recipe.training.clip_norm is None

    @torch.no_grad()
    def push(self, state: State, gradient: Vectors, motion: Motion, dgrads: Vectors) -> Motion:
        """Tangents after the step, from those before it and those ``dgrads`` of the batch gradient ``gradient``."""
        if self._linear:
            return Motion(*self._after(state, motion.params, dgrads, motion.slots))
        names = list(motion.slots)
        leaves, made = self._copies(state, gradient, len(dgrads[0]), names)
        tangents = [*motion.params, *dgrads, *(t for n in names for t in motion.slots[n])]
        with torch.enable_grad():  # the pull-back is linear in its cotangents: pulled back in turn, it pushes
            cotangents = [torch.zeros_like(t).requires_grad_() for t in made]
            pulled = torch.autograd.grad(_inner(made, cotangents), leaves, create_graph=True)
            total = _inner(pulled, tangents)
        moved = torch.autograd.grad(total, cotangents)
        params, new_slots = list(moved[: len(dgrads)]), moved[len(dgrads) :]
        return self._defined(state, Motion(params, self._named(new_slots, names)))

    def pull(self, state: State, gradient: Vectors, motion: Motion) -> tuple[Motion, Vectors]:
        """Cotangents before the step from those after it, and those of the batch gradient.

        The first leave out what goes through the gradient's dependence on the parameters.
        """
        optimizer = self.fitted.recipe.optimizer
        if self._linear and isinstance(optimizer, SGD):
            return self._pull_sgd(optimizer, state, motion)
        names = list(motion.slots)
        leaves, made = self._copies(state, gradient, len(motion.params[0]), names)
        given = [*motion.params, *(t for n in names for t in motion.slots[n])]
        with torch.enable_grad():
            total = _inner(made, given)
        found, count = torch.autograd.grad(total, leaves), len(self.decay)
        before = self._defined(state, Motion(list(found[:count]), self._named(found[2 * count :], names)))
        return before, self._defined(state, Motion(list(found[count : 2 * count]), {})).params

    def _pull_sgd(self, optimizer: SGD, state: State, motion: Motion) -> tuple[Motion, Vectors]:
        """The same in fewer passes over memory."""
        memories = motion.slots.get("momentum", motion.params)
        lr, before, dgrads, slots = self.fitted.recipe.lr(state.step), [], [], []
        for moved, memory, wd in zip(motion.params, memories, self.decay, strict=True):
            pulled, earlier = optimizer.pull(moved, memory, lr, state.step + 1)
            before.append(moved + wd * pulled if wd else moved)
            dgrads.append(pulled)
            slots.append(earlier)
        return Motion(before, {"momentum": slots} if motion.slots else {}), dgrads

    def _copies(self, state: State, gradient: Vectors, count: int, names: list[str]) -> tuple[Vectors, Vectors]:
        """``count`` copies of what the step starts from (parameters, gradient, slots) and of what it makes of them."""
        start = [*state.module.parameters(), *gradient, *(t for n in names for t in state.slots[n])]
        width = len(self.decay)
        with torch.enable_grad():
            leaves = [t.detach().expand(count, *t.shape).requires_grad_() for t in start]
            slots = self._named(leaves[2 * width :], names)
            after, new = self._after(state, leaves[:width], leaves[width : 2 * width], slots)
        return leaves, [*after, *(t for n in names for t in new[n])]

    def _named(self, flat: Sequence[Tensor], names: list[str]) -> Slots:
        width = len(self.decay)
        return {name: list(flat[i * width : (i + 1) * width]) for i, name in enumerate(names)}

    @staticmethod
    def _defined(state: State, motion: Motion) -> Motion:
        """Zero where Adam's second moment is still zero: there 0 / 0 stands for a coordinate that never moved."""
        if "second" not in state.slots:
            return motion
        never = [v == 0 for v in state.slots["second"]]

        def cleaned(tensors: Vectors) -> Vectors:
            return [t.masked_fill(t.isnan() & zero, 0) for t, zero in zip(tensors, never, strict=True)]

        return Motion(cleaned(motion.params), {name: cleaned(ts) for name, ts in motion.slots.items()})


def _inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()
