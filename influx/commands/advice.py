"""Which estimators fit a problem and a budget: every one planned, and placed by what was measured or is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from influx.commands.advice_facts import Facts, facts_of
from influx.commands.advice_figures import CHANCE, REGIMES, Figure, Goal, figure
from influx.commands.advice_past import Measurement, measurements
from influx.commands.advice_rules import Candidate, Rule, rules_for
from influx.commands.outlook import Outlook
from influx.config import Settings, choices_of, load_choice
from influx.errors import UserError
from influx.instantiate import build
from influx.job import Job, assemble, run_name
from influx.run import refuse_missing

if TYPE_CHECKING:
    from influx.rates import Machine

VARIANTS: Mapping[str, Mapping[str, Any]] = {  # settings under which an estimator is another method
    "hydra:removal": {"linearize_at": "loo", "test_loss": "moved"},
    "sgd_influence:last": {"epochs": 1},
}
# expected of an estimator that nobody has measured, and what one step of a rule's effect adds; AUROC begins at 0.5
UNKNOWN: Mapping[Goal, tuple[float, float]] = {"mislabel": (0.8, 0.04)}
OTHERWISE = (0.3, 0.1)
PLAIN = {"estimator": "random", "perspective": "pointwise", "truth": "none"}
ELSEWHERE = ("retraining", "shapley", "neighbours", "baseline")  # families that hardly depend on how a net is trained
DEFINED = ("retraining", "response")  # rules of estimators that compute what is asked for
VERDICTS = ("fits", "too dear", "cannot serve")


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One estimator, judged.

    Attributes:
        verdict: one of ``VERDICTS``.
        expected: of the goal's measure; where it comes from is in ``basis`` (runs, definition, docs or rules).
        seconds: of training, if there is none yet, and the estimate.
        measured_seconds: median over runs of the problem; NaN where there is none.
        why: one clause.
        sources: of the clause and of ``expected``.
        overrides: what chooses it on the command line, with the settings that belong to ``expected``.
    """

    name: str
    settings: Mapping[str, Any]
    verdict: str
    why: str
    expected: float = math.nan
    basis: str = ""
    seconds: float = math.nan
    measured_seconds: float = math.nan
    memory_mb: float = math.nan
    trainings: int = 0
    state: str = ""
    needs: tuple[str, ...] = ()
    card: Mapping[str, str] | None = None
    sources: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[int, float, float]:
        """Smaller is better."""
        found = self.expected if math.isfinite(self.expected) else -math.inf
        return VERDICTS.index(self.verdict), -found, self.seconds


def overrides_of(name: str, tuned: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """What chooses an estimator, with the settings of its variant and others."""
    more = [f"estimator.{key}={value}" for key, value in (dict(VARIANTS.get(name, {})) | dict(tuned or {})).items()]
    return (f"estimator={name.partition(':')[0]}", *more)


@dataclass(frozen=True, kw_only=True)
class Adviser:
    """Judges every estimator on one problem.

    ``settings`` are those of the user; ``budget`` in seconds and ``memory_mb`` limit training and estimate.
    """

    settings: Settings
    goal: Goal
    budget: float
    memory_mb: float
    machine: Machine | None = None

    @cached_property
    def job(self) -> Job:
        """The problem, with an estimator that needs nothing: no other part may refuse it."""
        plain = {group: load_choice(group, name) for group, name in PLAIN.items()}
        values = dict(self.settings.values) | plain | {"metric": {}, "baselines": [], "name": None}
        return assemble(replace(self.settings, values=values, choices=dict(self.settings.choices) | PLAIN), sizes=True)

    @cached_property
    def facts(self) -> Facts:
        """What decides which assumptions hold."""
        return facts_of(self.job.problem)

    @cached_property
    def outlook(self) -> Outlook:
        """Speeds, measured once for all estimators."""
        return Outlook(self.job, self.machine)

    @cached_property
    def past(self) -> list[Measurement]:
        """What finished runs have measured."""
        return measurements(self.job.outputs, self.job.problem.id, self.settings.values, self.goal)

    def all(self) -> list[Advice]:
        """Every estimator, best first."""
        names = choices_of("estimator", self.settings.config_dir)
        return sorted((self.advice(name) for name in [*names, *VARIANTS]), key=lambda advice: advice.order)

    def advice(self, name: str) -> Advice:
        """One estimator by its name, with the variant behind a colon."""
        base, trust = name.partition(":")[0], list(self.settings["trust"])
        plain = load_choice("estimator", base, self.settings.config_dir) | dict(VARIANTS.get(name, {}))
        problem, node = self.job.problem, plain
        try:
            estimator = build(plain, "estimator", trust)
            refuse_missing(estimator.requires, problem.learner.provides, base, self.settings.choices["model"])
            perspective = build(self.settings["perspective"], "perspective", trust)
            perspective.check(estimator, base, problem)
            tuned = self._tuned(Candidate(name=name, estimator=estimator), plain)
            node = plain | dict(tuned)
            estimator = build(node, "estimator", trust)
            job = replace(
                self.job,
                settings=self._settings_with(base, node),
                estimator=estimator,
                perspective=perspective,
                name=self._run_name(base, node),
            )
            rows = self._foreseen(job)
        except UserError as error:
            overrides = overrides_of(name)
            return Advice(
                name=name, settings=node, verdict="cannot serve", why=_clause(str(error)), overrides=overrides
            )
        judged = self._judged(Candidate(name=name, estimator=estimator), node, rows)
        return replace(judged, overrides=overrides_of(name, tuned))

    def _tuned(self, candidate: Candidate, plain: Mapping[str, Any]) -> Mapping[str, Any]:
        """Settings that the documented figure was measured with, unless runs have measured the plain ones."""
        found = self._figure(candidate)
        mine = (row for row in self.past if row.name == candidate.base and math.isfinite(row.value))
        return {} if found is None or any(self._fits(row, plain) for row in mine) else found.settings

    def _figure(self, candidate: Candidate) -> Figure | None:
        elsewhere = candidate.family in ELSEWHERE or self.goal in ("mislabel", "pbrf")
        return figure(candidate.name, self.goal, self.facts.regime, elsewhere)

    def _settings_with(self, base: str, node: Mapping[str, Any]) -> Settings:
        values = dict(self.settings.values) | {"estimator": dict(node)}
        return replace(self.settings, values=values, choices=dict(self.settings.choices) | {"estimator": base})

    def _run_name(self, base: str, node: Mapping[str, Any]) -> str:
        settings = self._settings_with(base, node)
        return run_name(replace(settings, values=dict(settings.values) | {"name": None}), self.job.problem)

    def _foreseen(self, job: Job) -> dict[str, dict[str, Any]]:
        """Rows of training and estimate."""
        outlook = Outlook(job, self.machine)
        shared = ("rates", "pace", "shape", "bank")  # measured and read once
        outlook.__dict__.update({part: getattr(self.outlook, part) for part in shared})
        return {row["stage"]: row for row in outlook.stages() if row["stage"] in ("train", "estimate")}

    def _judged(self, candidate: Candidate, node: Mapping[str, Any], rows: Mapping[str, dict[str, Any]]) -> Advice:
        rules = rules_for(candidate, self.facts, self.goal)
        mine = [row for row in self.past if row.name == candidate.base and self._fits(row, node)]
        expected, basis, pages = self._expected(candidate, mine, rules)
        seconds = sum(row["seconds"] for row in rows.values())
        memory = max(row["memory_mb"] or 0.0 for row in rows.values())
        limits = list(self._limits(seconds, memory))
        said = [sentence for _, sentence in rules]
        times = [row.seconds for row in mine if row.same and math.isfinite(row.seconds)]
        card = candidate.estimator.card
        return Advice(
            name=candidate.name,
            settings=node,
            verdict="too dear" if limits else "fits",
            why="; ".join([*limits, *said[:1]]) or f"assumes {card.assumptions.replace('none', 'nothing')}",
            expected=expected,
            basis=basis,
            seconds=seconds,
            measured_seconds=median(times) if times else math.nan,
            memory_mb=memory,
            trainings=_trainings(rows["estimate"]["work"]),
            state=rows["estimate"]["state"],
            needs=tuple(sorted(map(str, candidate.estimator.requires))),
            card={"family": card.family, "full": card.full, "assumptions": card.assumptions, "paper": card.paper},
            sources=(*pages, *(rule.source for rule, _ in rules)),
        )

    def _limits(self, seconds: float, memory: float) -> Iterator[str]:
        from influx.reporting.text import duration

        if seconds > self.budget:
            yield f"takes {duration(seconds)}, the budget is {duration(self.budget)}"
        if memory > self.memory_mb:
            yield f"holds {memory / 1000:.1f} GB, there are {self.memory_mb / 1000:.1f}"

    def _fits(self, row: Measurement, node: Mapping[str, Any]) -> bool:
        """Whether a run measured the estimator with these settings."""
        default = load_choice("estimator", row.name, self.settings.config_dir) if row.settings is None else row.settings
        return dict(default) == dict(node)

    def _expected(
        self, candidate: Candidate, mine: Sequence[Measurement], rules: Sequence[tuple[Rule, str]]
    ) -> tuple[float, str, tuple[str, ...]]:
        """A value, what it is based on and its sources: runs of the problem, of its kind, the documentation, rules."""
        for same, kind in ((True, "this problem"), (False, "its kind")):
            values = [row for row in mine if row.same is same and math.isfinite(row.value)]
            if values:
                count = f"{len(values)} run{'s' if len(values) > 1 else ''} of {kind}"
                return median(row.value for row in values), count, tuple(f"runs/{row.run}" for row in values)
        if any(rule.name in DEFINED for rule, _ in rules):
            return 1.0, "definition", ()
        found = self._figure(candidate)
        if found is not None:
            if found.page == CHANCE:
                return found.value, "definition", ()
            basis = "docs" if found.regime == self.facts.regime else "docs, other training"
            basis += ", rank correlation" if self.goal == "topk" else ""
            return found.value, basis, (f"{found.page} ({REGIMES[found.regime]})",)
        start, step = UNKNOWN.get(self.goal, OTHERWISE)
        return min(1.0, max(0.0, start + step * sum(rule.effect for rule, _ in rules))), "rules", ()


def _trainings(work: str) -> int:
    """Trainings to do, as a row of the plan says them: ``1,102 of 1,102 trainings, …``."""
    words = work.split()
    return int(words[0].replace(",", "")) if words[2:] and "trainings" in words[3] else 0


def _clause(message: str) -> str:
    """What was expected and what came, without what to do."""
    return message.partition(";")[0]


def memory_here() -> float:
    """MB that processes may hold here: of the machine, or of the group of processes if that has a limit."""
    import os

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(limits) / 1e6
