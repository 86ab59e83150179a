"""A trained torch model and the trajectory that training recorded."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from influx import reads
from influx.errors import DataError
from influx.learners.torch.inputs import carried, evaluation_tensors, placed
from influx.learners.torch.optimizers import Optimizer, Slots
from influx.learners.torch.sequential import Recipe, State, advance
from influx.learners.torch.tasks import Task
from influx.learners.torch.trajectory import Trajectory
from influx.problem import Checkpoint, Outcomes, Split
from influx.store import Folder

EVALUATION_CHUNK = 4096  # instances per forward pass when only outputs are needed, of small inputs
EVALUATION_NUMBERS = 1 << 22  # numbers in the inputs of such a pass: what is made of them may be many times as large
REPLAY_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8, torch.bfloat16: 0.1}  # of a loss: other kernels' rounding


class Builder(Protocol):
    """Makes the untrained module for the initialisation numbered ``init``."""

    def __call__(self, init: int) -> nn.Module:
        """An untrained module."""
        ...


def parameters_name(step: int) -> str:
    """File name of the parameters and buffers after ``step`` updates."""
    return f"step_{step:08d}.safetensors"


def state_name(step: int) -> str:
    """File name of the optimizer state and loss history after ``step`` updates."""
    return f"state_{step:08d}.safetensors"


def save_checkpoint(folder: Folder, state: State, lr: float) -> None:
    """Write parameters, then optimizer state: a checkpoint exists when both do."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.module.state_dict().items()}
    meta = {"step": str(state.step), "lr": json.dumps([lr])}
    folder.write(parameters_name(state.step), lambda path: save_tensors(tensors, path, meta))
    slots = {f"{slot}.{i}": t.cpu().contiguous() for slot, ts in state.slots.items() for i, t in enumerate(ts)}
    history = {
        "history.loss": torch.tensor(state.losses, dtype=torch.float64),
        "history.clip": torch.tensor(state.clips, dtype=torch.float64),
    }
    folder.write(state_name(state.step), lambda path: save_tensors(slots | history, path, meta))


def save_tensors(tensors: dict[str, Tensor], path: Path, meta: dict[str, str]) -> None:
    """``save_file`` with the operating system's errors (a full disk) as such: it hides them in its own."""
    try:
        save_file(_untied(tensors), path, metadata=meta)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number.group(1)), str(error)) from error
    _order_header(path)


def _order_header(path: Path) -> None:
    """Sort the header's metadata in place: the library writes them in an order that changes from call to call."""
    with path.open("r+b") as f:
        size = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        f.seek(8)
        f.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


def _untied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors that share memory: safetensors refuses aliases."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result


def load_parameters(module: nn.Module, path: Path) -> None:
    """Copy saved parameters and buffers into ``module``.

    Raises:
        DataError: the file is damaged or belongs to another model.
    """
    try:
        tensors = load_file(reads.note(path))
        module.load_state_dict(tensors)
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot read the checkpoint {path} ({error}); delete it and run again") from error
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise DataError(
            f"the checkpoint {path} belongs to another model ({detail}); delete its problem folder and run again"
        ) from error


def load_state(folder: Folder, step: int, build: Builder, optimizer: Optimizer, device: str) -> State:
    """The training as it stood after ``step`` updates.

    Raises:
        DataError: a file is damaged or belongs to another model or optimizer.
    """
    module = build(0)
    load_parameters(module, folder / parameters_name(step))
    module.to(device)
    empty = optimizer.slots(list(module.parameters()))
    path = folder / state_name(step)
    try:
        tensors = load_file(reads.note(path))
        history = [tensors.pop("history.loss").tolist(), tensors.pop("history.clip").tolist()]
        slots: Slots = {slot: [tensors[f"{slot}.{i}"].to(device) for i in range(len(ts))] for slot, ts in empty.items()}
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot read the optimizer state {path} ({error}); delete it and run again") from error
    except KeyError as error:
        raise DataError(
            f"the optimizer state {path} belongs to another optimizer ({error} is missing); delete it and run again"
        ) from error
    for slot, wanted in empty.items():
        for i, (tensor, found) in enumerate(zip(wanted, slots[slot], strict=True)):
            if tensor.shape != found.shape:
                raise DataError(
                    f"the optimizer state {path} belongs to another model ({slot}.{i} has shape "
                    f"{tuple(found.shape)}, not {tuple(tensor.shape)}); delete it and run again"
                )
    return State(step=step, module=module, slots=slots, losses=history[0], clips=history[1])


def outcomes_of(task: Task, outputs: Tensor, y: Tensor) -> Outcomes:
    """Losses in float64 whatever the model's precision, so that small differences survive."""
    exact = y.double() if y.is_floating_point() else y
    return Outcomes(
        loss=task.loss(outputs.double(), exact).cpu().numpy(),
        margin=task.margin(outputs, y).float().cpu().numpy(),
        prediction=task.predict(outputs).float().cpu().numpy(),
    )


@dataclass(frozen=True)
class TorchFitted:
    """The recorded training of one model. Checkpoints and trajectory are read when asked for."""

    folder: Folder  # the problem's folder
    build: Builder
    recipe: Recipe
    until: int | None = None  # the step whose saved parameters count as the final ones; None is the last

    @property
    def task(self) -> Task:
        """Risk and margin."""
        return self.recipe.task

    @property
    def device(self) -> torch.device:
        """Where the models live."""
        return self.recipe.device

    @cached_property
    def trajectory(self) -> Trajectory:
        """What happened at every step."""
        return Trajectory.load(self.folder)

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """Saved checkpoints, from initialisation to the final model."""
        total = self.recipe.total
        steps = self.recipe.training.saved_steps(total)
        steps = [s for s in steps if self.until is None or s <= self.until]
        return [
            Checkpoint(step=s, lr=(self.recipe.lr(s),), path=self.folder.path / "checkpoints" / parameters_name(s))
            for s in steps
        ]

    @property
    def from_start(self) -> bool:
        """Whether the first checkpoint is the initialisation."""
        return True

    @property
    def rates_held(self) -> str:
        """What makes learning rates between checkpoints doubtful, or nothing."""
        return ""

    @cached_property
    def learning_rates(self) -> NDArray[np.float64]:
        """``(T,)`` learning rate of every step."""
        return np.array([self.recipe.lr(s) for s in range(self.recipe.total)])

    def model(self, step: int | None = None, into: nn.Module | None = None) -> nn.Module:
        """The module in eval mode with the parameters saved after ``step`` updates (default: the last).

        ``into`` is an earlier one that nobody needs any more; it takes the parameters in its own precision.
        """
        known = [c.step for c in self.checkpoints]
        wanted = known[-1] if step is None else step
        if wanted not in known:
            raise DataError(f"step must be one of the saved checkpoints {known}, got {wanted}; use replay for others")
        module = self.build(0) if into is None else into
        load_parameters(module, self.checkpoints[known.index(wanted)].path)
        return (module.to(self.device) if into is None else module).eval()

    def state(self, step: int) -> State:
        """The training as it was saved after ``step`` updates, optimizer state included."""
        folder = self.folder.sub("checkpoints")
        return load_state(folder, step, self.build, self.recipe.optimizer, str(self.device))

    def replay(self, start: int, stop: int) -> Iterator[State]:
        """The training states after steps ``start + 1 .. stop``, recomputed from the checkpoint ``start``.

        Bit by bit what training went through (same machine, versions and thread count); see ``onward``.
        """
        yield from self.onward(self.state(start), stop)

    def onward(self, state: State, stop: int) -> Iterator[State]:
        """Train on from ``state``, in place, until step ``stop``, holding every step against the record.

        The recorded loss of a batch depends on all parameters, so it serves as their checksum.

        Raises:
            DataError: a batch's loss is not the recorded one up to rounding.
        """
        recorded, tolerance = self.trajectory.loss, REPLAY_TOLERANCE[self.recipe.rounding]
        for now in advance(self.recipe, state, stop, None, "full"):
            expected, found = recorded[now.step - 1], now.losses[-1]
            if abs(found - expected) > tolerance * (abs(expected) + 1e-3):
                raise DataError(
                    f"replaying the training must give the recorded losses, step {now.step} gave {found:.9g} and not "
                    f"{expected:.9g}: other versions, threads or device than in training, or a damaged trajectory.npz; "
                    f"delete {self.folder.path} and run again"
                )
            yield now

    def tensors(self, split: Split) -> tuple[Tensor, Tensor]:
        """Inputs and targets in the model's precision on its device."""
        return evaluation_tensors(split, self.recipe.attached, self.recipe.dtype, self.device)

    def with_draws(self, count: int, name: str) -> TorchFitted:
        """The same model with other latent draws in its risks, the first ``count`` of those named ``name``.

        A model that draws nothing stays as it is.
        """
        attached = self.recipe.attached
        if attached is None:
            return self
        attached = dataclasses.replace(attached, evaluation=count, name=name)
        return dataclasses.replace(self, recipe=dataclasses.replace(self.recipe, attached=attached))

    def parts(self, split: Split) -> Iterator[Tensor]:
        """Inputs in pieces for forward passes, each on the device by the time it is given."""
        for part in chunks(self._placed(split)[0], draws=self.recipe.draws):
            yield carried(part, self.device)

    @torch.no_grad()
    def outputs(self, module: nn.Module, split: Split) -> Tensor:
        """Outputs ``(n, outputs)`` of a module in eval mode."""
        return torch.cat([module(part) for part in self.parts(split)])

    def outcomes(self, split: Split) -> Outcomes:
        """Loss, margin and prediction of each instance under the final model."""
        y = self._placed(split)[1].to(self.device)
        return outcomes_of(self.task, self.outputs(self._final, split), y)

    def _placed(self, split: Split) -> tuple[Tensor, Tensor]:
        return placed(split, self.recipe.attached, self.recipe.dtype, self.device)

    @cached_property
    def _final(self) -> nn.Module:
        return self.model()


def chunks(x: Tensor, models: int = 1, draws: int = 1) -> tuple[Tensor, ...]:
    """Inputs (n, ...) in pieces for forward passes of ``models`` models whose activations fit in memory.

    An instance with several latent ``draws`` is decoded as often.
    """
    size = min(EVALUATION_CHUNK, EVALUATION_NUMBERS // max(x[0].numel(), 1))
    pieces: tuple[Tensor, ...] = x.split(max(size // (models * draws), 16 // draws, 1))
    return pieces
