"""From settings to the objects of one run, with everything checked that can be checked before any work."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from influx.added import without_added
from influx.config import NAME, PRESENTATION, Settings, load_choice
from influx.datasets.described import Describable
from influx.engines.default_curvature import suited
from influx.engines.executor import WORKERS, Executor, Place
from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.influence import Influence
from influx.instantiate import build
from influx.learners.torch.learner import TorchLearner
from influx.needs import Need
from influx.perspectives.asked import Perspective
from influx.planning import Planned, Prospect, Shaped, Work
from influx.problem import Data, Fitted, Learner, Problem, trained_again
from influx.run import Estimator, Metric, Run, refuse_missing
from influx.store import Folder, content_hash

PROBLEM_GROUPS = ("dataset", "corruption", "model", "optimizer", "training")
PLACES = ("path", "download")  # where data lie: the fingerprint says what they are


@runtime_checkable
class Transferring(Protocol):
    """A metric that asks an estimator under another model as well: the name of its choice, and settings of it."""

    surrogate: str
    settings: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """All parts of one run; ``notices`` say of estimators, by name, what was changed in them to fit the task."""

    settings: Settings
    problem: Problem
    estimator: Estimator
    perspective: Perspective
    truth: Estimator | None
    metrics: Mapping[str, Metric]
    baselines: Mapping[str, Estimator]
    executor: Executor
    name: str
    notices: Mapping[str, str] = field(default_factory=dict)

    @property
    def outputs(self) -> Path:
        """The folder of all results."""
        return Path(str(self.settings["paths"]["outputs"])).expanduser()

    @property
    def problem_folder(self) -> Folder:
        """What training makes, shared by every run of the problem."""
        return Folder(self.outputs / "problems" / self.problem.id)

    @property
    def run_folder(self) -> Folder:
        """What this run makes."""
        return Folder(self.outputs / "runs" / self.name)

    @property
    def truth_name(self) -> str:
        """The choice of ground truth."""
        return self.settings.choices["truth"]

    @property
    def estimator_name(self) -> str:
        """The choice of estimator."""
        return self.settings.choices["estimator"]

    def bank(self) -> Bank:
        """A view of the retraining bank with counters of its own."""
        return Bank(self.problem, self.problem_folder.sub("retrain"), self.executor)

    def trained_again(self, number: int) -> Job:
        """The same data and settings with the initialisation and batch order numbered ``number``; 0 is this job."""
        return replace(self, problem=trained_again(self.problem, number)) if number else self

    def run(
        self, fitted: Fitted, requires: frozenset[Need], who: str, bank: Bank, truth: Influence | None = None
    ) -> Run:
        """The trained problem as one estimator or metric may see it."""
        return Run(
            problem=self.problem,
            fitted=fitted,
            bank=bank,
            requires=requires,
            who=who,
            truth=truth,
            matrix_mb=float(self.settings["matrix_mb"]),
            warnings=[self.notices[who]] if who in self.notices else [],
        )

    def work(self, part: object, who: str, truth_rows: int = 0) -> Work:
        """What an estimator or metric says it would do; a setting that does not fit is refused here.

        Raises:
            UserError: the part cannot work on this problem.
        """
        if not isinstance(part, Planned):
            return Work()
        learner = self.problem.learner
        shape = learner.net_shape(self.problem) if isinstance(learner, Shaped) else None
        return part.plan(Prospect(problem=self.problem, who=who, shape=shape, truth_rows=truth_rows))


def assemble(settings: Settings, sizes: bool = False) -> Job:
    """Build every part and check that they fit.

    With ``sizes`` the sizes of a dataset are enough where its contents are absent or large; a corruption, which
    changes sizes little, is left out there.

    Raises:
        UserError: a setting, the data or a combination is unusable.
    """
    _check_root(settings)
    trust = list(settings["trust"])

    def part(group: str) -> Any:
        return build(settings[group], group, trust)

    baselines = {
        name: build(load_choice("estimator", name, settings.config_dir, "baselines"), f"baselines.{name}", trust)
        for name in settings["baselines"]
    }
    metrics = {n: build(node, f"metric.{n}", trust) for n, node in (settings["metric"] or {}).items()}
    dataset, corruption, executor = part("dataset"), part("corruption"), part("executor")
    learner = learner_of(part("model"), part("optimizer"), part("training"))
    estimator, perspective, truth = part("estimator"), part("perspective"), part("truth")
    model = settings.choices["model"]
    check_needs(learner, estimator, settings.choices["estimator"], model)
    if truth is not None:
        check_needs(learner, truth, f"truth={settings.choices['truth']}", model)
    for name, consumer in metrics.items():
        check_needs(learner, consumer, name, model)
    lacking = [name for name, baseline in baselines.items() if baseline.requires - learner.provides]
    if lacking:
        logging.getLogger("influx").info("model=%s cannot serve the baselines %s: left out", model, ", ".join(lacking))

    stand_in = dataset.describe() if sizes and isinstance(dataset, Describable) else None
    data: Data = dataset.load(settings["seed"]) if stand_in is None else stand_in
    if corruption is not None and stand_in is None:
        data = corruption.apply(data, settings["seed"])
    if getattr(learner, "task", None) == "density":
        data = replace(data, task="density")
    learner.check(data)
    problem = Problem(
        data=data, learner=learner, seed=settings["seed"], config=problem_config(settings, dataset, learner)
    )
    own = settings.choices["estimator"]
    fitting, notices = suited({**baselines, own: estimator}, data.task)
    if own in notices and _curvature_asked(settings):
        notices.pop(own)  # it is for the solver to take or to refuse
    elif own in notices:
        estimator = fitting[own]
        settings = with_curvature(settings, estimator)
    name = run_name(settings, problem)
    job = Job(
        settings=settings,
        problem=problem,
        estimator=estimator,
        perspective=perspective,
        truth=truth,
        metrics=metrics,
        baselines={n: b for n, b in fitting.items() if n not in (*lacking, own)},
        executor=executor.open(workplace(settings, name)),
        name=name,
        notices=notices,
    )
    perspective.check(estimator, job.estimator_name, problem)
    for who, consumer in {job.estimator_name: estimator, job.truth_name: truth, **job.baselines, **metrics}.items():
        job.work(consumer, who)
    for key, metric in metrics.items():
        if isinstance(metric, Transferring):
            from influx.other_models import with_model

            with_model(job, metric.surrogate, metric.settings, f"metric.{key}")
    return job


def _curvature_asked(settings: Settings) -> bool:
    """Whether the command line, an experiment or the user's own file of the estimator sets ``estimator.curvature``."""
    if any(re.match(r"\+{0,2}estimator\.curvature=", override) for override in settings.overrides):
        return True
    folder, own, experiment = settings.config_dir, settings.choices["estimator"], settings.choices.get("experiment")
    read: list[Any] = []
    if experiment and experiment != "None":
        read.append(load_choice("experiment", experiment, folder).get("estimator"))
    if folder is not None and (folder / "estimator" / f"{own}.yaml").is_file():
        read.append(load_choice("estimator", own, folder))
    return any(isinstance(node, Mapping) and "curvature" in node for node in read)


def with_curvature(settings: Settings, estimator: Any) -> Settings:
    """The settings with the curvature that the estimator takes, so that the run is the one that asks for it."""
    node = dict(settings["estimator"]) | {"curvature": estimator.curvature}
    return replace(settings, values=dict(settings.values) | {"estimator": node})


def learner_of(model: Any, optimizer: Any, training: Any) -> Learner:
    """A model choice either builds a module for the torch learner or is a learner itself."""
    if hasattr(model, "build") and hasattr(training, "learner"):  # checkpoints from elsewhere
        imported: Learner = training.learner(model, optimizer)
        return imported
    if hasattr(model, "build"):
        return TorchLearner(model=model, optimizer=optimizer, training=training)
    learner: Learner = model
    return learner


def check_needs(learner: Learner, consumer: Any, who: str, model: str) -> None:
    """Refuse an estimator or metric whose needs the learner cannot serve (``IncompatibleError``)."""
    missing = consumer.requires - learner.provides
    if missing and hasattr(learner, "missing"):
        raise learner.missing(who, missing)
    refuse_missing(consumer.requires, learner.provides, who, model)


def problem_config(settings: Settings, dataset: Any, learner: Any) -> dict[str, Any]:
    """The settings that training depends on, and what a user's code and files add to them (``identity``)."""
    groups = without_added({group: settings[group] for group in PROBLEM_GROUPS})
    parts = (dataset, getattr(learner, "model", None), learner)
    own = [found for part in parts if (found := getattr(part, "identity", None))]
    told = {group: {k: v for k, v in node.items() if k not in PLACES} for group, node in groups.items()}
    return told | ({"identity": own} if own else {})


def workplace(settings: Settings, name: str) -> Place:
    """Where workers of the run find their tasks, and what they assemble it from."""
    outputs, folder = Path(str(settings["paths"]["outputs"])).expanduser(), settings.config_dir
    plain = {
        "values": dict(settings.values),
        "choices": dict(settings.choices),
        "config_dir": str(folder.resolve()) if folder is not None else None,
    }
    return Place(path=outputs / "runs" / name / WORKERS, settings=plain)


def run_name(settings: Settings, problem: Problem) -> str:
    """The name given, or one from the choices and a hash of all settings and data."""
    if settings["name"] is not None:
        return str(settings["name"])
    told = {k: v for k, v in settings.values.items() if k not in (*PRESENTATION, *PROBLEM_GROUPS)}
    choices = [settings.choices[group] for group in ("dataset", "model", "estimator")]
    return "_".join([*choices, content_hash([problem.id, told], length=10)])


def _check_root(settings: Settings) -> None:
    allowed = {"on_busy": ("wait", "exit"), "output_dtype": ("float32", "float64")}
    for key, values in allowed.items():
        if settings[key] not in values:
            raise ConfigError(f"{key} must be {' or '.join(values)}, got {settings[key]!r}; change it")
    if not all(isinstance(package, str) for package in settings["trust"]):
        raise ConfigError(f"trust must be a list of packages, got {settings['trust']!r}; write trust=[mypackage]")
    outputs = settings["paths"].get("outputs") if isinstance(settings["paths"], Mapping) else None
    if not isinstance(outputs, str) or not outputs:
        raise ConfigError(f"paths.outputs must name a folder, got {outputs!r}; set paths.outputs=outputs")
    if settings["top_k"] < 1:
        raise ConfigError(f"top_k must be at least 1, got {settings['top_k']}; raise it")
    if settings["threads"] is not None and settings["threads"] < 1:
        raise ConfigError(f"threads must be at least 1 or null, got {settings['threads']}; raise it")
    if not settings["matrix_mb"] >= 0:
        raise ConfigError(f"matrix_mb must not be negative, got {settings['matrix_mb']}; use 0 to work on disk always")
    if settings["seed"] < 0:
        raise ConfigError(f"seed must not be negative, got {settings['seed']}; use 0 or more")
    name = settings["name"]
    if name is not None and not NAME.fullmatch(name):
        raise ConfigError(
            "name must be letters, digits, '.', '_' and '-', beginning with a letter or digit and not ending in "
            f".corrupt, got {name!r}; change it"
        )
    for group in (*PROBLEM_GROUPS, "estimator", "perspective", "truth", "executor"):
        if not isinstance(settings[group], Mapping):
            raise ConfigError(
                f"{group} must be one of the choices of its group, got {settings[group]!r}; see influx list"
            )
