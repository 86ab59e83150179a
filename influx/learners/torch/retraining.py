"""Outputs of models that are trained with other instance weights: many in one program, or one after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from influx import interrupts
from influx.learners.torch.fitted import chunks
from influx.learners.torch.inputs import carried
from influx.learners.torch.sequential import Recipe, State, advance
from influx.learners.torch.stacked import Program
from influx.problem import LossNorm


@torch.no_grad()
def stacked(
    recipe: Recipe, program: Program, weights: Tensor, norm: LossNorm, sides: list[Tensor], block: int
) -> list[Tensor]:
    """Outputs (models, n, outputs) for the inputs of each side, one model per row of ``weights`` (models, n_train).

    Padded to ``block`` models, so that a model's bits do not depend on how many there are.
    """
    count = len(weights)
    padded = -(-max(count, block) // program.multiple) * program.multiple
    if count < padded:
        weights = torch.cat([weights, weights[-1:].expand(padded - count, -1)])
    forward = program.train(recipe, weights, norm, lambda step: interrupts.check_forced())
    outputs = [[forward(carried(part, recipe.device)).cpu() for part in chunks(x, block, recipe.draws)] for x in sides]
    return [torch.cat(parts, dim=1)[:count] for parts in outputs]


def one_by_one(recipe: Recipe, module: nn.Module, weights: Tensor, norm: LossNorm, sides: list[Tensor]) -> list[Tensor]:
    """The same by the plain path; ``module`` is changed."""
    start = {k: v.clone() for k, v in module.state_dict().items()}
    outputs: list[list[Tensor]] = [[] for _ in sides]
    for row in weights:
        module.load_state_dict(start)
        state = State(step=0, module=module, slots=recipe.optimizer.slots(list(module.parameters())))
        for _ in advance(recipe, state, recipe.total, row, norm):
            interrupts.check_forced()
        module.eval()
        with torch.no_grad():
            for x, kept in zip(sides, outputs, strict=True):
                parts = chunks(x, draws=recipe.draws)
                kept.append(torch.cat([module(carried(part, recipe.device)).cpu() for part in parts]))
    return [torch.stack(kept) for kept in outputs]
