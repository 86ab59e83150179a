"""The same data, optimizer, training and seed with another model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from influx.config import load_choice
from influx.engines.executor import Local
from influx.errors import ConfigError
from influx.instantiate import build
from influx.job import Job, learner_of, problem_config
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
