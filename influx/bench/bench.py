"""Run suites: all their problems, oracles and slopes, cold, in a folder that goes away afterwards."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from influx import interrupts, progress
from influx.bench import growth, orders, split
from influx.bench.clock import LONG, Kernel, Rounds
from influx.bench.gates import SLOWER, larger, slower
from influx.bench.machine import differences, machine
from influx.bench.measures import Check, Entry, Results
from influx.bench.suites import Suite, Trials
from influx.bench.trial import Problem, Suspect, entry_of, estimators, job_of, timed, tried
from influx.config import choices_of
from influx.errors import UserError
from influx.influence import Influence
from influx.pipeline import threads
from influx.verification import verify


def run(suites: Sequence[Suite], baseline: Results | None = None, anew: bool = False) -> Results:
    """Everything that the suites declare. Where a baseline is from this machine, what looks too slow is timed again.

    For a baseline made ``anew`` all short estimates are: one disturbed there would hide what later gets slower.

    Raises:
        UserError: a suite describes what cannot be run.
        Interrupted: a signal asked to stop.
    """
    results = Results(machine=machine())
    comparable = baseline is not None and not differences(baseline.machine, results.machine)

    def suspect(key: str, found: Rounds[Influence]) -> bool:
        if anew:
            return found.spent < LONG
        before = baseline.entries.get(key) if comparable and baseline is not None else None
        if before is None or before.error:
            return False
        return slower(before, found.processor, found.kernel_time) >= SLOWER or larger(before, found.memory)

    with interrupts.handled(), threads(1):
        kernel = Kernel()
        kernel()  # the first one loads libraries
        for suite in suites:
            start = time.perf_counter()
            for problem, trials in suite.problems.items():
                _trial(results, f"{suite.name}/{problem}", trials, kernel, suspect)
            results.checks += _oracles(suite)
            results.checks += _growth(suite, kernel)
            _split(results, suite, kernel, suspect)
            results.suites[suite.name] = {"protocol": suite.protocol, "seconds": time.perf_counter() - start}
    return results


def _trial(results: Results, where: str, trials: Trials, kernel: Kernel, suspect: Suspect) -> None:
    with tempfile.TemporaryDirectory(prefix="influx-bench-") as folder:
        job = tried(partial(job_of, list(trials.settings), Path(folder)), UserError)
        problem = job if isinstance(job, str) else tried(partial(Problem, job, kernel))
        if isinstance(problem, str):
            results.checks.append(_stopped(where, problem))
            return
        found = dict(estimators(trials, problem.job))
        stopped = {name: one for name, one in found.items() if isinstance(one, Entry)}
        results.entries |= {f"{where}/{name}": entry for name, entry in stopped.items()}
        chosen = {name: one for name, one in found.items() if not isinstance(one, Entry | str)}
        rounds: dict[str, Rounds[Influence]] = {}
        with progress.task(where, len(chosen)) as done:
            for name, estimator in chosen.items():
                key = f"{where}/{name}"
                results.entries[key], rounds[key] = entry_of(problem, key, estimator, trials, suspect)
                done(1)
        for key in (key for key in rounds if not results.entries[key].error):  # what was slow may have been disturbed
            error = tried(partial(rounds[key].more, partial(suspect, key)))
            results.entries[key] = Entry(error=error) if error else timed(results.entries[key], rounds[key])
    measured = {name: results.entries.get(f"{where}/{name}", Entry(error=str(one))) for name, one in found.items()}
    results.checks += orders.checks(where, trials, measured)


def _oracles(suite: Suite) -> Iterator[Check]:
    names = choices_of("estimator") if list(suite.oracles) == ["all"] else suite.oracles
    with progress.task(f"{suite.name}/oracles", len(names)) as done:
        for name in names:
            interrupts.check()
            where = f"{suite.name}/oracles/{name}"
            found = tried(partial(verify, name))
            if isinstance(found, str):
                yield _stopped(where, found)
                found = []
            for check in found:
                message = f"{check.oracle}: error {check.error:.3g}, {check.bound:.3g} allowed"
                yield Check(where=where, kind="quality", passed=bool(check.passed), message=message)
            done(1)


def _growth(suite: Suite, kernel: Kernel) -> Iterator[Check]:
    with progress.task(f"{suite.name}/growth", len(suite.growth)) as done:
        for one in suite.growth:
            with tempfile.TemporaryDirectory(prefix="influx-bench-") as folder:
                where = f"{suite.name}/{one.vary}"
                found = tried(partial(growth.check, where, one, Path(folder), kernel))
                yield _stopped(f"{where}/{one.estimator}", found) if isinstance(found, str) else found
            done(1)


def _split(results: Results, suite: Suite, kernel: Kernel, suspect: Suspect) -> None:
    with progress.task(f"{suite.name}/split", len(suite.split)) as done:
        for one in suite.split:
            with tempfile.TemporaryDirectory(prefix="influx-bench-") as folder:
                entries, told = split.measure(suite.name, one, Path(folder), kernel, suspect)
            results.entries |= entries
            results.checks += told
            done(1)


def _stopped(where: str, error: str) -> Check:
    return Check(where=where, kind="run", passed=False, message=f"stopped with {error}")
