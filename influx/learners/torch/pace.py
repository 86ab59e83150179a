"""How long training takes here: a few steps of the learner's own program, timed, and the sizes of its net."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from influx.learners.torch.costs import MANY, cheaper
from influx.learners.torch.dense import dense_layers
from influx.learners.torch.training import Engine
from influx.planning import NetShape, Pace
from influx.problem import Design, Problem

if TYPE_CHECKING:
    from influx.learners.torch.learner import TorchLearner

STEP_SECONDS = 0.02  # aim for the longest timed step; larger blocks are timed in part
STEPS = (1, 4)  # epochs of the two timed trainings; their difference leaves fixed costs out
REPEATS = 3  # the fastest counts: the first warms up, and another process may get in the way
BUDGET, SLOW = 2.0, 1e9  # seconds after which a program is not timed again; flop of an instance that is timed in twos
ASSUMED_RATE = 1e10  # flop/s, only to choose how much to time


def pace(learner: TorchLearner, problem: Problem) -> Pace:
    """Time a few steps of a block of models, and of one model by the plain path, on the first batch."""
    n, steps = len(problem.train), learner.training.steps(len(problem.train))
    visits = learner.training.visits(n)
    block, at_once = learner.block_size(problem.data), learner.concurrent_blocks
    per_instance = learner.cost(problem.data, 1).flops / visits
    most, least = min(learner.training.batch_size, n), 8 if per_instance < SLOW else 2
    batch = int(np.clip(STEP_SECONDS * ASSUMED_RATE / per_instance, min(least, n), most))
    models = int(np.clip(STEP_SECONDS * ASSUMED_RATE / (per_instance * batch), 1, block))
    models = -(-models // learner.multiple(problem.data)) * learner.multiple(problem.data)
    threads = torch.get_num_threads()
    try:
        single_step, _ = _timed(learner, problem, batch, 1, "sequential")
        torch.set_num_threads(max(1, threads // at_once))  # as the blocks run: one thread each
        step, outcome = _timed(learner, problem, batch, models, learner.training.engine)
    finally:
        torch.set_num_threads(threads)
    full = visits / (steps * batch)  # a whole batch is so many times the timed one
    instances = n + len(problem.test)
    model = (steps * step * full + instances * outcome) / models / at_once
    note = f"{1e3 * step:.3g} ms per step of {models} models, {1e3 * single_step:.3g} ms per recorded step"
    return Pace(training=steps * single_step * full, model=model, note=f"{note} (batches of {batch})")


def _timed(learner: TorchLearner, problem: Problem, batch: int, models: int, engine: Engine) -> tuple[float, float]:
    """Seconds per step, and seconds per instance of the models' outcomes."""
    data = dataclasses.replace(
        problem.data, train=problem.train.take(slice(0, batch)), test=problem.test.take(slice(0, 1))
    )
    ones, numbers = np.ones((models, batch), np.uint8), np.zeros(models, np.int64)
    design = Design(weights=ones, init=numbers, order=numbers, loss_norm="full")
    best = dict.fromkeys(STEPS, float("inf"))
    began = time.perf_counter()
    for number, epochs in enumerate(STEPS * REPEATS):
        if number > len(STEPS) and time.perf_counter() - began > BUDGET:  # the first of each warms up
            break
        training = dataclasses.replace(
            learner.training, epochs=epochs, batch_size=batch, engine=engine, block=models, warmup_steps=0
        )
        short = dataclasses.replace(learner, training=training)
        start = time.perf_counter()
        short.retrain(data, problem.seed, design)
        best[epochs] = min(best[epochs], time.perf_counter() - start)
    few, many = STEPS
    step = max(best[many] - best[few], 1e-7) / (many - few)
    return step, max(best[few] - few * step, 0.0) / (batch + 1)


def net_shape(learner: TorchLearner, module: nn.Module, problem: Problem) -> NetShape:
    """Sizes of an untrained module under a learner's recipe."""
    training, n = learner.training, len(problem.train)
    steps = training.steps(n)
    params = list(module.parameters())
    slots = learner.optimizer.slots(params)
    products = layer_products(module, learner.example(problem.data)[0])
    state = module.state_dict().values()
    last = list(products)[-1] if products else None
    return NetShape(
        parameters=sum(p.numel() for p in params),
        head=sum(p.numel() for p in last.parameters()) if isinstance(last, nn.Linear) else 0,
        macs=sum(macs for macs, _ in products.values()),
        dot=sum(dot for _, dot in products.values()),
        head_dot=products[last][1] if isinstance(last, nn.Linear) else 0.0,
        depth=len(products),
        sides=tuple(side for layer in products for side in sides(layer)),
        plain=dense_layers(module) is not None,
        steps=steps,
        visits=training.visits(n),
        saved=tuple(training.saved_steps(steps)),
        state_bytes=sum(t.numel() * t.element_size() for tensors in slots.values() for t in tensors),
        parameter_bytes=sum(t.numel() * t.element_size() for t in state),
    )


def layer_products(module: nn.Module, x: Tensor) -> dict[nn.Module, tuple[float, float]]:
    """Multiply-adds of one instance's forward pass and of one product of two gradients, layer by layer.

    Products go through the layer's factors when that is cheaper than gradients written out.
    """
    found: dict[nn.Module, tuple[float, float]] = {}

    def count(layer: nn.Module, inputs: object, output: object) -> None:
        own = sum(p.numel() for p in layer.parameters(recurse=False))
        weight = getattr(layer, "weight", None)
        size = next((t.numel() for t in tensors_in(output)), 0)  # attention and recurrent layers return several
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            found[layer] = (float(size), float(own))
            return
        d_out, d_in = weight.shape[0], weight[0].numel()
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):  # its weight begins with the input's channels
            size = next((t.numel() for t in tensors_in(inputs)), 0)
        positions = size / (weight.shape[1] if isinstance(layer, nn.Embedding) else d_out)
        way = cheaper(round(positions), d_in, d_out, MANY, MANY)
        dot = float(own) if way == "written" else positions**2 * (d_in + d_out)
        earlier = found.get(layer, (0.0, 0.0))[0]  # a layer may be used more than once
        found[layer] = (earlier + positions * d_in * d_out, dot)

    owners = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
    hooks = [m.register_forward_hook(count) for m in owners]
    dtype = next(iter(module.parameters())).dtype
    try:
        with torch.no_grad():
            module.eval()(x.to(dtype) if x.is_floating_point() else x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def sides(layer: nn.Module) -> list[tuple[int, int, int]]:
    """As in ``NetShape.sides``; a bias is one number more in the columns."""
    own = list(layer.parameters(recurse=False))
    matrices = [weight for weight in own if weight.ndim > 1]
    if not matrices:
        return [(0, 0, sum(vector.numel() for vector in own))]
    if isinstance(layer, nn.Embedding):
        return [(0, weight[0].numel(), weight.numel()) for weight in matrices]
    bias = len(own) > len(matrices)
    shapes = [(weight.shape[0], weight[0].numel() + bias) for weight in matrices]
    return [(rows, columns, rows * columns) for rows, columns in shapes]


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors among a layer's arguments or outputs, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)
