"""The one place that knows the order: train, truth, estimate, evaluate, report.

Each stage writes its files and is then marked done in the manifest; the same command does what is missing and
nothing else. What a stage passes on is read back from its files: a resumed run ends in the same bytes, timings apart.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from influx import interrupts, logs, progress, results
from influx.config import PRESENTATION, Settings
from influx.engines.executor import WORKERS, working
from influx.engines.executors.exchange import remove_versions
from influx.engines.trainings import train_ahead
from influx.errors import Interrupted
from influx.influence import Influence
from influx.job import Job, assemble
from influx.judged import Rated, judge
from influx.manifest import Manifest, hashes, identifying, measured, refuse_drift, signs, versions
from influx.problem import Fitted
from influx.reads import noted
from influx.reporting import html
from influx.reporting.progress import factory
from influx.reporting.record import RunRecord
from influx.run import Estimator
from influx.shared_truth import Made, shared_truth
from influx.store import Folder
from influx.trackers.tracking import track, trackers_of
from influx.trained import doubts, is_trained, trained_problem

log = logging.getLogger("influx")


def execute(settings: Settings) -> Path:
    """Do one run, or what is left of it; the run's folder.

    Raises:
        UserError: something in the request is unusable.
        Busy: another process works on the same run and ``on_busy=exit``.
        Interrupted: a signal asked to stop; everything finished is saved.
    """
    with interrupts.handled(), progress.shown_by(factory(bool(settings["quiet"]))), logs.warnings_on_screen():
        trackers_of(settings)  # a missing package is told before any work
        return _go(assemble(settings))


def carry_out(job: Job) -> Path:
    """The same for a job that is made already; raises what ``execute`` does."""
    with interrupts.handled(), progress.shown_by(factory(bool(job.settings["quiet"]))), logs.warnings_on_screen():
        return _go(job)


def _go(job: Job) -> Path:
    folder = job.run_folder
    with threads(job.settings["threads"]), folder.locked(job.settings["on_busy"] == "wait"), logs.to_file(folder):
        with working(job.executor):
            Pipeline(job, folder).go()
        remove_versions(folder / WORKERS)  # also what workers of an earlier executor left
    return folder.path


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute on that many processor threads inside the block; None leaves torch's choice."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Pipeline:
    """The stages of one run."""

    def __init__(self, job: Job, folder: Folder) -> None:
        """``folder`` is locked by this process."""
        self.job, self.folder = job, folder
        folder.sweep_temporaries()
        if job.settings["overwrite"]:
            self._forget()
        else:
            self._refuse_drift()
        self.manifest = Manifest(folder, self._description())

    def _forget(self) -> None:
        if listed := self.folder.checksums():
            self.folder.forget(*listed, "manifest.json")

    def go(self) -> None:
        """Run every stage that is not done."""
        stages: dict[str, Callable[[], list[str]]] = {
            "train": self._train,
            "truth": self._make_truth,
            "estimate": self._estimate,
            "evaluate": self._evaluate,
            "report": self._report,
        }
        finished = all(self.manifest.complete(stage) for stage in stages) and is_trained(self.job)
        if not self.folder.has("config.yaml"):
            self.folder.write_text("config.yaml", self._config_text())
        if finished:
            log.info("nothing to do: the run is complete")
            self._done()
            return
        self.manifest.save("running")
        redo = False
        try:
            for name, stage in stages.items():
                done = self.manifest.complete(name) and (name != "train" or is_trained(self.job))
                if done and not redo:
                    self.manifest.reuse(name)
                    continue
                redo = redo or name != "train"
                log.info("stage %s", name)
                interrupts.check()
                with measured() as spent:
                    files = stage()
                self.manifest.record(name, files, spent.seconds, spent.peak_mb)
                self.manifest.save("running")
        except (Interrupted, KeyboardInterrupt):
            self.manifest.save("interrupted")
            raise
        except Exception as error:  # whatever it is, the manifest must not go on saying "running"
            self.manifest.values["error"] = str(error) or type(error).__name__
            self.manifest.save("failed")
            raise
        self._done()

    def _done(self) -> None:
        if self.manifest.status != "done" or "error" in self.manifest.values:
            self.manifest.values.pop("error", None)
            self.manifest.save("done")
        track(self.job.settings, self.folder, self.manifest)

    # stages

    def _train(self) -> list[str]:
        """Train, or read the trained problem."""
        self.__dict__["fitted"] = trained_problem(self.job)
        self.manifest.warn(*doubts(self.job.problem))
        return []

    def _make_truth(self) -> list[str]:
        if self.truth is None:
            return []
        results.save_matrix(self.folder, "truth.npy", self.truth.values, self.job.settings["output_dtype"])
        return ["truth.npy"]

    def _estimate(self) -> list[str]:
        name = self.job.estimator_name
        found = self._found(name, self.job.estimator, trainings=self.job.perspective.seeds)
        asked = self.job.run(self.fitted, frozenset(), name, self.job.bank())
        influence = self.job.perspective.look(found, asked)
        return results.save_influence(self.folder, influence, self.job.problem.data, self.job.settings["output_dtype"])

    def _evaluate(self) -> list[str]:
        data = self.job.problem.data
        judged = [self._judge(self.job.estimator_name, results.load_influence(self.folder))]
        for name, baseline in self.job.baselines.items():
            judged.append(self._judge(name, self._measure(name, baseline)))
        table = pd.concat([rows for rows, _ in judged], ignore_index=True)
        results.save_table(self.folder, "metrics.csv", table)
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        self.folder.write_json("metrics.json", rows)
        influence = results.load_influence(self.folder)
        ranking = results.ranking_table(influence, self.saved_truth, data, int(self.job.settings["top_k"]))
        results.save_table(self.folder, "ranking.parquet", ranking)
        results.save_table(self.folder, "ranking.csv", ranking)
        further = results.save_metric_tables(self.folder, [tables for _, tables in judged])
        return ["metrics.csv", "metrics.json", "ranking.parquet", "ranking.csv", *further]

    def _report(self) -> list[str]:
        self.manifest.save("done")  # the report shows the finished run
        page = html.page([RunRecord.load(self.folder.path)])
        self.folder.write_text("report.html", page)
        return ["report.html"]

    # parts

    @cached_property
    def fitted(self) -> Fitted:
        """The trained problem."""
        self._train()
        fitted: Fitted = self.__dict__["fitted"]
        return fitted

    @cached_property
    def truth(self) -> Influence | None:
        """Ground truth in full precision, read from what runs on the problem share, or made."""
        if self.job.truth is None:
            return None
        truth, name, values = self.job.truth, self.job.truth_name, self.manifest.values

        def make() -> Made:
            before = list(values["warnings"])
            found = self._measure(name, truth, entry="truth")
            return found, values["cost"]["truth"], [w for w in values["warnings"] if w not in before]

        found, values["cost"]["truth"], warnings = shared_truth(self.job, make)
        self.manifest.warn(*warnings)
        return found

    @property
    def saved_truth(self) -> Influence | None:
        """Ground truth as it stands in ``truth.npy``, with the replicates of the bank."""
        if self.truth is None:
            return None
        saved = np.load(self.folder / "truth.npy", mmap_mode="r", allow_pickle=False)
        return Influence(values=saved, replicates=self.truth.replicates, report=self.truth.report)

    def _measure(self, name: str, estimator: Estimator, entry: str | None = None) -> Influence:
        return self._found(name, estimator, entry)[0]

    def _found(self, name: str, estimator: Estimator, entry: str | None = None, trainings: int = 1) -> list[Influence]:
        """What an estimator finds under the problem's own training and others of the same data; their cost together."""
        found, banks, warnings = [], [], []
        log.info("estimator %s", name)
        with noted() as files, measured() as spent:
            train_ahead(self.job.bank(), range(trainings))
            for number in range(trainings):
                interrupts.check()
                job = self.job.trained_again(number)
                fitted = trained_problem(job) if number else self.fitted
                banks.append(job.bank())
                run = job.run(fitted, estimator.requires, name, banks[-1])
                found.append(estimator.estimate(run))
                warnings += run.warnings
        cost = {
            "seconds": round(spent.seconds, 3),
            "peak_mb": round(spent.peak_mb, 1),
            "trainings": sum(bank.requested for bank in banks),
            "trained_now": sum(bank.trained for bank in banks),
            "stored_before": len(files.found),
            "executor": self.job.settings.choices["executor"],
        }
        earlier = self.manifest.values["cost"].get(entry or name)
        if earlier and cost["trainings"] and not cost["trained_now"]:
            cost = earlier  # read from the bank: what it took to fill it stands
        self.manifest.values["cost"][entry or name] = cost
        self.manifest.warn(*(f"{name}: {sentence}" for sentence in warnings))
        return found

    def _judge(self, name: str, influence: Influence) -> Rated:
        cost = self.manifest.values["cost"].get(name)
        return judge(self.job, self.fitted, self.saved_truth, name, influence, self.manifest.warn, cost)

    def _description(self) -> dict[str, Any]:
        job = self.job
        command = job.settings.call or shlex.join(["influx", "run", *job.settings.overrides])
        return {
            "name": job.name,
            "command": command,
            "estimator": job.estimator_name,
            "truth": job.truth_name,
            "choices": dict(job.settings.choices),
            "configuration": hashes(self._identity()),
            "protocol": self._protocol(),
            "seed": job.problem.seed,
            "versions": versions(),
            "problem": {"id": job.problem.id, "folder": f"../../problems/{job.problem.id}"},
            "notes": list(job.problem.data.notes),
            "instances": {"train": len(job.problem.train), "test": len(job.problem.test)},
        } | signs(job.estimator_name, job.estimator, job.baselines)

    def _protocol(self) -> str:
        if self.job.truth is None:
            return "no ground truth"
        if (stated := getattr(self.job.truth, "protocol", None)) is not None:
            return str(stated)
        norm = getattr(self.job.truth, "norm", "full")
        divided = "their size (weight in place)" if norm == "full" else "their surviving weight"
        return f"removal sets the weight to 0, same initialisation and batch order, batches divided by {divided}"

    def _config_text(self) -> str:
        chosen = {"choices": dict(self.job.settings.choices)}
        return yaml.safe_dump(dict(self.job.settings.values) | chosen, sort_keys=True, allow_unicode=True)

    def _refuse_drift(self) -> None:
        """A run with a given name belongs to one configuration."""
        name, problem = self.job.settings["name"], self.job.problem.id
        if name is not None and not refuse_drift(self.folder, name, self._identity(), PRESENTATION, problem):
            self._forget()

    def _identity(self) -> dict[str, Any]:
        """The settings that make this run another one, as config.yaml holds them."""
        return identifying(yaml.safe_load(self._config_text()), PRESENTATION)
