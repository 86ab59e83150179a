"""Training that leaves checkpoints and a trajectory behind, and goes on from what is there."""

from __future__ import annotations

import re

import numpy as np

from influx import interrupts, progress
from influx.errors import Interrupted
from influx.learners.torch.fitted import (
    TorchFitted,
    load_state,
    parameters_name,
    save_checkpoint,
    state_name,
)
from influx.learners.torch.sequential import State, advance
from influx.learners.torch.trajectory import Trajectory
from influx.store import Folder


def record(fitted: TorchFitted, folder: Folder) -> None:
    """Train what is not in ``folder``, from the last complete checkpoint there.

    Raises:
        NumericalError: the loss of a step is not finite.
    """
    recipe, checkpoints = fitted.recipe, folder.sub("checkpoints")
    saved = recipe.training.saved_steps(recipe.total)
    checkpoints.sweep_temporaries()
    whole = [s for s in saved if checkpoints.has(parameters_name(s)) and checkpoints.has(state_name(s))]
    if whole != saved:
        _train(fitted, checkpoints, saved, set(whole))
    _remove_unscheduled(checkpoints, saved)
    if not folder.has("trajectory.npz"):
        _trajectory(fitted, checkpoints).save(folder)


def _train(fitted: TorchFitted, folder: Folder, saved: list[int], whole: set[int]) -> None:
    """Make every missing checkpoint, going on from the nearest complete state before the first of them.

    A stop by signal leaves one more state behind, between checkpoints; ``record`` removes it when all is trained.
    """
    recipe = fitted.recipe
    missing = [s for s in saved if s not in whole]
    extra = set(_complete_steps(folder)) - set(saved)
    with progress.task("training", recipe.total) as done:
        state = _start(fitted, folder, [s for s in whole | extra if s < missing[0]])
        done(state.step)
        if state.step in missing:
            save_checkpoint(folder, state, recipe.lr(state.step))
        for _ in advance(recipe, state, missing[-1], None, "full"):  # changes ``state`` in place
            done(1)
            if state.step in missing:
                save_checkpoint(folder, state, recipe.lr(state.step))
            try:
                interrupts.check()
            except Interrupted:
                save_checkpoint(folder, state, recipe.lr(state.step))
                raise


def _start(fitted: TorchFitted, folder: Folder, complete: list[int]) -> State:
    optimizer, device = fitted.recipe.optimizer, str(fitted.recipe.device)
    if complete:
        return load_state(folder, max(complete), fitted.build, optimizer, device)
    module = fitted.build(0).to(device)
    return State(step=0, module=module, slots=optimizer.slots(list(module.parameters())))


def _trajectory(fitted: TorchFitted, checkpoints: Folder) -> Trajectory:
    recipe = fitted.recipe
    last = load_state(checkpoints, recipe.total, fitted.build, recipe.optimizer, "cpu")
    return Trajectory(
        lr=np.array([[recipe.lr(s)] for s in range(recipe.total)]),
        batch_offsets=recipe.batches.offsets,
        batch_ids=recipe.ids[recipe.batches.rows],
        loss=np.array(last.losses),
        clip=np.array(last.clips),
    )


def _complete_steps(folder: Folder) -> list[int]:
    """Steps whose parameters and optimizer state are both whole, scheduled or not."""
    listed = [int(name[5:13]) for name in folder.checksums() if name.startswith("step_")]
    return [s for s in listed if folder.has(parameters_name(s)) and folder.has(state_name(s))]


def _remove_unscheduled(folder: Folder, saved: list[int]) -> None:
    """Remove the states that stops by signal left between checkpoints, complete or not."""
    wanted = {name(s) for s in saved for name in (parameters_name, state_name)}
    there = {path.name for path in folder.path.glob("*.safetensors")} | set(folder.checksums())
    unscheduled = {name for name in there - wanted if re.fullmatch(r"(step|state)_\d{8}\.safetensors", name)}
    if unscheduled:
        folder.forget(*unscheduled)
