"""The stages of a run, foreseen: how much work is left and what it takes, on this machine or on a described one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from influx.commands.foreseen import peak_mb, stage_row
from influx.commands.outputs import read_manifest
from influx.commands.spreading import WORKER_SECONDS, Ahead, Shared, rounds, shared
from influx.manifest import kept

if TYPE_CHECKING:
    from influx.engines.retrain import Bank
    from influx.job import Job
    from influx.planning import NetShape, Pace, Work
    from influx.rates import Machine, Rates
    from influx.run import Estimator, Metric

STAGES = ("train", "truth", "estimate", "evaluate", "report")
REPORT_SECONDS, REPORT_MB = 0.3, 1.0  # measured once; depends little on the run
FIRST_GRADIENTS = 0.25  # seconds until torch has loaded what gradients need, once per run
FILE_SECONDS = 0.005  # to write, flush and rename one file and its list of checksums
FIELDS_BYTES = 16  # loss, margin and prediction of one instance under one model


@dataclass
class Outlook:
    """The stages of one job, foreseen.

    ``claimed`` are trainings that an earlier stage will have done, ``warm`` says whether one needs gradients,
    ``started`` whether one needs workers.
    """

    job: Job
    machine: Machine | None = None
    claimed: set[str] = field(default_factory=set)
    warm: bool = False
    started: bool = False

    def start(self) -> dict[str, Any]:
        """Loading of libraries and data, which planning has just done as well (but for data that it described)."""
        what = "libraries" if self.job.problem.data.described else "libraries and data"
        return stage_row("start", "always", what, time.process_time(), self._floor_mb, None, "as measured just now")

    def stages(self) -> list[dict[str, Any]]:
        """One row per stage, in order."""
        done, skipped = self._done(), ("nothing", 0.0, None, 0.0, "")
        rows = [stage_row(name, "done", *skipped) if name in done else getattr(self, f"_{name}")() for name in STAGES]
        for row in rows:
            if self.machine is not None and (row["memory_mb"] or 0.0) > 1000 * self.machine.memory_gb:
                row["state"] = "exceeds memory"
        return rows

    def _done(self) -> set[str]:
        """Stages that a run would skip: those complete before the first that is not (training stands apart)."""
        trained, folder = self._folder("problems", self.job.problem.id), self._folder("runs", self.job.name)
        listed = trained.read_json("problem.json")["checksums"] if trained.has("problem.json") else {}
        done = {"train"} if listed and all((trained / name).is_file() for name in listed) else set()
        if self.job.settings["overwrite"]:
            return done
        recorded = (kept(read_manifest(folder.path)) or {}).get("stages", {})
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
        """Speed of the machine."""
        from influx.rates import measure

        return measure() if self.machine is None else self.machine.rates()

    @cached_property
    def pace(self) -> Pace:
        """Speed of training."""
        from influx.planning import Pace, Paced

        learner = self.job.problem.learner
        if self.machine is not None:
            steps, depth = (self.shape.steps, self.shape.depth) if self.shape else (0, 0)
            flops = learner.cost(self.job.problem.data, 1).flops
            seconds = self.machine.training_seconds(flops, steps, depth, _dtype(learner))
            return Pace(training=seconds, model=seconds, note="trainings by their operations")
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
        size = net.recorded_bytes if net else cost.bytes
        work = f"1 training of {net.steps} steps, {len(net.saved)} checkpoints" if net else "1 training"
        seconds = self.pace.training + FILE_SECONDS * (files + 3)
        memory = self._floor_mb + (net.step_bytes if net else 0.0) / 1e6
        return stage_row("train", "to do", work, seconds, memory, size / 1e6, cost.formula)

    def _truth(self) -> dict[str, Any]:
        if self.job.truth is None:
            return stage_row("truth", "none", "nothing", 0.0, None, 0.0, "")
        return self._measured("truth", [self._truth_work], self._matrix_mb)

    def _estimate(self) -> dict[str, Any]:
        work = self._work(self.job.estimator_name, self.job.estimator, self._truth_rows)
        row = self._measured("estimate", [work], self._matrix_mb, self.job.estimator)
        others = self.job.perspective.seeds - 1
        if others:  # nothing of theirs is taken to be there
            models = sum(len(design) for design in work.trainings) + work.more_trainings
            trained = self.pace.training + self._trained(work, models, work.more_alone)
            each = self._seconds(self.job.estimator, work) + trained
            row["seconds"] += others * each
            spread = self._shared(self.job.estimator)
            row["disk_mb"] += others * (work.disk + (spread.disk_bytes if spread else 0.0)) / 1e6
            row["formula"] = f"{others + 1} trainings of the problem, each: {row['formula']}"
        return row

    def _evaluate(self) -> dict[str, Any]:
        """Each metric once per estimator shown; their trainings once."""
        from influx.timed import work_asked_again

        shown = 1 + len(self.job.baselines)
        metrics = [self._work(name, metric, self._truth_rows) for name, metric in self.job.metrics.items()]
        own = ("own_trainings", "own_alone", "disk")
        metrics = [replace(work, **{name: shown * getattr(work, name) for name in own}) for work in metrics]
        baselines = [self._work(name, baseline, self._truth_rows) for name, baseline in self.job.baselines.items()]
        others = work_asked_again(self.job)
        row = self._measured("evaluate", [*metrics, *others, *baselines], self._ranking_mb)
        row["seconds"] += (shown - 1) * sum(self.rates.seconds(work) for work in metrics)
        row["formula"] = f"{shown} estimators: {row['formula']}"
        return row

    def _report(self) -> dict[str, Any]:
        return stage_row("report", "to do", "one page", REPORT_SECONDS, None, REPORT_MB, "")

    # parts

    @cached_property
    def _floor_mb(self) -> float:
        """Libraries and data: what every stage holds."""
        data = self.job.problem.data
        absent = sum(split.x.nbytes for split in (data.train, data.test)) if data.described else 0
        return peak_mb() + absent / 1e6

    @property
    def _workers(self) -> int:
        """How many share the work: those of a described machine; those of this one have its speed together."""
        return self.machine.workers if self.machine else 1

    @cached_property
    def _spreads(self) -> bool:
        return self._workers > 1 or self.job.executor.spreads

    def _seconds(self, part: object, work: Work) -> float:
        """Everything but the trainings; gradients are shared out among workers."""
        rates = self.machine.rates(getattr(part, "precision", "model")) if self.machine else self.rates
        spread = self._shared(part)
        return spread.seconds(rates, self._workers, work) if spread else rates.seconds(work)

    def _shared(self, part: object) -> Shared | Ahead | None:
        """How workers share the part, if they do."""
        shape, problem = self.shape if self._spreads else None, self.job.problem
        return shared(part, problem, shape, 8 if _dtype(problem.learner) == "float64" else 4) if shape else None

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

    def _measured(self, stage: str, works: list[Work], disk_mb: float, part: object = None) -> dict[str, Any]:
        """A row for work whose trainings are looked up in the bank."""
        from influx.engines.settling import settling_work
        from influx.planning import total

        tried = [settling_work(self.shape) for each in works if each.gradients and self.shape]
        work = total([*works, *tried])
        counted = [self._missing(each) for each in works]
        missing, asked, alone = (round(sum(numbers)) for numbers in zip((0, 0, 0), *counted, strict=True))
        problem, first = self.job.problem, FIRST_GRADIENTS if work.gradients and not self.warm else 0.0
        self.warm = self.warm or bool(work.gradients)
        instances = len(problem.train) + len(problem.test)
        trainings = sum(
            self._trained(each, number, single) for each, (number, _, single) in zip(works, counted, strict=True)
        )
        block = max(problem.learner.block_size(problem.data), 1)
        trainings += FILE_SECONDS * missing / block
        blocks, spread = -(-(missing - alone) // block) + alone, self._shared(part)
        trainings *= rounds(blocks, self._workers) / max(blocks, 1)
        seconds = first + self._seconds(part, work) + trainings
        if self._spreads and not self.started and (blocks or spread):
            seconds, self.started = seconds + WORKER_SECONDS, True
        parts = [f"{missing:,} of {asked:,} trainings"] if asked else []
        parts += [f"{work.gradients:,.0f} gradients"] if work.gradients else []
        formula = work.formula
        if missing:
            formula += f"; {problem.learner.cost(problem.data, missing).formula}"
        if spread:
            formula += f"; {spread.sentence(self._workers, self._floor_mb)}"
            disk_mb += spread.disk_bytes / 1e6
        disk_mb += work.disk / 1e6
        disk_mb += missing * (instances * FIELDS_BYTES + len(problem.train) / 8 + 60) / 1e6
        state = "in part" if missing < asked else "to do"
        passes = self.shape.pass_bytes if self.shape and work.gradients else 0.0
        memory = self._floor_mb + (work.bytes + passes - self._on_disk(work)) / 1e6
        return stage_row(stage, state, ", ".join(parts), seconds, memory, disk_mb, formula)

    def _on_disk(self, work: Work) -> float:
        """Bytes of the influence matrix where it is too large to be held (``matrix_mb``)."""
        matrix = 8.0 * len(self.job.problem.train) * len(self.job.problem.test)
        return matrix if work.bytes >= matrix > 1e6 * float(self.job.settings["matrix_mb"]) else 0.0

    def _trained(self, work: Work, number: float, alone: float) -> float:
        """Seconds of so many trainings, some of them alone."""
        if not round(number):
            return 0.0
        each = self._each(work)
        return number * each + alone * max(self.pace.training - each, 0.0)

    def _each(self, work: Work) -> float:
        """Seconds of one training: of those that the work lists, where they differ from others."""
        from influx.planning import Sampling

        learner = self.job.problem.learner
        if self.machine is not None or not isinstance(learner, Sampling) or not work.trainings:
            return self.pace.model
        return learner.seconds_each(self.job.problem, max(work.trainings, key=len))

    def _missing(self, work: Work) -> tuple[float, float, float]:
        """Trainings to do, asked for, and to do alone; unlisted ones are taken to be missing as often as the others."""
        listed = sum(len(design) for design in work.trainings)
        missing = sum(self._claim(design) for design in work.trainings)
        share = missing / listed if listed else 1.0
        own, new, alone = work.own_trainings, work.more_new, share * work.more_alone + work.own_alone
        more = share * (work.more_trainings - new) + new
        return missing + more + own, listed + work.more_trainings + own, alone

    def _claim(self, design: Any) -> int:
        """Trainings of a design that neither the bank nor an earlier stage has; they are this stage's now."""
        from influx.engines.retrain import keys_of

        keys = keys_of(self.bank.problem, design)
        new = {keys[row] for row in self.bank.missing(design, keys)} - self.claimed
        self.claimed |= new
        return len(new)


def _dtype(learner: object) -> str:
    training = getattr(learner, "training", None)
    lower = str(getattr(training, "precision", "model"))
    return str(getattr(training, "dtype", "float64")) if lower == "model" else lower
