"""Training one model, step by step: the recorded training, its replay, and the plain path of retraining."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from influx.errors import NumericalError
from influx.learners.torch.compiled import compiled, compiling
from influx.learners.torch.inputs import Attached, carried
from influx.learners.torch.loading import Pair, fed
from influx.learners.torch.mixed import passed
from influx.learners.torch.optimizers import SGD, Optimizer, Slots
from influx.learners.torch.tasks import Task
from influx.learners.torch.training import Batches, Training
from influx.problem import LossNorm
from influx.streams import stream_seed

GLOBAL_GENERATOR = threading.RLock()  # held while torch's global generator is seeded and drawn from


@dataclass
class State:
    """Where a training stands: after ``step`` updates, with the loss and clip factor of each step so far."""

    step: int
    module: nn.Module
    slots: Slots
    losses: list[float] = field(default_factory=list)
    clips: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that determines a training apart from its initialisation and instance weights."""

    task: Task
    optimizer: Optimizer
    training: Training
    batches: Batches
    seed: int
    order: int
    x: Tensor  # (n_train, ...), without latent draws: see inputs; on the device unless they lie apart from it
    y: Tensor  # (n_train,)
    ids: NDArray[np.int64]
    random: bool = False  # a training forward pass draws random numbers
    coupled: bool = False  # a training forward pass mixes the instances of a batch
    takes_one: bool = True  # it works for a batch of one
    attached: Attached | None = None  # what the module reads beside the instances
    apart: bool = False  # x is in the host's memory, the rest on the device

    @property
    def total(self) -> int:
        """Steps in the whole training."""
        return len(self.batches)

    @property
    def device(self) -> torch.device:
        """Where the training takes place."""
        return self.y.device

    @property
    def draws(self) -> int:
        """Latent draws of an instance's risk in evaluation; 1 of a model that draws nothing."""
        return self.attached.evaluation if self.attached is not None and self.attached.numbers else 1

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and arithmetic; tokens stay whole numbers."""
        dtype: torch.dtype = self.x.dtype if self.x.is_floating_point() else getattr(torch, self.training.dtype)
        return dtype

    @property
    def rounding(self) -> torch.dtype:
        """What the coarsest arithmetic of a step is in."""
        return self.dtype if self.training.precision == "model" else torch.bfloat16

    @property
    def unlike_sgd(self) -> str:
        """What makes the steps differ from plain SGD on the mean risk of a batch, or an empty string."""
        optimizer = self.optimizer
        if not isinstance(optimizer, SGD):
            return type(optimizer).__name__
        if optimizer.momentum:
            return f"momentum {optimizer.momentum:g}"
        return "gradient clipping" if self.training.clip_norm is not None else ""

    @property
    def removal_noise(self) -> str:
        """What else a removed instance changes than what it taught, or an empty string."""
        if not (self.coupled and self.random):
            return ""
        return (
            "batch statistics and dropout together: without an instance the random numbers of those behind it in the "
            "batch change too, so part of each difference is chance"
        )

    def inputs(self, rows: Tensor, step: int | None = None) -> Tensor:
        """What the module reads of rows of the training: at the step that leaves state ``step``, or in evaluation."""
        return self.drawn(self.known(rows), rows, step)

    def known(self, rows: Tensor) -> Tensor:
        """The same without latent draws."""
        return carried(self.x[rows.to(self.x.device)], self.device)

    def drawn(self, known: Tensor, rows: Tensor, step: int | None) -> Tensor:
        """The same with them."""
        if self.attached is None:
            return known
        ids = self.ids[rows.cpu().numpy()]
        if step is None:
            return self.attached.evaluated(known, ids)
        return self.attached.trained(known, ids, self.order, step)

    def fed(self, first: int, last: int) -> Iterator[Pair]:
        """Inputs without latent draws, and rows, of the batches of steps ``first`` to ``last``, which is left out."""

        def load(part: slice) -> Pair:
            rows = torch.from_numpy(self.batches.rows[part])
            return self.known(rows), carried(rows, self.device)

        edges = itertools.pairwise(map(int, self.batches.offsets[first : last + 1]))
        return fed((slice(*edge) for edge in edges), load, self.apart, self.device)

    def outputs(self, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What ``call`` makes of inputs in a step of the training, in its precision."""
        return passed(self.training.precision, call, x)

    def lr(self, step: int) -> float:
        """Learning rate of the update that leaves checkpoint ``step``."""
        return self.training.learning_rate(self.optimizer.lr, step, self.total)


def decays(optimizer: Optimizer, shapes: list[torch.Size]) -> list[float]:
    """Weight decay of each tensor, given the shapes of one model's tensors."""
    everywhere = optimizer.decay_on == "all"
    return [optimizer.weight_decay if everywhere or len(shape) > 1 else 0.0 for shape in shapes]


def random_state(device: torch.device) -> Tensor:
    """State of torch's global generator on a device."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def advance(recipe: Recipe, state: State, stop: int, weights: Tensor | None, norm: LossNorm) -> Iterator[State]:
    """Train until step ``stop``, yielding after every update. ``weights`` (n_train,) multiply the risks.

    Zero-weight instances of a model that couples the instances of a batch do not enter the forward pass, so that a
    removed instance leaves no trace; the divisor stays as ``norm`` says. A batch without surviving weight, or with
    one instance where the model's batch statistics need two, has gradient zero: momentum and weight decay still act.
    What is done to the module between two steps, apart from its tensors, does not matter.

    Raises:
        NumericalError: the loss of a step is not finite.
    """
    module = state.module
    params = list(module.parameters())
    decay = decays(recipe.optimizer, [p.shape for p in params])
    compiles = recipe.training.compile and weights is None
    forward, watched = (compiled(module), compiling) if compiles else (module, contextlib.nullcontext)
    for x, rows in recipe.fed(state.step, stop):
        module.train()
        with _noise(recipe, state.step) if recipe.random else contextlib.nullcontext(), watched():
            loss, grads = _batch(recipe, forward, params, state.step, x, rows, weights, norm)
        if not np.isfinite(loss):
            raise NumericalError(
                f"the training loss is {loss} at step {state.step} (instances "
                f"{recipe.ids[rows[:5].cpu().numpy()].tolist()}…); lower optimizer.lr, set training.clip_norm or "
                "check the data"
            )
        factor = 1.0
        if recipe.training.clip_norm is not None:
            grads, factor = clip(grads, recipe.training.clip_norm)
        lr = recipe.lr(state.step)
        with torch.no_grad():
            new, state.slots = recipe.optimizer.step(
                [p.detach() for p in params], grads, state.slots, [lr] * len(params), decay, state.step + 1
            )
            for p, value in zip(params, new, strict=True):
                p.copy_(value)
        state.step += 1
        state.losses.append(loss)
        state.clips.append(factor)
        yield state


def _batch(
    recipe: Recipe,
    forward: Callable[[Tensor], Tensor],
    params: list[nn.Parameter],
    step: int,
    x: Tensor,
    rows: Tensor,
    weights: Tensor | None,
    norm: LossNorm,
) -> tuple[float, list[Tensor]]:
    """Mean risk and its gradient, of inputs without draws and rows of the training."""
    size = float(len(rows))
    w = None if weights is None else weights[rows]
    if w is not None and norm == "subset":
        size = float(w.sum()) or 1.0
    if w is not None and recipe.coupled:
        kept = w != 0
        x, rows, w = x[kept], rows[kept], w[kept]
    if len(rows) < (1 if recipe.takes_one or w is None else 2):
        return 0.0, [torch.zeros_like(p) for p in params]
    with torch.enable_grad():
        risks = recipe.task.loss(recipe.outputs(forward, recipe.drawn(x, rows, step)), recipe.y[rows])
        loss = (risks.sum() if w is None else (risks * w).sum()) / size
    grads = torch.autograd.grad(loss, params, allow_unused=True)
    return float(loss.detach()), [torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)]


def clip(grads: list[Tensor], limit: float) -> tuple[list[Tensor], float]:
    """Scale a gradient down to norm ``limit``; the factor applied (as ``torch.nn.utils.clip_grad_norm_``)."""
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
    factor = (limit / (total + 1e-6)).clamp(max=1.0)
    return [g * factor for g in grads], float(factor)


@contextlib.contextmanager
def _noise(recipe: Recipe, step: int) -> Iterator[None]:
    """Random numbers of a step (dropout masks…) depend on the seed, the order and the step alone."""
    devices = [recipe.device] if recipe.device.type == "cuda" else []
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=devices):
        torch.manual_seed(stream_seed(recipe.seed, f"noise/{recipe.order}/{step}"))
        yield
