"""What of a problem decides which assumptions hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from influx.commands.advice_figures import Regime
from influx.needs import Need

if TYPE_CHECKING:
    from influx.problem import Learner, Problem

LONG_STEP = 0.75  # lr / (1 - momentum) from which a training counts as hot; docs/leave_one_out.md has 0.1, 0.5 and 1


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What decides which assumptions hold.

    Attributes:
        regime: the measured training that is nearest.
        unlike_sgd: what makes the steps differ from plain SGD; empty where nothing does or nothing is known.
        net, deep: whether it is a net, and one of several layers.
        batch: instances per step; 0 where there are no batches.
    """

    regime: Regime
    unlike_sgd: str = ""
    net: bool = False
    deep: bool = False
    batch: int = 0

    @property
    def convex(self) -> bool:
        """Whether the risk is convex in the parameters."""
        return self.regime == "minimum" or (self.net and not self.deep)


def facts_of(problem: Problem) -> Facts:
    """Facts of a problem, from its settings and its untrained module."""
    from influx.learners.torch.learner import TorchLearner

    learner = problem.learner
    if not isinstance(learner, TorchLearner):
        return Facts(regime=_regime_of(learner))
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        module = learner.model.build(problem.data)
    kinks = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Hardswish, nn.MaxPool2d)
    layers = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
    unlike = learner.recipe(problem.data, problem.seed, 0).unlike_sgd
    momentum = float(getattr(learner.optimizer, "momentum", 0.0))
    step = learner.optimizer.lr / (1 - momentum) if hasattr(learner.optimizer, "momentum") else 0.0
    kinked = any(isinstance(part, kinks) for part in module.modules())
    regime: Regime = "kinked" if kinked else "hot" if step >= LONG_STEP else "momentum" if unlike else "calm"
    return Facts(
        regime=regime,
        unlike_sgd=unlike,
        net=True,
        deep=len(layers) > 1,
        batch=int(learner.training.sizes(len(problem.train)).max()),
    )


def _regime_of(learner: Learner) -> Regime:
    if Need.FOREST in learner.provides:
        return "trees"
    return "minimum" if Need.LINEAR_MODEL in learner.provides else "calm"
