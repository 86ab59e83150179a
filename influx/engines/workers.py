"""What pieces of an estimate have in common that workers do: when there are any, and how they come to the same work."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from influx.learners.torch.fitted import TorchFitted

if TYPE_CHECKING:
    from influx.run import Run


def shared_out(run: Run) -> bool:
    """Whether workers have a part, and find by the run's settings the same trained model."""
    fitted = run.fitted
    if not run.bank.executor.spreads or not isinstance(fitted, TorchFitted):
        return False
    return fitted.until is None and fitted.folder.path == run.bank.folder.path.parent


def described(run: Run, estimator: Any, kind: str) -> dict[str, Any]:
    """What a worker needs to ask ``run`` for the same by ``estimator``, a dataclass."""
    return {
        "kind": kind,
        "problem": run.problem.id,
        "seed": run.problem.seed,
        "who": run.who,
        "estimator": node_of(estimator),
        "threads": torch.get_num_threads(),
    }


def node_of(part: Any) -> dict[str, Any]:
    """A dataclass as the settings that build it."""
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.init}
    nested = {k: node_of(v) if dataclasses.is_dataclass(v) else v for k, v in values.items()}
    return {"_target_": f"{type(part).__module__}.{type(part).__qualname__}"} | nested
