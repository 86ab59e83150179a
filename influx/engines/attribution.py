"""Which instances a parameter change came from: the optimizer as a linear filter of the gradients that it was fed.

Momentum and Adam move parameters by gradients of earlier batches. Read backwards, a step hands the derivative of a
test risk on to its own batch and, through the optimizer's memory, to the batches before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from influx import progress
from influx.engines.curves import Curves
from influx.engines.gradients import Gradients, GradientsAt
from influx.engines.path import Path, recorded
from influx.errors import IncompatibleError
from influx.learners.torch.learner import TorchLearner
from influx.learners.torch.optimizers import SGD, Adam, AdamW, Optimizer
from influx.learners.torch.sequential import Recipe, State, decays
from influx.learners.torch.tasks import Task
from influx.planning import Prospect, Work
from influx.problem import Split

PAIRED_BYTES = 2 << 20  # gradients written out at a time to be compared one to one: they stay in cache
ATTRIBUTED_BYTES = 512 << 20  # test gradients and their filtered sums held at once; more take more replays
SAMPLES, SAMPLED_STEPS = 4, 4  # stretches of training, and steps of each, whose parameter change is looked at


@dataclass(frozen=True)
class Attribution:
    """What weight decay contributes to each test risk ``(n_test,)``, and the first-order fall to be divided."""

    decay: NDArray[np.float64]
    fall: NDArray[np.float64]


@torch.no_grad()
def attribute(
    path: Path, gradients: Gradients, values: NDArray[np.float64], own: NDArray[np.float64] | None, curves: Curves
) -> Attribution:
    """The first-order fall of test risks, Σ_t -∇L(z_j; θ_t)·(θ_t+1 - θ_t), divided among the instances of all batches.

    Adam's preconditioner √v̂ + eps and clip factors are taken as recorded. With ``own`` also of the training risks,
    of which each keeps what it owes to itself.
    """
    test, train, size = gradients.test, gradients.train, sum(p.numel() for p in path.fitted.build(0).parameters())
    element = path.fitted.recipe.dtype.itemsize
    at_once = max(1, ATTRIBUTED_BYTES // (3 * element * size))
    row_of, sums = path.rows_in(train), torch.from_numpy(values)
    decay, fall = np.zeros(len(test)), np.zeros(len(test))
    for start in range(0, len(test), at_once):
        part = slice(start, min(start + at_once, len(test)))
        for step, rows, dots, decayed, fallen in _backwards(path, gradients, test.take(part)):
            into = row_of[rows.cpu()]
            known = into >= 0
            found = dots.double().cpu()[known]
            sums[:, part].index_add_(0, into[known], found)
            curves.add(step, into[known].numpy(), part, found.numpy())
            decay[part] += decayed.double().cpu().numpy()
            fall[part] += fallen.double().cpu().numpy()
    for start in range(0, len(train) if own is not None else 0, at_once):
        assert own is not None
        part = slice(start, min(start + at_once, len(train)))
        for step, rows, dots, _, _ in _backwards(path, gradients, train.take(part)):
            into = row_of[rows.cpu()]
            mine = ((into >= part.start) & (into < part.stop)).nonzero()[:, 0]
            gained = dots.cpu()[mine, into[mine] - part.start].double().numpy()
            own[into[mine].numpy()] += gained
            curves.add_own(step, into[mine].numpy(), gained)
    return Attribution(decay, fall)


def _backwards(
    path: Path, gradients: Gradients, targets: Split
) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """Step, rows of its batch and ``(b, K)`` what they contribute; ``(K,)`` what weight decay does, and the fall."""
    recipe, later = path.fitted.recipe, path.fitted.state(path.total)
    optimizer, at, memory = recipe.optimizer, None, None
    after, second = _flat(list(later.module.parameters())), _flat(later.slots.get("second", []))
    wd = torch.cat([after.new_full((p.numel(),), d) for p, d in _decayed(recipe.optimizer, later)])
    with progress.task("influence of steps, backwards", path.total) as done:
        for state in path.backward(0, path.total):
            at = at or gradients.of(state.module)
            rows, x, y = path.batch(state.step)
            lr, theta = recipe.lr(state.step), _flat(list(state.module.parameters()))
            moved = torch.cat([found.flat() for _, found in at.blocks(targets)])
            memory = torch.zeros_like(moved) if memory is None else memory
            shrunk = moved.new_zeros(len(moved))
            if isinstance(optimizer, SGD):
                pulled, memory = optimizer.pull(moved, memory, lr, state.step + 1)
                shrunk = -pulled @ (wd * theta)
            elif isinstance(optimizer, Adam | AdamW):
                beta, t = optimizer.beta1, state.step + 1
                scale = (second.sqrt() / (1 - optimizer.beta2**t) ** 0.5 + optimizer.eps) * (1 - beta**t)
                memory = memory - lr * moved / scale
                pulled, memory = (1 - beta) * memory, beta * memory
                coupled = isinstance(optimizer, Adam)
                shrunk = -pulled @ (wd * theta) if coupled else lr * moved @ (wd * theta)
            factor = path.fitted.trajectory.clip[state.step] / len(rows)
            dots = -factor * (at.rows(x, y).flat() @ pulled.T)
            yield state.step, rows, dots, shrunk, -moved @ (after - theta)
            after, second = theta.clone(), _flat(state.slots.get("second", []))
            done(1)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors]) if tensors else torch.empty(0)


def _decayed(optimizer: Optimizer, state: State) -> list[tuple[Tensor, float]]:
    params = list(state.module.parameters())
    return list(zip(params, decays(optimizer, [p.shape for p in params]), strict=True))


def lean(path: Path) -> dict[float, NDArray[np.float64]] | None:
    """Weight decay → ``(T,)`` how much a unit of a step's gradient has moved a parameter at the end, downwards.

    All that HyDRA's fast variant needs of SGD: without curvature every coordinate goes through the same linear filter.
    None where the optimizer treats coordinates or gradients differently (Adam, clipping).
    """
    recipe = path.fitted.recipe
    optimizer = recipe.optimizer
    if not isinstance(optimizer, SGD) or recipe.training.clip_norm is not None:
        return None
    shapes = [p.shape for p in path.fitted.build(0).parameters()]
    return {wd: _kernel(path, optimizer, wd) for wd in set(decays(optimizer, shapes))}


def _kernel(path: Path, optimizer: SGD, wd: float) -> NDArray[np.float64]:
    kernel, moved, memory = np.empty(path.total), 1.0, 0.0
    for step in range(path.total - 1, -1, -1):
        pulled, memory = optimizer.pull(moved, memory, path.fitted.recipe.lr(step), step + 1)
        kernel[step], moved = -pulled, moved + wd * pulled
    return kernel


@torch.no_grad()
def filtered(
    path: Path,
    gradients: Gradients,
    kernels: dict[float, NDArray[np.float64]],
    values: NDArray[np.float64],
    own: NDArray[np.float64],
    curves: Curves,
) -> None:
    """Σ over visits of κ_t/b_t ⟨∇L(z_i; θ_t), ∇L(z_j; θ_T)⟩ into ``values`` and ``own``, κ by a parameter's decay."""
    final, recipe = gradients.at(path.fitted.checkpoints[-1]), path.fitted.recipe
    row_of, sums = path.rows_in(gradients.train), torch.from_numpy(values)
    wd = decays(recipe.optimizer, [p.shape for p in final.parameters.values()])
    for columns, theirs in final.blocks(gradients.test):
        at = None  # every replay has a module of its own
        with progress.task("influence of steps", path.total) as done:
            for state in path.forward(0, path.total - 1):
                at = at or gradients.of(state.module)
                rows, x, y = path.batch(state.step)
                mine = at.rows(x, y)
                weights = [kernels[d][state.step] / len(rows) for d in wd]
                into = row_of[rows.cpu()]
                known = into >= 0
                if len(kernels) == 1:
                    dots = mine.dot(theirs) * weights[0]
                else:
                    pairs = zip(mine.tensors(), theirs.tensors(), weights, strict=True)
                    dots = torch.stack([a.dot(b) * w for a, b, w in pairs]).sum(0)
                found = dots.double().cpu()[known]
                sums[:, columns].index_add_(0, into[known], found)
                curves.add(state.step, into[known].numpy(), columns, found.numpy())
                if columns.start == 0:
                    gained = torch.cat(list(_paired(at, final, x, y, weights)))
                    mine_own = gained.double().cpu()[known].numpy()
                    own[into[known].numpy()] += mine_own
                    curves.add_own(state.step, into[known].numpy(), mine_own)
                done(1)


def _paired(at: GradientsAt, final: GradientsAt, x: Tensor, y: Tensor, weights: list[float]) -> Iterator[Tensor]:
    """Σ over parameters of a weight times ⟨gradient here, at the end⟩ of each instance, a few instances at a time."""
    sizes = [p.numel() for p in at.parameters.values()]
    few = max(1, PAIRED_BYTES // (x.element_size() * sum(sizes)))
    for a, b in zip(x.split(few), y.split(few), strict=True):
        both = (at.rows(a, b).flat() * final.rows(a, b).flat()).split(sizes, 1)
        yield torch.stack([part.sum(1) * w for part, w in zip(both, weights, strict=True)]).sum(0)


def sampled(total: int, saved: Sequence[int]) -> list[tuple[int, int]]:
    """First and last states of a few stretches of a training, apart, each beginning at one that is ``saved``."""
    wanted = np.linspace(0, max(total - SAMPLED_STEPS, 0), SAMPLES).astype(int).tolist()
    found: list[tuple[int, int]] = []
    for start in sorted({max(s for s in saved if s <= at) for at in wanted}):
        joined = found.pop()[0] if found and start <= found[-1][1] else start
        found.append((joined, min(start + SAMPLED_STEPS, total)))
    return found


@torch.no_grad()
def explained(path: Path, gradients: Gradients, clips: bool) -> float:
    """Share of the parameter change that plain steps on the recorded batches explain, from a few stretches.

    Σ ⟨-η_t g_t, θ_t+1 - θ_t⟩ / Σ |θ_t+1 - θ_t|², which is 1 for plain SGD and about 1 - μ with momentum μ; ``clips``
    says whether the recorded clip factors are part of it.
    """
    recipe, along, whole = path.fitted.recipe, 0.0, 0.0
    for start, stop in sampled(path.total, [c.step for c in path.fitted.checkpoints]):
        before = plain = None
        for state in path.forward(start, stop):
            theta = _flat(list(state.module.parameters())).double()
            if before is not None and plain is not None:
                change = theta - before
                along, whole = along + float(plain @ change), whole + float(change @ change)
            if state.step < stop:
                _, x, y = path.batch(state.step)
                rate = recipe.lr(state.step) * (path.fitted.trajectory.clip[state.step] if clips else 1.0)
                before, plain = theta, -rate * _mean_gradient(gradients.fitted.task, state.module, x, y)
    return along / whole if whole else 1.0


def _mean_gradient(task: Task, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """``(p,)`` of the mean risk of a batch, by one backward pass."""
    params = list(module.parameters())
    with torch.enable_grad():
        found = torch.autograd.grad(task.loss(module(x), y).mean(), params, allow_unused=True)
    return _flat([torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]).double()


def doubts(path: Path, gradients: Gradients, clips: bool) -> tuple[list[str], dict[str, float]]:
    """What to say, and to report, of a sum over plain SGD steps when the training took others."""
    recipe = path.fitted.recipe
    clipping = clips and recipe.unlike_sgd == "gradient clipping"
    noise = "batch statistics" if recipe.coupled else "dropout" if recipe.random else ""
    differences = [what for what in ("" if clipping else recipe.unlike_sgd, noise) if what]
    if not differences:
        return [], {}
    if not getattr(path.fitted, "recorded", True):
        return [f"the model was trained with {' and '.join(differences)}, the sum is over steps of plain SGD"], {}
    share = explained(path, gradients, clips)
    aware = "tracin_momentum" if isinstance(recipe.optimizer, SGD) else "tracin_adam"
    remedy = "gradients are taken in eval mode" if noise else f"estimator={aware} attributes all of it"
    sentence = (
        f"the sum over plain SGD steps explains {share:.0%} of the parameter change, the model was trained with "
        f"{' and '.join(differences)}; {remedy}"
    )
    return [sentence], {"explained": share}


def check_memory(recipe: Recipe, wanted: str) -> None:
    """Refuse a training whose optimizer is another than an estimator is about.

    Raises:
        IncompatibleError: ``wanted`` (momentum or adam) is not what the model was trained with.
    """
    optimizer = recipe.optimizer
    found = "momentum" if isinstance(optimizer, SGD) else "adam"
    if found != wanted:
        raise IncompatibleError(
            f"estimator=tracin_{wanted} reads the memory of {'SGD' if wanted == 'momentum' else 'Adam or AdamW'}, the "
            f"model is trained with {type(optimizer).__name__}; use estimator=tracin_{found} or another optimizer"
        )


def doubted_work(prospect: Prospect) -> Work:
    """Of ``doubts``: a few steps gone through again, with a gradient of each batch."""
    net, learner = prospect.net, prospect.problem.learner
    if not net.visits or not isinstance(learner, TorchLearner):  # trained elsewhere
        return Work()
    recipe = recorded(prospect)
    if not (recipe.unlike_sgd or recipe.coupled or recipe.random):
        return Work()
    steps = sum(stop - start for start, stop in sampled(net.steps, net.saved))
    passes = 2.0 * steps * net.visits / net.steps
    return Work(
        flops=6.0 * net.macs * passes,
        numbers=16.0 * net.parameters * steps,
        formula=f"{steps} steps again, to compare with plain SGD",
    )
