"""Suites as ``conf/bench/<name>.yaml`` declares them: what is run, what is measured, what must come out above what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from influx.config import choices_of, load_choice
from influx.errors import ConfigError, did_you_mean
from influx.store import content_hash

GROUP = "bench"
Better = Literal["higher", "lower", "one"]  # one: the closer to 1, the better (a calibration slope)


@dataclass(frozen=True, kw_only=True)
class Order:
    """An assertion on one metric: each of ``order`` above the next by more than ``gap``, or ``of`` within bounds."""

    metric: str
    order: Sequence[str] = ()
    gap: float = 0.0
    of: str | None = None
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Estimators on one problem.

    Attributes:
        settings: Hydra overrides that make the problem, its ground truth and its metrics.
        estimators: name in the results → settings of the estimator; ``estimator`` names it where that differs.
        every: also each estimator that the learner can serve, with its defaults.
        without: estimator → why ``every`` leaves it out.
        values: metric → which way is better; these are held against the baseline.
        orders: what must hold on any machine.
    """

    settings: Sequence[str]
    estimators: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    every: bool = False
    without: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Better] = field(default_factory=dict)
    orders: Sequence[Order] = ()


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How an estimator's time grows: the slope of log time over log size, at most ``slope``."""

    estimator: str
    vary: str  # the setting that takes each of ``sizes``
    sizes: Sequence[int]
    slope: float
    settings: Sequence[str] = ()
    formula: str = ""  # what theory says, for people


@dataclass(frozen=True, kw_only=True)
class Split:
    """An estimator on few and on many test instances; what it takes once and for each of them follows from both."""

    estimator: str
    tests: Sequence[int]
    settings: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Two sizes, the smaller first."""
        if len(self.tests) != 2 or not 0 < self.tests[0] < self.tests[1]:
            raise ConfigError(f"split: tests must be two numbers, the smaller first, got {self.tests}; correct it")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One suite. ``oracles`` are estimators held against their oracles, as ``influx verify`` does; all if ["all"]."""

    name: str
    summary: str
    protocol: str  # hash of everything the file says; results of another protocol are not compared
    problems: Mapping[str, Trials]
    oracles: Sequence[str]
    growth: Sequence[Growth]
    split: Sequence[Split] = ()


def suite_names() -> list[str]:
    """Suites in alphabetical order."""
    return choices_of(GROUP)


def load(name: str) -> Suite:
    """One suite, checked.

    Raises:
        ConfigError: there is no such suite, or its file says something unknown.
    """
    known = suite_names()
    if name not in known:
        raise ConfigError(f"--suite {name} does not exist{did_you_mean(name, known)}; choose one of {', '.join(known)}")
    return read(name, load_choice(GROUP, name))


def read(name: str, values: Mapping[str, Any]) -> Suite:
    """The suite that the plain values of a file describe.

    Raises:
        ConfigError: a key is unknown or missing, or a direction is none.
    """
    where = f"bench/{name}.yaml"
    _check(values, {"summary", "problems", "oracles", "growth", "split"}, {"summary"}, where)
    problems = {str(key): _trials(node, f"{where}: {key}") for key, node in (values.get("problems") or {}).items()}
    growth = [_made(Growth, node, f"{where}: growth") for node in values.get("growth") or []]
    return Suite(
        name=name,
        summary=str(values["summary"]),
        protocol=content_hash(values),
        problems=problems,
        oracles=list(values.get("oracles") or []),
        growth=growth,
        split=[_made(Split, node, f"{where}: split") for node in values.get("split") or []],
    )


def _trials(node: Mapping[str, Any], where: str) -> Trials:
    plain = dict(node)
    plain["orders"] = [_made(Order, order, where) for order in plain.get("orders") or []]
    plain["estimators"] = {str(k): dict(v or {}) for k, v in (plain.get("estimators") or {}).items()}
    trials: Trials = _made(Trials, plain, where)
    for metric, better in trials.values.items():
        if better not in get_args(Better):
            raise ConfigError(
                f"{where}: {metric} must be one of {', '.join(get_args(Better))}, got {better!r}; correct it"
            )
    return trials


def _made(cls: type, node: Mapping[str, Any], where: str) -> Any:
    known = cls.__dataclass_fields__  # type: ignore[attr-defined]
    _check(node, set(known), set(), where)
    try:
        return cls(**node)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}; complete it") from error


def _check(node: Mapping[str, Any], known: set[str], needed: set[str], where: str) -> None:
    for key in node:
        if key not in known:
            raise ConfigError(
                f"{where}: {key} is unknown{did_you_mean(str(key), known)}; known: {', '.join(sorted(known))}"
            )
    for key in sorted(needed - set(node)):
        raise ConfigError(f"{where}: {key} must be given; add it")
