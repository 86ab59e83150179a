"""TensorBoard: scalars, settings as hyperparameters and text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from influx.trackers.told import Told


@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """Event files for ``tensorboard --logdir outputs/runs``, which finds those of all runs."""

    package: ClassVar[str] = "tensorboard"
    extra: ClassVar[str] = "influx[trackers]"

    def log(self, told: Told, folder: Path) -> str:
        """Write one event file; the run's name serves as its id."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        writer = SummaryWriter(str(folder))
        try:
            for name, value in told.metrics.items():
                writer.add_scalar(name, value, 0)
            rows = {**told.params, **told.tags}
            table = "\n".join(["| setting | value |", "|---|---|", *(f"| {k} | {_cell(v)} |" for k, v in rows.items())])
            writer.add_text("settings", table, 0)
            events: Any = writer.file_writer  # annotated as None
            for summary in hparams(dict(told.params), dict(told.metrics)):
                events.add_summary(summary)
            writer.flush()
        finally:
            writer.close()
        return told.name


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
