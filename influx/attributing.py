"""Influence of a training set on the predictions of a model that is already there: one call, on the same engines."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influx.api import Result
from influx.config import Settings, compose, load_choice
from influx.errors import ConfigError, DataError, UserError
from influx.given import Problemlike, as_states, problem_of
from influx.instantiate import build
from influx.job import Job, check_needs, run_name, workplace
from influx.learners.torch.foreign import matched
from influx.learners.torch.given import own_copy
from influx.learners.torch.imported import Imported, Loaded, digest_of
from influx.learners.torch.imported_learner import ImportedLearner
from influx.learners.torch.training import Training
from influx.pipeline import carry_out
from influx.problem import Problem
from influx.store import content_hash

if TYPE_CHECKING:
    from torch import Tensor, nn

PROBED = 64  # instances whose losses tell one model and loss from another


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
    lrs: float | Sequence[float] | None = None,
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
        steps: updates before each checkpoint; None reads them from files or counts the checkpoints.
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
    source = _states(given, checkpoints, lrs, steps)
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
        job = _job(made, learner, given, type(model).__name__, folder)
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


def _states(
    given: Problemlike, checkpoints: Any, lrs: float | Sequence[float] | None, steps: Sequence[int] | None
) -> Callable[[str], list[Loaded]]:
    """The checkpoints, the model itself being the last."""
    final = given.factory.module.state_dict()

    def own(step: int) -> Loaded:
        return Loaded(step, None, lambda module: final, digest_of(final))

    if checkpoints is None:
        if lrs is not None or steps is not None:
            raise ConfigError("lrs and steps belong to checkpoints, and none were given; pass checkpoints=…")
        return lambda inner: [own(0)]
    rates = [float(rate) for rate in lrs] if isinstance(lrs, Sequence) else None if lrs is None else float(lrs)
    numbers = None if steps is None else [int(step) for step in steps]

    def loaded(inner: str) -> list[Loaded]:
        states = as_states(checkpoints)
        found = (
            Imported(path=str(checkpoints), lr=rates, steps=numbers).loaded(inner)
            if states is None
            else _listed_states(states, rates, numbers, inner)
        )
        last = found[-1].read(given.factory.module)
        if digest_of(last) == digest_of(final):
            return found
        apart = found[-1].step - found[-2].step if len(found) > 1 else 1
        return [*found, own(found[-1].step + apart)]

    return loaded


def _listed_states(
    states: list[Any], rates: float | list[float] | None, steps: list[int] | None, inner: str
) -> list[Loaded]:
    """Checkpoints given one by one: files, or state dicts."""
    if not states:
        raise ConfigError("checkpoints is empty; pass files or state dicts of this model's training, or leave it out")
    for name, numbers in (("lrs", rates), ("steps", steps)):
        if isinstance(numbers, list) and len(numbers) != len(states):
            raise ConfigError(f"{name} has {len(numbers)} numbers for {len(states)} checkpoints; give one for each")
    found: list[Loaded] = []
    for number, state in enumerate(states):
        rate = rates[number] if isinstance(rates, list) else rates
        if isinstance(state, Mapping):
            found.append(_of_state(state, number, rate, inner))
        else:
            found.extend(Imported(path=str(state), lr=rate).loaded(inner)[:1])
    known = steps or [one.step for one in found]
    if known != sorted({*known}):
        known = list(range(len(found)))
    return [replace(one, step=step) for one, step in zip(found, known, strict=True)]


def _of_state(state: Mapping[str, Any], number: int, rate: float | None, inner: str) -> Loaded:
    tensors = {str(name): value for name, value in state.items() if hasattr(value, "detach")}
    if not tensors:
        raise DataError(f"checkpoint {number} holds no tensors; pass model.state_dict()")
    what = f"checkpoint {number}"
    return Loaded(number, rate, lambda module: matched(tensors, module, None, inner, what), digest_of(tensors))


def _job(settings: Settings, learner: ImportedLearner, given: Problemlike, name: str, folder: Path) -> Job:
    """All parts of the run, checked against each other as ``influx run`` does."""
    values = dict(settings.values) | {
        "dataset": {"name": "given", "in_memory": True},
        "model": {"name": name, "in_memory": True},
        "paths": {"outputs": str(folder)},
    }
    described = ", ".join(f"{key}={value!r}" for key, value in values["estimator"].items() if key != "_target_")
    call = f"influx.attribute(model={name}, estimator={settings.choices['estimator']!r}, settings=dict({described}))"
    settings = replace(settings, values=values, call=call)
    estimator = build(values["estimator"], "estimator", [])
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
    )
    job.perspective.check(estimator, job.estimator_name, problem)
    for who, consumer in {job.estimator_name: estimator, **metrics}.items():
        job.work(consumer, who)
    return job


def _seen(learner: ImportedLearner, given: Problemlike) -> dict[str, str]:
    """Losses of the first instances: they tell code apart that has the same parameters."""
    import torch

    module = learner.final(given.data)
    x, y = learner.example(given.data, PROBED, learner.device())
    with torch.no_grad():
        losses = learner.task_of(given.data).loss(module(x).double(), y.double() if y.is_floating_point() else y)
    return {"losses": content_hash(losses.cpu().tolist())}
