"""Weights & Biases, offline: settings and a summary."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from influx.errors import ConfigError
from influx.store import content_hash
from influx.trackers.told import Told
from influx.trackers.tracking import environment

ALONE = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}


@dataclass(frozen=True, kw_only=True)
class WandB:
    """An offline run; ``wandb sync <run>/trackers/wandb/wandb/offline-run-*`` uploads it, when and if you want.

    The machine, the command line, packages, git and console output are not recorded.

    Attributes:
        project: the project that ``wandb sync`` uploads to.
    """

    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "influx[trackers]"

    project: str = "influx"

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.project:
            raise ConfigError("project must be a name, got nothing; write influx")

    def log(self, told: Told, folder: Path) -> str:
        """Write one offline run and end it; its id, which is made of the run's name, problem and settings."""
        number = content_hash([told.name, dict(told.tags).get("problem", ""), dict(told.params), self.project])
        cache = folder / "cache"  # else it lies in the user's home
        places = {f"WANDB_{what}_DIR": str(cache) for what in ("CACHE", "CONFIG", "DATA")}
        with environment(ALONE | places):
            import wandb

            private = wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                silent=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            )
            run = wandb.init(
                mode="offline",
                dir=str(folder),
                project=self.project,
                name=told.name,
                id=number,
                config=dict(told.params) | {f"tag.{name}": value for name, value in told.tags.items()},
                settings=private,
            )
            try:
                run.summary.update(dict(told.metrics))
            finally:
                run.finish()
                wandb.teardown()  # its background process ends
                shutil.rmtree(cache, ignore_errors=True)
        return number
