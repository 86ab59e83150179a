"""The Python interface: the same engine as the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influx.config import Settings, compose
from influx.errors import ConfigError, DataError, IncompatibleError
from influx.problem import Checkpoint, Fitted, Problem
from influx.reporting.record import RunRecord

if TYPE_CHECKING:
    from torch import nn

    from influx.learners.torch.fitted import TorchFitted


@dataclass(frozen=True)
class Result:
    """A finished run. Arrays are memory-mapped ``(n_train, n_test)``; positive influence means helpful."""

    folder: Path
    trust: tuple[str, ...] = ()

    @cached_property
    def record(self) -> RunRecord:
        """The run's files."""
        return RunRecord.load(self.folder)

    @property
    def influence(self) -> NDArray[Any]:
        """Influence of training instances (rows) on test instances (columns)."""
        return self.record.influence

    @property
    def truth(self) -> NDArray[Any] | None:
        """Ground truth on the same rows and columns, NaN where not computed; None without."""
        return self.record.truth

    @cached_property
    def stderr(self) -> NDArray[Any] | None:
        """Standard error of the influence, or None."""
        path = self.folder / "stderr.npy"
        return np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None

    @property
    def ranking(self) -> pd.DataFrame:
        """Top and bottom training instances per test instance."""
        return self.record.ranking

    @property
    def self_influence(self) -> pd.DataFrame | None:
        """Influence of training instances on themselves: train_id, influence, rank; None where there is none."""
        return self.record.self_influence

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per estimator (baselines too) and metric."""
        return self.record.metrics

    @cached_property
    def _loaded(self) -> tuple[Problem, Fitted]:
        from influx.job import assemble

        values = dict(self.record.config)
        if isinstance(values.get("dataset"), Mapping) and values["dataset"].get("in_memory"):
            raise DataError(
                f"{self.folder} was made by influx.attribute from a model and data in memory, which are not kept; "
                "call it again with outputs=…"
            )
        choices = values.pop("choices")
        values["paths"] = {"_target_": None, "outputs": str(self.folder.parent.parent)}
        values["trust"] = self._trusted(values)  # never what the folder says of itself
        job = assemble(Settings(values=values, choices=choices))
        if not job.problem_folder.has("problem.json"):
            raise DataError(
                f"the trained problem {job.problem_folder.path} of this run is missing or its data have changed; "
                f"run it again: {self.record.command}"
            )
        with job.problem_folder.locked(what="problem"):
            return job.problem, job.problem.learner.fit(job.problem.data, job.problem.seed, job.problem_folder)

    def _trusted(self, values: Mapping[str, Any]) -> list[str]:
        """Packages whose classes may be made; the functions that the folder names are called only if they are listed.

        Raises:
            ConfigError: one is not.
        """
        from influx.instantiate import functions_named

        packages = [name.partition(":")[0] for name in self.trust]
        unlisted = sorted(functions_named(values, packages) - {*self.trust})
        if unlisted:
            raise ConfigError(
                f"{self.folder} names the function {unlisted[0]}, and a folder may name any of its package; "
                f"add it to trust, as in trust={[*self.trust, *unlisted]}, if that is the one to call"
            )
        return packages

    @property
    def problem(self) -> Problem:
        """Data and learner: ``problem.train.x``, ``.y``, ``.ids``, ``problem.test`` and so on."""
        return self._loaded[0]

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Saved checkpoints with step, learning rates and path."""
        return self._torch.checkpoints

    def model(self, step: int | None = None) -> nn.Module:
        """The module in eval mode with the parameters saved after ``step`` updates (default: the last)."""
        return self._torch.model(step)

    @property
    def _torch(self) -> TorchFitted:
        fitted = self._loaded[1]
        if not hasattr(fitted, "checkpoints"):
            raise IncompatibleError("this run's model has no checkpoints; train a net, for example model=mlp")
        return cast("TorchFitted", fitted)


def run(overrides: Sequence[str] = (), *, config_dir: str | Path | None = None) -> Result:
    """Do one run, as ``influx run`` would.

    Args:
        overrides: Hydra overrides, for example ``["dataset=digits", "estimator=tracincp"]``.
        config_dir: a folder with further choices.

    Raises:
        UserError: the request cannot be met; the message says what to change.
    """
    from influx.instantiate import functions_named
    from influx.pipeline import execute

    settings = compose(list(overrides), Path(config_dir) if config_dir else None)
    folder, trust = execute(settings), tuple(settings["trust"])
    return Result(folder, (*trust, *sorted(functions_named(settings.values, trust))))


def load(folder: str | Path, *, trust: Sequence[str] = ()) -> Result:
    """Open a finished run.

    Args:
        folder: a folder below ``outputs/runs``.
        trust: packages besides influx whose classes may be made, for runs with parts of your own, and the functions
            that may be called, each by its name, as in ``["mypackage.data:load", "mypackage.models:build"]``: a folder
            could name any function of a package. A function's module need not be listed again. A function is called
            with the arguments that the folder gives.

    Raises:
        DataError: the folder does not hold one.
    """
    result = Result(Path(folder), tuple(trust))
    _ = result.record
    return result
