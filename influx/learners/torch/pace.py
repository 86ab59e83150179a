"""How long training takes here: a few steps of the learner's own program, timed, and the sizes of its net."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from influx.learners.torch.costs import MANY, cheaper
from influx.learners.torch.dense import dense_layers
from influx.learners.torch.sizes import is_large, kept_bytes, multiply_adds, numbers_of, outline
from influx.learners.torch.training import Engine
from influx.planning import NetShape, Pace
from influx.problem import Cost, Data, Design, Problem
from influx.rates import measure

if TYPE_CHECKING:
    from influx.learners.torch.learner import TorchLearner

STEP_SECONDS = 0.02  # aim for the longest timed step; larger blocks are timed in part
STEPS = (1, 4)  # epochs of the two timed trainings; their difference leaves fixed costs out
REPEATS = 3  # the fastest counts: the first warms up, and another process may get in the way
BUDGET, SLOW = 2.0, 1e9  # seconds after which a program is not timed again; flop of an instance that is timed in twos
ASSUMED_RATE = 1e10  # flop/s, only to choose how much to time
UNTIMED = 2e10  # flop of an instance from which steps are not timed, since a plan should take seconds


def pace(learner: TorchLearner, problem: Problem) -> Pace:
    """Time a few steps of a block of models, and of one model by the plain path, on the first batch.

    Where one instance would take seconds, operations are divided by the measured speed of products.
    """
    n, steps = len(problem.train), learner.training.steps(len(problem.train))
    visits = learner.training.visits(n)
    operations = learner.cost(problem.data, 1).flops
    per_instance = operations / visits
    if per_instance > UNTIMED:
        return by_operations(operations, learner.counted(problem.data).macs, n + len(problem.test))
    block, at_once = learner.block_size(problem.data), learner.concurrent_blocks
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


def by_operations(training: float, macs: float, instances: int) -> Pace:
    """From the operations of a training; a retrained model also says what it makes of all ``instances``."""
    rate = measure().flops
    model = (training + 2.0 * macs * instances) / rate
    return Pace(training=training / rate, model=model, note="trainings by their operations, too many to time here")


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
        short = learner.shortened(training, data)
        start = time.perf_counter()
        short.retrain(data, problem.seed, design)
        best[epochs] = min(best[epochs], time.perf_counter() - start)
    few, many = STEPS
    step = max(best[many] - best[few], 1e-7) / (many - few)
    return step, max(best[few] - few * step, 0.0) / (batch + 1)


@dataclass(frozen=True)
class Counted:
    """What a net takes.

    Attributes:
        module: untrained; of a large one the outline (see ``sizes``).
        products: multiply-adds per layer, as ``layer_products`` has them.
        macs: multiply-adds of one instance's forward pass.
        kept: bytes of one instance, as ``NetShape.kept_bytes``.
    """

    module: nn.Module
    products: Mapping[nn.Module, tuple[float, float]]
    macs: float
    kept: float


def counted(module: nn.Module, x: Tensor) -> Counted:
    """Count on one instance ``x`` (1, ...); a large module in outline, where that is possible."""
    if is_large(module):
        try:
            return _counted(outline(module), x.to("meta"))
        except Exception:  # code that looks at numbers fails in any way
            return _counted(module, x)
    return _counted(module, x)


def _counted(module: nn.Module, x: Tensor) -> Counted:
    """Products count wherever they are made: attention belongs to no layer, and a tied one is used twice."""
    products: dict[nn.Module, tuple[float, float]] = {}

    def run() -> None:
        products.update(layer_products(module, x))

    whole = kept = 0.0
    if dense_layers(module) is None:
        with suppress(Exception):  # of the counter; the module's own comes again below
            whole = multiply_adds(run)
    if not products:
        run()
    training = module.training
    with suppress(Exception):  # a module that takes no gradient says so elsewhere
        kept = kept_bytes(module.eval(), x)
    module.train(training)
    return Counted(module, products, max(whole, sum(macs for macs, _ in products.values())), kept)


def training_cost(learner: TorchLearner, data: Data, models: int) -> Cost:
    """Floating-point operations and working memory of training ``models`` models."""
    found, training, n = learner.counted(data), learner.training, len(data.train)
    size, steps, seen = numbers_of(found.module), training.steps(n), training.visits(n)
    each = 16.0 * size + training.batch_size * found.kept
    return Cost(
        flops=float(models) * (6.0 * found.macs * seen + 8.0 * size * steps),
        bytes=learner.block_size(data) * each,
        formula=(
            f"{models} models x (6 x {found.macs:.3g} multiply-adds x {seen} visits "
            f"+ 8 x {size} parameters x {steps} steps)"
        ),
    )


def net_shape(learner: TorchLearner, data: Data, n: int) -> NetShape:
    """Sizes of a learner's net and of its training on ``n`` instances."""
    training, found = learner.training, learner.counted(data)
    steps, module, products = training.steps(n), found.module, found.products
    slots = learner.optimizer.slots([p.to("meta") for p in module.parameters()])
    state = module.state_dict().values()
    last = list(products)[-1] if products else None
    return NetShape(
        parameters=numbers_of(module),
        head=sum(p.numel() for p in last.parameters()) if isinstance(last, nn.Linear) else 0,
        macs=found.macs,
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
        kept_bytes=found.kept,
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
        table = isinstance(layer, nn.Embedding)
        positions = size / (weight.shape[1] if table else d_out)
        way = cheaper(round(positions), d_in, d_out, MANY, MANY)
        dot = float(own) if way == "written" else positions**2 * (d_in + d_out)
        earlier = found.get(layer, (0.0, 0.0))[0]  # a layer may be used more than once
        found[layer] = (earlier + (float(size) if table else positions * d_in * d_out), dot)

    owners = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
    hooks = [m.register_forward_hook(count) for m in owners]
    dtype, training = next(iter(module.parameters())).dtype, module.training
    try:
        with torch.no_grad():
            module.eval()(x.to(dtype) if x.is_floating_point() else x)
    finally:
        module.train(training)
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
