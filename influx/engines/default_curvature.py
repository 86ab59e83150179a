"""The curvature that estimators take by default, where risks of a task have no Gauss-Newton matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from influx.engines.operators import definite_kind
from influx.learners.torch.tasks import task_for
from influx.needs import Need
from influx.problem import TaskName
from influx.run import Estimator

DEFAULT = "ggn"
WITHOUT = ("datainf", "identity")  # solvers that take no Gauss-Newton matrix, whatever estimator.curvature is


def suited(estimators: Mapping[str, Estimator], task: TaskName) -> tuple[dict[str, Estimator], dict[str, str]]:
    """The estimators with a curvature that risks of the task have, and what to tell users of each that was changed.

    A density model returns its risk, of which the Gauss-Newton matrix is zero: in its place comes the empirical Fisher
    matrix, the only other one that is never negative and needs no outputs apart from the risk.
    """
    instead = definite_kind(task_for(task))
    changed = {
        name: replace(estimator, curvature=instead)  # type: ignore[type-var]
        for name, estimator in estimators.items()
        if instead != DEFAULT and _takes_default(estimator)
    }
    notice = (
        f"a density model has no Gauss-Newton matrix (estimator.curvature={DEFAULT}, the default): "
        f"estimator.curvature={instead} was taken in its place; set estimator.curvature to choose another"
    )
    return {**estimators, **changed}, dict.fromkeys(changed, notice)


def _takes_default(estimator: Estimator) -> bool:
    given, solver = getattr(estimator, "curvature", None), getattr(estimator, "solver", None)
    return Need.CURVATURE in estimator.requires and given == DEFAULT and solver not in WITHOUT
