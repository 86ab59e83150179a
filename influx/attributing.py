"""Influence of a training set on the predictions of a model that is already there: one call, on the same engines."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influx.api import Result
from influx.config import Settings, compose, load_choice
from influx.engines.default_curvature import suited
from influx.errors import UserError
from influx.given import Problemlike, problem_of
from influx.given_checkpoints import source_of
from influx.instantiate import build
from influx.job import Job, check_needs, run_name, with_curvature, workplace
from influx.learners.torch.given import own_copy
from influx.learners.torch.imported_learner import ImportedLearner
from influx.learners.torch.inputs import attached_to, evaluation_tensors
from influx.learners.torch.training import Training
from influx.pipeline import carry_out
from influx.problem import Problem
from influx.store import content_hash

if TYPE_CHECKING:
    from torch import Tensor, nn

AT_ONCE = 256  # instances whose losses are computed together


@dataclass(frozen=True)
class Attribution(Result):
    """The result of ``influx.attribute``: as that of ``influx.run``, without ground truth."""


WORDS = {  # of settings, for what this call names otherwise
    "set training.prefix to what its names begin with, or choose the model that was trained": "pass the trained model",
    "choose the model that was trained, or set training.prefix to what the model's names begin with": "pass that model",
    "choose the sizes that were trained": "pass the trained model",
    "training.path=": "checkpoints=",
    "training.path": "checkpoints",
    "training.lr": "lrs",
    "training.steps": "steps",
    "let influx train (training=default)": "train with influx.run",
    "optimizer.weight_decay": "weight_decay",
    "training.device": "device",
}


@contextmanager
def _in_its_words() -> Iterator[None]:
    """Errors name the arguments of ``attribute``, not the settings of the command line that they stand for."""
    try:
        yield
    except UserError as error:
        said = str(error)
        for setting, argument in WORDS.items():
            said = said.replace(setting, argument)
        raise type(error)(said) from error


@_in_its_words()
def attribute(
    model: nn.Module,
    train: Any,
    test: Any,
    *,
    loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
    estimator: str = "if_ekfac",
    checkpoints: Any = None,
    lrs: float | Sequence[float] | Tensor | None = None,
    steps: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    metrics: Sequence[str] = (),
    optimizer: str = "sgd",
    weight_decay: float = 0.0,
    classes: Sequence[str] | None = None,
    outputs: str | Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    quiet: bool = True,
    **more: Any,
) -> Attribution:
    """Influence of every training instance on every test instance under a trained model.

    Nothing is trained. The model is copied and stays as it is.

    Args:
        model: the trained module, in any state and on any device. Frozen parameters count as constants.
        train: ``(x, y)`` arrays or tensors, or a map-style dataset whose items are ``(x, y)`` or mappings with labels:
            what the model was trained on, as it reads it.
        test: the same, of the instances to explain.
        loss: ``"cross_entropy"`` (of whole-number targets; of sequences the mean over their tokens), ``"mse"`` (half
            the squared error, summed over outputs), or a function (outputs, y) -> (n,) with one loss per instance.
        estimator: a name of ``influx.list_estimators()``.
        checkpoints: of the training of this model, for estimators that follow it: a folder, file or pattern, or a
            sequence of paths or state dicts in order. The model itself is the last one, if it is not among them.
        lrs: learning rate of the steps that leave each checkpoint, one number or one each; None reads it from files.
        steps: updates before each checkpoint; None reads them from files or counts the checkpoints. Without checkpoints
            both tell how the model itself was trained: ``lrs=0.1, steps=[1000]``.
        settings: of the estimator, beside ``more``: for those whose names are taken here.
        metrics: names of metrics that need no retraining, for example ``["stability"]``.
        optimizer: sgd, adam or adamw: what trained the model, as far as an estimator asks.
        weight_decay: of that optimizer; part of the objective whose curvature is taken.
        classes: names of the classes, for tables.
        outputs: a folder for the results, which are found there again; None writes to a temporary one, which lasts as
            long as the result.
        device: cpu, cuda or auto.
        seed: of everything an estimator draws.
        quiet: show no progress.
        more: settings of the estimator by name, as in ``damping=0.1``.

    Returns:
        ``influence``, ``ranking``, ``self_influence``, ``metrics`` and the rest of what ``influx.run`` returns.

    Raises:
        UserError: the request cannot be met; the message says what to change.
    """
    module = own_copy(model)
    given = problem_of(module, train, test, loss, classes)
    made = _settings(estimator, dict(settings or {}) | more, metrics, optimizer, weight_decay, seed, quiet)
    source = source_of(given, checkpoints, lrs, steps)
    double = next(module.parameters()).element_size() == 8
    learner = ImportedLearner(
        model=given.factory,
        optimizer=build(made["optimizer"], "optimizer", []),
        training=Training(epochs=1, batch_size=1, dtype="float64" if double else "float32", device=device),
        source=source,
        inner=given.inner,
        own_task=given.own_task,
    )
    temporary = Path(tempfile.mkdtemp(prefix="influx-")) if outputs is None else None
    folder = temporary or Path(outputs or "")
    try:
        job = _job(made, learner, given, type(model).__name__, folder, {**(settings or {}), **more})
        done = Attribution(carry_out(job))
        fitted = learner.fit(job.problem.data, seed, job.problem_folder)
    except BaseException:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    done.__dict__["_loaded"] = (job.problem, fitted)  # what was given in memory cannot be read from the folder
    if temporary is not None:
        weakref.finalize(done, shutil.rmtree, temporary, ignore_errors=True)
    return done


def _settings(
    estimator: str,
    wanted: Mapping[str, Any],
    metrics: Sequence[str],
    optimizer: str,
    weight_decay: float,
    seed: int,
    quiet: bool,
) -> Settings:
    """What ``influx run`` would compose, with the estimator's settings as they were given."""
    node = load_choice("estimator", estimator)
    load_choice("optimizer", optimizer)
    base = _composed(estimator, tuple(metrics), optimizer)
    values = dict(base.values)
    values["estimator"] = node | {key: _listed(value) for key, value in wanted.items()}
    values["optimizer"] = dict(values["optimizer"]) | {"weight_decay": float(weight_decay)}
    values |= {"seed": seed, "quiet": quiet, "baselines": []}
    build(values["estimator"], "estimator", [])  # a wrong name or value is told before any work
    choices = dict(base.choices) | {"dataset": "given", "model": "given"}
    return replace(base, values=values, choices=choices)


@cache
def _composed(estimator: str, metrics: tuple[str, ...], optimizer: str) -> Settings:
    """Files do not change while a notebook is open."""
    chosen = [f"estimator={estimator}", f"metric=[{','.join(metrics)}]", f"optimizer={optimizer}"]
    return compose(["training=imported", "truth=none", *chosen])


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _job(
    settings: Settings, learner: ImportedLearner, given: Problemlike, name: str, folder: Path, asked: Collection[str]
) -> Job:
    """All parts of the run, checked against each other as ``influx run`` does."""
    values = dict(settings.values) | {
        "dataset": {"name": "given", "in_memory": True},
        "model": {"name": name, "in_memory": True},
        "paths": {"outputs": str(folder)},
    }
    described = ", ".join(f"{key}={value!r}" for key, value in values["estimator"].items() if key != "_target_")
    call = f"influx.attribute(model={name}, estimator={settings.choices['estimator']!r}, settings=dict({described}))"
    settings = replace(settings, values=values, call=call)
    own, notices = settings.choices["estimator"], dict[str, str]()
    estimator = build(values["estimator"], "estimator", [])
    if "curvature" not in asked:
        fitting, notices = suited({own: estimator}, given.data.task)
        estimator = fitting[own]
    settings = with_curvature(settings, estimator) if notices else settings
    metrics = {key: build(node, f"metric.{key}", []) for key, node in (values["metric"] or {}).items()}
    learner.check(given.data)
    check_needs(learner, estimator, settings.choices["estimator"], "given")
    for key, metric in metrics.items():
        check_needs(learner, metric, key, "given")
    config = {"model": repr(given.factory.module), "optimizer": asdict(learner.optimizer), "training": learner.identity}  # type: ignore[call-overload]
    problem = Problem(data=given.data, learner=learner, seed=int(values["seed"]), config=config | _seen(learner, given))
    job = Job(
        settings=settings,
        problem=problem,
        estimator=estimator,
        perspective=build(values["perspective"], "perspective", []),
        truth=None,
        metrics=metrics,
        baselines={},
        executor=build(values["executor"], "executor", []).open(workplace(settings, "attribute")),
        name=run_name(settings, problem),
        notices=notices,
    )
    job.perspective.check(estimator, job.estimator_name, problem)
    for who, consumer in {job.estimator_name: estimator, **metrics}.items():
        job.work(consumer, who)
    return job


def _seen(learner: ImportedLearner, given: Problemlike) -> dict[str, Any]:
    """What tells problems apart whose modules print alike: trainable and tied parameters, and the losses."""
    import torch

    module, task = learner.final(given.data), learner.task_of(given.data)
    first: dict[int, str] = {}
    tied = {name: first.setdefault(id(p), name) for name, p in module.named_parameters(remove_duplicate=False)}
    attached = attached_to(learner.model, given.data, 0)
    losses: list[float] = []
    with torch.no_grad():
        for split in (given.data.train, given.data.test):
            for start in range(0, len(split.y), AT_ONCE):
                some = split.take(slice(start, start + AT_ONCE))
                x, y = evaluation_tensors(some, attached, learner.dtype, learner.device())
                found = task.loss(module(x).double(), y.double() if y.is_floating_point() else y)
                losses += found.cpu().tolist()
    return {"parameters": tied, "losses": content_hash(losses)}
