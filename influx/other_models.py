"""The same data, optimizer, training and seed with another model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from influx.config import load_choice
from influx.engines.executor import Local
from influx.errors import ConfigError, IncompatibleError
from influx.instantiate import build
from influx.job import Job, Transferring, check_needs, learner_of, problem_config
from influx.planning import Work, total
from influx.problem import Problem


def with_model(job: Job, model: str, given: Mapping[str, Any] | None, setting: str) -> Job:
    """The job with the choice ``model`` and some of its settings; its problem is that of a run with ``model=…``.

    What is retrained for it is retrained in this process: workers know the job's own model alone.

    Raises:
        ConfigError: there is no such choice or setting; ``setting`` names who asked.
        IncompatibleError: the model cannot learn from the data.
    """
    settings, data = job.settings, job.problem.data
    trust = list(settings["trust"])
    node = load_choice("model", model, settings.config_dir, f"{setting}.surrogate") | dict(given or {})
    try:
        made = build(node, "model", trust)
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from error
    learner = learner_of(made, *(build(settings[group], group, trust) for group in ("optimizer", "training")))
    if (getattr(learner, "task", None) == "density") != (data.task == "density"):
        raise ConfigError(
            f"{setting}.surrogate={model} learns another task than model={settings.choices['model']}; choose a model "
            "of the same kind"
        )
    learner.check(data)
    values, choices = dict(settings.values) | {"model": node}, dict(settings.choices) | {"model": model}
    other = replace(settings, values=values, choices=choices)
    config = problem_config(other, build(settings["dataset"], "dataset", trust), learner)
    problem = Problem(data=data, learner=learner, seed=job.problem.seed, config=config)
    return replace(job, settings=other, problem=problem, executor=Local())


def work_under_others(job: Job) -> list[Work]:
    """What metrics that ask under another model take for it, one for each estimator of the run that can be asked there.

    What is retrained for them is of other problems and taken to be missing.
    """
    found = []
    for key, metric in job.metrics.items():
        if not isinstance(metric, Transferring):
            continue
        other = with_model(job, metric.surrogate, metric.settings, f"metric.{key}")
        for name, estimator in {job.estimator_name: job.estimator, **job.baselines}.items():
            with suppress(IncompatibleError):
                check_needs(other.problem.learner, estimator, name, metric.surrogate)
                seeds = 1 if name in job.baselines else job.perspective.seeds
                one = other.work(estimator, name)
                work = total([one] * seeds)
                trained = sum(map(len, work.trainings)) + work.more_trainings + work.own_trainings + seeds - 1
                told = f"{name} under model={metric.surrogate}: {one.formula}"
                alone = work.more_alone + work.own_alone + seeds - 1
                work = replace(work, trainings=(), more_trainings=0.0, more_alone=0.0, more_new=0.0, formula=told)
                found.append(replace(work, own_trainings=trained, own_alone=alone))
    return found
