"""MLflow: a run with parameters, metrics and tags, in a store of files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from influx.errors import ConfigError
from influx.trackers.told import Told
from influx.trackers.tracking import environment

LONGEST = 500  # characters of a parameter that every version takes
BATCH = 100  # entities that a call may log
ALONE = {  # a store of files needs no server and no database; nothing is sent anywhere
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


@dataclass(frozen=True, kw_only=True)
class MLflow:
    """A store of files for ``mlflow ui --backend-store-uri <run>/trackers/mlflow``.

    Attributes:
        experiment: the name under which MLflow lists the run.
    """

    package: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "influx[trackers]"

    experiment: str = "influx"

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.experiment:
            raise ConfigError("experiment must be a name, got nothing; write influx")

    def log(self, told: Told, folder: Path) -> str:
        """Write one run and end it; MLflow's id of it."""
        with environment(ALONE):
            from mlflow.entities import Metric, Param, RunTag
            from mlflow.tracking import MlflowClient

            client = MlflowClient(tracking_uri=folder.resolve().as_uri())
            run = client.create_run(client.create_experiment(self.experiment), run_name=told.name)
            number, when = str(run.info.run_id), int(run.info.start_time)
            metrics = [Metric(_name(name), value, when, 0) for name, value in told.metrics.items()]
            params = [Param(_name(name), str(value)[:LONGEST]) for name, value in told.params.items()]
            tags = [RunTag(_name(name), value) for name, value in told.tags.items()]
            for start in range(0, max(len(metrics), len(params), len(tags)), BATCH):
                part = slice(start, start + BATCH)
                client.log_batch(number, metrics[part], params[part], tags[part])
            client.set_terminated(number)
        return number


def _name(text: str) -> str:
    """Letters, digits and what MLflow allows beside them."""
    return re.sub(r"[^\w\-. :/]", "_", text)
