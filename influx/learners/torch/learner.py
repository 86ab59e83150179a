"""The torch learner: trains one model with its trajectory recorded, or many at once without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.learners.torch.dense import Dense, dense_layers
from influx.learners.torch.devices import device_of
from influx.learners.torch.fitted import TorchFitted, outcomes_of
from influx.learners.torch.inputs import attached_to, evaluation_tensors, placed, to_tensors
from influx.learners.torch.loading import lies_apart
from influx.learners.torch.optimizers import Optimizer
from influx.learners.torch.pace import Counted, counted, net_shape, pace, training_cost
from influx.learners.torch.recorded import record
from influx.learners.torch.retraining import one_by_one, stacked
from influx.learners.torch.sequential import GLOBAL_GENERATOR, Recipe
from influx.learners.torch.sizes import is_large
from influx.learners.torch.stacked import Program, Vmap
from influx.learners.torch.tasks import task_for
from influx.learners.torch.training import Engine, Training
from influx.learners.torch.traits import PLAIN, Traits, check_trainable, traits_of
from influx.needs import Need
from influx.planning import NetShape, Pace
from influx.problem import Cost, Data, Design, Outcomes, Problem, TaskName
from influx.store import Folder
from influx.streams import stream_seed

BLOCK_BYTES = 5 << 18  # parameters of one block of models: with activations and momentum, about a core's cache
ACTIVATION_BYTES = 256 << 20  # what one step of a block keeps of its batch
NETS = frozenset(
    {
        Need.FEATURES,
        Need.GRADIENTS,
        Need.CURVATURE,
        Need.CHECKPOINTS,
        Need.STATES,
        Need.TRAJECTORY,
        Need.LINEAR_HEAD,
        Need.RETRAIN,
    }
)


class NetFactory(Protocol):
    """A model choice that builds an untrained module for the data (``influx.models``).

    A density model has ``task = "density"`` and returns each instance's risk. Where that is a mean over latent draws it
    also has ``noise(data)``, the standard normal numbers of one draw, the numbers ``draws`` and ``evaluation_draws``,
    and ``conditional`` where it reads the label (see ``Attached``).
    """

    def build(self, data: Data) -> nn.Module:
        """The untrained module, initialised from torch's global generator."""
        ...


@dataclass(frozen=True, kw_only=True)
class TorchLearner:
    """Learns a net by an optimizer and a training recipe."""

    model: NetFactory
    optimizer: Optimizer
    training: Training

    @property
    def task(self) -> TaskName | None:
        """What the model learns whatever the dataset is labelled for, or None."""
        return getattr(self.model, "task", None)

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and arithmetic."""
        dtype: torch.dtype = getattr(torch, self.training.dtype)
        return dtype

    @property
    def provides(self) -> frozenset[Need]:
        """All needs of nets; the last layer of a density model has no meaning that is common to them."""
        return NETS - {Need.LINEAR_HEAD, Need.FEATURES} if self.task == "density" else NETS

    def check(self, data: Data) -> None:
        """Build the module once and run two instances through it, forward and backward.

        Raises:
            IncompatibleError: the model or the engine does not take this data.
            ConfigError: the device does not exist, or the batches or the warm-up do not fit the data.
        """
        if data.task == "density" and self.task != "density":
            raise IncompatibleError(
                "the dataset is for density models, whose output is the risk, and the model is none; "
                "choose model=vae, autoregressive, text_decoder, or hf with model.objective=language, or a dataset "
                "with labels"
            )
        device, steps = self.device(), self.training.steps(len(data.train))
        if self.training.warmup_steps >= steps:
            raise ConfigError(
                f"training.warmup_steps must be below the {steps} steps of the training, got "
                f"{self.training.warmup_steps}; lower it or raise training.epochs"
            )
        module = self._module(data, 0, 0).to(device)
        x, y = self.example(data, 2, device)
        smallest = int(self.training.sizes(len(data.train)).min())
        check_trainable(module, task_for(data.task), x, y, smallest, self.training.precision)
        self._program(module, data)

    def device(self) -> torch.device:
        """The device of ``training.device``; auto prefers CUDA.

        Raises:
            ConfigError: the device does not exist here, or has no ``training.precision``.
        """
        return device_of(self.training)

    @property
    def concurrent_blocks(self) -> int:
        """Blocks that may be trained at once: one per thread on processors, one on a GPU."""
        return torch.get_num_threads() if self.device().type == "cpu" else 1

    def _module(self, data: Data, seed: int, init: int) -> nn.Module:
        with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, f"init/{init}"))
            module = self.model.build(data)
        return module.to(dtype=self.dtype)

    def recipe(self, data: Data, seed: int, order: int) -> Recipe:
        """The training numbered ``order`` of the problem with seed ``seed``."""
        device = self.device()
        apart = lies_apart(data.train, self.dtype, device)
        x, y = to_tensors(data.train, self.dtype, "cpu" if apart else device)
        attached = attached_to(self.model, data, seed)
        traits = self._traits(data)
        return Recipe(
            task=task_for(data.task),
            optimizer=self.optimizer,
            training=self.training,
            batches=self.training.batches(len(data.train), seed, order),
            seed=seed,
            order=order,
            x=x if attached is None else attached.known(x, y),
            y=y.to(device),
            ids=data.train.ids,
            random=traits.random,
            coupled=traits.coupled,
            takes_one=traits.takes_one,
            attached=attached,
            apart=apart,
        )

    def example(self, data: Data, count: int = 1, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """What the module reads of the first training instances, and their targets."""
        attached = attached_to(self.model, data, 0)
        return evaluation_tensors(data.train.take(slice(0, count)), attached, self.dtype, device)

    def _traits(self, data: Data, module: nn.Module | None = None) -> Traits:
        """What the module, untrained if none is given, allows; tried once per dataset.

        Whether copies of a large net can be trained as one is tried only where that is asked for.
        """
        known = self.__dict__.get("_tried")
        if known is None or known[0] is not data:
            net = self._module(data, 0, 0).to(self.device()) if module is None else module
            x, y = self.example(data, 2, next(net.parameters()).device)
            plain = dense_layers(net) is not None  # the trial would load a compiler's modules for a second
            stack = self.training.engine == "vmap" or not is_large(net)
            task, precision = task_for(data.task), self.training.precision
            known = (data, PLAIN if plain else traits_of(net, task, x, y, stack, precision))
            self.__dict__["_tried"] = known
        traits: Traits = known[1]
        return traits

    def shortened(self, training: Training, data: Data) -> TorchLearner:
        """The same net under another recipe on a part of the data, of which the first instances belong.

        What the net allows has been tried, if it has, on these.
        """
        short = replace(self, training=training)
        if "_tried" in self.__dict__:
            short.__dict__["_tried"] = (data, self.__dict__["_tried"][1])
        return short

    def counted(self, data: Data) -> Counted:
        """Multiply-adds of the net, counted once per dataset."""
        known = self.__dict__.get("_counts")
        if known is None or known[0] is not data:
            known = (data, counted(self._module(data, 0, 0), self.example(data)[0]))
            self.__dict__["_counts"] = known
        found: Counted = known[1]
        return found

    def fit(self, data: Data, seed: int, folder: Folder) -> TorchFitted:
        """Train with recording; goes on from the last complete checkpoint in ``folder``.

        Raises:
            NumericalError: the loss of a step is not finite.
        """
        recipe = self.recipe(data, seed, 0)
        fitted = TorchFitted(folder, lambda init: self._module(data, seed, init), recipe)
        record(fitted, folder)
        return fitted

    def block_size(self, data: Data) -> int:
        """Models per block: those whose parameters together fit a core's cache, at least enough to batch."""
        if self.training.block is not None:
            return self.training.block
        module = self.counted(data).module
        size = sum(p.numel() * p.element_size() for p in module.parameters())
        program = self._program(module, data)
        if program is None:
            return 1
        batch = min(self.training.batch_size, len(data.train))
        fitting = min(BLOCK_BYTES // size, ACTIVATION_BYTES // (batch * program.activations * 8))
        whole = int(min(max(fitting, program.least), 256)) // program.multiple
        return max(whole, 1) * program.multiple

    def multiple(self, data: Data) -> int:
        """What the number of models that are trained together is rounded up to divide by."""
        program = self._program(self.counted(data).module, data)
        return 1 if program is None else program.multiple

    def _program(self, module: nn.Module, data: Data) -> Program | None:
        """The stacked program for a module, or None to train one at a time.

        Raises:
            IncompatibleError: ``training.engine`` asks for a program that the module does not allow.
        """
        engine: Engine = self.training.engine
        layers, mixed = dense_layers(module), self.training.precision != "model"
        if engine == "dense" and (layers is None or mixed):
            raise IncompatibleError(
                "training.engine=dense takes networks of linear layers and tanh, relu, sigmoid, gelu or silu only, and "
                "training.precision=model; use training.engine=auto"
            )
        if engine in ("auto", "dense") and layers is not None and not mixed:
            return Dense(*layers)
        traits = self._traits(data, None if next(module.parameters()).is_meta else module)
        if engine == "vmap" and not traits.stackable:
            raise IncompatibleError(
                "training.engine=vmap cannot train batch normalisation, dropout or other randomness, or code that "
                "depends on values; use training.engine=sequential"
            )
        return Vmap(module) if engine != "sequential" and traits.stackable else None

    def retrain(
        self, data: Data, seed: int, design: Design, start: nn.Module | None = None
    ) -> tuple[Outcomes, Outcomes]:
        """Train one model per row of ``design``; see ``Learner``. Rows must share ``init`` and ``order``.

        ``start`` replaces the initialised module, and is changed. Blocks are padded to ``block_size``, so a model's
        bits do not depend on how many are asked for.

        Raises:
            NumericalError: a retrained model has a loss that is not finite.
        """
        init, order = int(design.init[0]), int(design.order[0])
        if (design.init != init).any() or (design.order != order).any():
            raise ValueError("all rows of one block must share init and order")
        recipe = self.recipe(data, seed, order)
        module = (self._module(data, seed, init) if start is None else start).to(recipe.device)
        weights = torch.from_numpy(design.weights).to(recipe.device, recipe.dtype)
        program = self._program(module, data)
        splits = (data.train, data.test)
        sides = [placed(split, recipe.attached, recipe.dtype, recipe.device)[0] for split in splits]
        outputs = (
            one_by_one(recipe, module, weights, design.loss_norm, sides)
            if program is None
            else stacked(recipe, program, weights, design.loss_norm, sides, self.block_size(data))
        )
        result = [
            outcomes_of(recipe.task, out, to_tensors(split, recipe.dtype, "cpu")[1])
            for out, split in zip(outputs, splits, strict=True)
        ]
        for row in range(len(design)):
            if not np.isfinite(result[0].loss[row]).all():
                removed = data.train.ids[design.weights[row] == 0]
                raise NumericalError(
                    f"the model retrained without {len(removed)} instances ({removed[:5].tolist()}…) diverged "
                    f"(init {init}, order {order}); lower optimizer.lr or set training.clip_norm"
                )
        return result[0], result[1]

    def cost(self, data: Data, models: int) -> Cost:
        """Floating-point operations and working memory of training ``models`` models."""
        return training_cost(self, data, models)

    def pace(self, problem: Problem) -> Pace:
        """Seconds of one recorded training and of each retrained model, from a few timed steps."""
        return pace(self, problem)

    def net_shape(self, problem: Problem) -> NetShape:
        """Sizes of the net and its recorded training."""
        return net_shape(self, problem.data, len(problem.train))
