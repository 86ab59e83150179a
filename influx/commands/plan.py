"""``influx plan``: what ``influx run`` would do and what it would cost. Runs nothing, writes nothing."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influx.commands.outputs import read_manifest
from influx.commands.run import split
from influx.config import compose

if TYPE_CHECKING:
    from influx.engines.retrain import Bank
    from influx.job import Job
    from influx.planning import NetShape, Pace, Work
    from influx.rates import Rates
    from influx.run import Estimator, Metric

STAGES = ("train", "truth", "estimate", "evaluate", "report")
REPORT_SECONDS, REPORT_MB = 0.3, 1.0  # measured once; depends little on the run
FIRST_GRADIENTS = 0.25  # seconds until torch has loaded what gradients need, once per run
FILE_SECONDS = 0.005  # to write, flush and rename one file and its list of checksums
FIELDS_BYTES = 16  # loss, margin and prediction of one instance under one model


def plan(arguments: list[str]) -> int:
    """Print the table, or JSON with ``--json``; the exit code."""
    if "-h" in arguments or "--help" in arguments:
        print("usage: influx plan [--json] [--config-dir FOLDER] [overrides as of influx run]")
        return 0
    as_json = "--json" in arguments
    overrides, config_dir = split([a for a in arguments if a != "--json"], "influx plan")
    planned = foresee(overrides, config_dir)
    if as_json:
        print(json.dumps(planned, indent=1, ensure_ascii=False))
        return 0
    from influx.reporting import progress, tables

    console = progress.console()
    console.print(tables.plan_table(planned["stages"]))
    console.print()
    for line in (f"measured here: {planned['rates']['sentence']}", f"run: {planned['folder']}"):
        console.print(line, soft_wrap=True, markup=False)
    return 0


def foresee(overrides: list[str], config_dir: Path | None = None) -> dict[str, Any]:
    """Stages with state, work, seconds, memory, disk and formula; the total; the measured rates.

    Raises:
        UserError: as ``influx run`` would, before any work.
    """
    settings = compose(overrides, config_dir)
    from influx.job import assemble
    from influx.pipeline import threads

    with threads(settings["threads"]):
        job = assemble(settings)
        outlook = Outlook(job)
        stages = [outlook.start(), *outlook.stages()]
        rates = outlook.rates
        said = {
            "flops": rates.flops,
            "numbers": rates.numbers,
            "compared": rates.compared,
            "training_seconds": outlook.pace.training,
            "model_seconds": outlook.pace.model,
            "sentence": f"{rates.sentence()}; {outlook.pace.note}",
        }
    return {"name": job.name, "folder": str(job.run_folder.path), "stages": stages, "rates": said}


@dataclass
class Outlook:
    """The stages of one job, foreseen.

    ``claimed`` are trainings that an earlier stage will have done, ``warm`` says whether one needs gradients.
    """

    job: Job
    claimed: set[str] = field(default_factory=set)
    warm: bool = False

    def start(self) -> dict[str, Any]:
        """Loading of libraries and data, which planning has just done as well."""
        return _row(
            "start", "always", "libraries and data", time.process_time(), _peak_mb(), None, "as measured just now"
        )

    def stages(self) -> list[dict[str, Any]]:
        """One row per stage, in order."""
        done, rows = self._done(), []
        for name in STAGES:
            done_row = _row(name, "done", "nothing", 0.0, None, 0.0, "")
            rows.append(done_row if name in done else getattr(self, f"_{name}")())
        return rows

    def _done(self) -> set[str]:
        """Stages that a run would skip: those complete before the first that is not (training stands apart)."""
        trained, folder = self._folder("problems", self.job.problem.id), self._folder("runs", self.job.name)
        listed = trained.read_json("problem.json")["checksums"] if trained.has("problem.json") else {}
        done = {"train"} if listed and all((trained / name).is_file() for name in listed) else set()
        if self.job.settings["overwrite"]:
            return done
        recorded = read_manifest(folder.path).get("stages", {})
        for name in STAGES[1:]:
            if name not in recorded or not all(folder.has(file) for file in recorded[name]["files"]):
                break
            done.add(name)
        return done

    def _folder(self, *parts: str) -> Any:
        from influx.store import Folder

        return Folder(self.job.outputs.joinpath(*parts), read_only=True)

    @cached_property
    def rates(self) -> Rates:
        """Speed of this machine."""
        from influx.rates import measure

        return measure()

    @cached_property
    def pace(self) -> Pace:
        """Speed of training."""
        from influx.planning import Pace, Paced

        learner = self.job.problem.learner
        if isinstance(learner, Paced):
            return learner.pace(self.job.problem)
        seconds = learner.cost(self.job.problem.data, 1).flops / self.rates.flops
        return Pace(training=seconds, model=seconds, note="trainings by their operations at the rate of products")

    @cached_property
    def shape(self) -> NetShape | None:
        """Sizes of the net, if it is one."""
        from influx.planning import Shaped

        learner = self.job.problem.learner
        return learner.net_shape(self.job.problem) if isinstance(learner, Shaped) else None

    @cached_property
    def bank(self) -> Bank:
        """The retraining bank, only to be looked at."""
        from influx.engines.retrain import Bank

        folder = self._folder("problems", self.job.problem.id).sub("retrain")
        return Bank(self.job.problem, folder, self.job.executor)

    # stages

    def _train(self) -> dict[str, Any]:
        data, net = self.job.problem.data, self.shape
        cost = self.job.problem.learner.cost(data, 1)
        files = 2 * len(net.saved) if net else 1
        size = len(net.saved) * (net.parameter_bytes + net.state_bytes) + 40 * net.steps if net else cost.bytes
        work = f"1 training of {net.steps} steps, {len(net.saved)} checkpoints" if net else "1 training"
        seconds = self.pace.training + FILE_SECONDS * (files + 3)
        return _row("train", "to do", work, seconds, _peak_mb(), size / 1e6, cost.formula)

    def _truth(self) -> dict[str, Any]:
        if self.job.truth is None:
            return _row("truth", "none", "nothing", 0.0, None, 0.0, "")
        return self._measured("truth", [self._truth_work], self._matrix_mb)

    def _estimate(self) -> dict[str, Any]:
        work = self._work(self.job.estimator_name, self.job.estimator, self._truth_rows)
        row, others = self._measured("estimate", [work], self._matrix_mb), self.job.perspective.seeds - 1
        if others:  # nothing of theirs is taken to be there
            models = sum(len(design) for design in work.trainings) + work.more_trainings
            each = self.pace.training + self.rates.seconds(work) + models * self._each(work)
            row["seconds"] += others * each
            row["formula"] = f"{others + 1} trainings of the problem, each: {row['formula']}"
        return row

    def _evaluate(self) -> dict[str, Any]:
        """Each metric once per estimator shown; their trainings once."""
        shown = 1 + len(self.job.baselines)
        metrics = [self._work(name, metric, self._truth_rows) for name, metric in self.job.metrics.items()]
        baselines = [self._work(name, baseline, self._truth_rows) for name, baseline in self.job.baselines.items()]
        row = self._measured("evaluate", metrics + baselines, self._ranking_mb)
        row["seconds"] += (shown - 1) * sum(self.rates.seconds(work) for work in metrics)
        row["formula"] = f"{shown} estimators: {row['formula']}"
        return row

    def _report(self) -> dict[str, Any]:
        return _row("report", "to do", "one page", REPORT_SECONDS, None, REPORT_MB, "")

    # parts

    @property
    def _matrix_mb(self) -> float:
        data = self.job.problem
        each = 4 if self.job.settings["output_dtype"] == "float32" else 8
        return len(data.train) * len(data.test) * each / 1e6

    @property
    def _ranking_mb(self) -> float:
        rows = 2 * min(int(self.job.settings["top_k"]), len(self.job.problem.train)) * len(self.job.problem.test)
        return rows * 80 / 1e6

    @cached_property
    def _truth_work(self) -> Work:
        return self._work(self.job.truth_name, self.job.truth, truth_rows=0)

    @cached_property
    def _truth_rows(self) -> int:
        if self.job.truth is None:
            return 0
        return len(self.job.problem.train) if self._truth_work.rows is None else self._truth_work.rows

    def _work(self, name: str, part: Estimator | Metric | None, truth_rows: int) -> Work:

        return self.job.work(part, name, truth_rows)

    def _measured(self, stage: str, works: list[Work], disk_mb: float) -> dict[str, Any]:
        """A row for work whose trainings are looked up in the bank."""
        from influx.planning import total

        work = total(works)
        counted = [self._missing(each) for each in works]
        missing, asked = (round(sum(numbers)) for numbers in zip((0, 0), *counted, strict=True))
        problem, first = self.job.problem, FIRST_GRADIENTS if work.gradients and not self.warm else 0.0
        self.warm = self.warm or bool(work.gradients)
        instances = len(problem.train) + len(problem.test)
        trainings = sum(
            number * self._each(part) for part, (number, _) in zip(works, counted, strict=True) if round(number)
        )
        seconds = first + self.rates.seconds(work) + trainings
        seconds += FILE_SECONDS * missing / max(problem.learner.block_size(problem.data), 1)
        parts = [f"{missing:,} of {asked:,} trainings"] if asked else []
        parts += [f"{work.gradients:,.0f} gradients"] if work.gradients else []
        formula = work.formula
        if missing:
            formula += f"; {problem.learner.cost(problem.data, missing).formula}"
        disk_mb += missing * (instances * FIELDS_BYTES + len(problem.train) / 8 + 60) / 1e6
        state = "in part" if missing < asked else "to do"
        return _row(stage, state, ", ".join(parts), seconds, _peak_mb() + work.bytes / 1e6, disk_mb, formula)

    def _each(self, work: Work) -> float:
        """Seconds of one training: of those that the work lists, where they differ from others."""
        from influx.planning import Sampling

        learner = self.job.problem.learner
        if not isinstance(learner, Sampling) or not work.trainings:
            return self.pace.model
        return learner.seconds_each(self.job.problem, max(work.trainings, key=len))

    def _missing(self, work: Work) -> tuple[float, float]:
        """Trainings to do and asked for; those that are not listed are taken to be missing as often as the others."""
        listed = sum(len(design) for design in work.trainings)
        missing = sum(self._claim(design) for design in work.trainings)
        share = missing / listed if listed else 1.0
        return missing + share * work.more_trainings, listed + work.more_trainings

    def _claim(self, design: Any) -> int:
        """Trainings of a design that neither the bank nor an earlier stage has; they are this stage's now."""
        from influx.engines.retrain import row_keys

        keys = row_keys(design)
        new = {keys[row] for row in self.bank.missing(design, keys)} - self.claimed
        self.claimed |= new
        return len(new)


def _row(
    stage: str, state: str, work: str, seconds: float, memory_mb: float | None, disk_mb: float | None, formula: str
) -> dict[str, Any]:
    return {
        "stage": stage,
        "state": state,
        "work": work,
        "seconds": seconds,
        "memory_mb": memory_mb,
        "disk_mb": disk_mb,
        "formula": formula,
    }


def _peak_mb() -> float:
    """Largest memory of this process so far: libraries and data are the floor of every stage."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
