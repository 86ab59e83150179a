"""What does an estimate take: once, for each test instance, in memory and on disk?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx import interrupts, progress
from influx.errors import ConfigError, NumericalError, UserError
from influx.influence import Influence
from influx.metrics.statistics import FloatArray, check_resamples, interval, resample
from influx.metrics.tidy import Measured, Status, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run
from influx.timed import Asked, bytes_of, only_about_all, place, saved_by_estimate

if TYPE_CHECKING:
    import pandas as pd

NAMES = FULL, BUILD, QUERY, PEAK, DISK = (
    "runtime_full_seconds",
    "runtime_build_seconds",
    "runtime_query_ms",
    "runtime_peak_mb",
    "runtime_disk_mb",
)
FEW_TESTS = "time per test instance needs at least 2 of them, there is 1; raise dataset.n_test"
COUNTED = (
    "files of what was trained that the estimate read (models, optimizer states, trajectories), blocks of retrained "
    "models with those it asked for, projected gradients and traces stored beside the problem, and the files that the "
    "run wrote of this estimate; each once, MB of 10^6 bytes"
)


@dataclass(frozen=True, kw_only=True)
class _Times:
    """Seconds of estimates on all test instances and on ``few`` of them, each ``(repeats,)``; files of the former.

    ``alone`` says why nothing was asked about fewer than all.
    """

    many: FloatArray
    fewer: FloatArray
    m: int
    few: int
    files: frozenset[Path]
    alone: str = ""

    @property
    def slopes(self) -> FloatArray:
        """``(repeats,)`` seconds of one more test instance."""
        return (self.many - self.fewer) / (self.m - self.few)

    @property
    def told(self) -> str:
        """Both medians in words."""
        return f"median of {self.few}: {np.median(self.fewer):.4g} s, of {self.m}: {np.median(self.many):.4g} s"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Seconds, memory and disk of one estimate on this machine, the seconds parted into build and query.

    Measures: ``full_seconds``: what the run's own estimate took. ``query_ms``: what one more test instance adds, in
        milliseconds, (t(m) - t(k)) / (m - k), where t(m) is the time of an estimate on all m test instances and t(k) on
        k = ``part`` · m drawn ones; median over ``repeats`` in which both are asked in turn, after a first one on the k
        that does not count. ``build_seconds``: the rest of ``full_seconds``, without m such queries. Gradients
        that lie on disk are read when it is asked again, so that making them is build, as is what a process does once.
        ``peak_mb``: largest resident memory of the whole process during the run's own estimate, libraries and data
        included. ``disk_mb``: what the estimate rests on and writes. All are about this machine, and change from run to
        run.
    Not applicable: no record of what the own estimate took. ``full`` and ``build`` where it read projected gradients or
        traces that were stored before it began: a fresh folder of outputs is needed. ``build`` and ``query`` with a
        single test instance; for estimators that retrain, since their bank's trainings and evaluations cannot be told
        apart; for those that record all test instances along training (``simfluence``). ``build`` where workers of an
        executor made the own estimate, since it is asked again in this process.
    Degenerate: ``query`` where time does not grow with test instances beyond its noise (the interval reaches 0), and
        ``build`` where queries alone take as long as the own estimate; the note gives the largest value they may have.
    Intervals: 95% percentile bootstrap of the median over repeats; none with one repeat. The own estimate is one.
    Cost: 1 + 2 ``repeats`` estimates, of which 1 + ``repeats`` are on k test instances; one where build and query are
        not applicable to the estimator.
    Source: survey, Table 1: full cost, incremental cost, storage.

    Attributes:
        part: k as a share of the test instances, between 0 and 1.
        repeats: pairs of estimates.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    part: float = 0.25
    repeats: int = 5
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.runtime.n_boot", self.n_boot)
        if self.repeats < 1:
            raise ConfigError(f"metric.runtime.repeats must be at least 1, got {self.repeats}; raise it")
        if not 0 < self.part < 1:
            raise ConfigError(f"metric.runtime.part must be between 0 and 1, got {self.part}; 0.25 is usual")

    def asks(self, m: int) -> Mapping[int, int]:
        """How often the estimator is asked about how many of ``m`` test instances."""
        return {m: 1} if m < 2 else {m: self.repeats, self._few(m): self.repeats + 1}

    def plan(self, prospect: Prospect) -> Work:
        """Resamples alone; the estimates are counted beside it (``asks``)."""
        return Work(numbers=3.0 * self.n_boot * self.repeats, formula="")

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Five rows: the names in ``NAMES``."""
        n, m = len(run.train), len(run.test)
        sizes = f"{n} training and {m} test instances; {place(run.fitted)}"
        own = sentences("the run's own estimate, measured once", sizes)
        try:
            times = self._times(run, m)
        except UserError as error:  # NumericalError is one
            status: Status = "degenerate" if isinstance(error, NumericalError) else "not applicable"
            again = unavailable((BUILD, QUERY, DISK), status, f"asked again: {error}", sizes)
            return tidy(_in_order([self._full(run, own), self._peak(run, own), *again]))
        rows = [self._full(run, own), *self._split(run, times, sizes), self._peak(run, own), self._disk(run, times)]
        return tidy(_in_order(rows))

    def _few(self, m: int) -> int:
        return min(max(round(self.part * m), 1), m - 1)

    def _times(self, run: Run, m: int) -> _Times:
        """Ask about few and about all in turn; the first about few, which may load and make things, does not count."""
        every, few = np.arange(m), self._few(m)
        if alone := only_about_all(run.again.estimator) or (FEW_TESTS if m < 2 else ""):
            whole = self._ask(run, every)
            return _Times(many=np.array([whole.seconds]), fewer=np.zeros(1), m=m, few=0, files=whole.files, alone=alone)
        drawn = np.sort(run.drawn("runtime").choice(m, few, replace=False))
        many, fewer, files = [], [], frozenset[Path]()
        with progress.task("timing estimates", 2 * self.repeats + 1) as done:
            self._ask(run, drawn)
            done(1)
            for _ in range(self.repeats):
                fewer.append(self._ask(run, drawn).seconds)
                done(1)
                whole = self._ask(run, every)
                many.append(whole.seconds)
                files |= whole.files
                done(1)
        return _Times(many=np.array(many), fewer=np.array(fewer), m=m, few=few, files=files)

    def _ask(self, run: Run, tests: NDArray[np.int64]) -> Asked:
        interrupts.check()
        return run.again.about(tests)

    def _full(self, run: Run, protocol: str) -> Measured:
        seconds = _recorded(run, "seconds")
        if seconds is None:
            return unavailable((FULL,), "not applicable", "the time of the run's own estimate is not recorded")[0]
        if stored := _stored_before(run):
            return unavailable((FULL,), "not applicable", stored, protocol)[0]
        note = sentences(_read_from_bank(run), _not_told(run))
        return Measured(metric=FULL, value=seconds, n=1, protocol=_about_n(protocol), note=note)

    def _peak(self, run: Run, protocol: str) -> Measured:
        peak, protocol = _recorded(run, "peak_mb"), sentences("whole process, libraries and data included", protocol)
        if peak is None:
            return unavailable((PEAK,), "not applicable", "the memory of the run's own estimate is not recorded")[0]
        return Measured(metric=PEAK, value=peak, n=1, protocol=_about_n(protocol))

    def _disk(self, run: Run, times: _Times) -> Measured:
        saved = saved_by_estimate(run.again.job) if run.again.look else []
        size = bytes_of([*times.files, *saved])
        note = "" if saved else "the run keeps no files of its influence"
        protocol = sentences(COUNTED, f"{len(run.train)} training and {len(run.test)} test instances")
        if not size:
            return unavailable((DISK,), "not applicable", "it reads no file, and " + note, protocol)[0]
        return Measured(metric=DISK, value=size / 1e6, n=1, protocol=_about_n(protocol), note=note)

    def _split(self, run: Run, times: _Times, sizes: str) -> Iterator[Measured]:
        if times.alone:
            yield from unavailable((BUILD, QUERY), "not applicable", times.alone, sizes)
            return
        slope, (low, high) = float(np.median(times.slopes)), self._interval(run, times.slopes)
        protocol = sentences(
            f"{sizes}; asked again about {times.few} and {times.m} test instances in turn, median over repeats",
            f"n: repeats; 95% CI: bootstrap over repeats x{self.n_boot}",
        )
        known = slope > 0 and not low <= 0  # no interval is no reason
        alone = "" if self.repeats > 1 else "no interval from one repeat"
        if known:
            yield Measured(
                metric=QUERY,
                value=1e3 * slope,
                ci_low=1e3 * low,
                ci_high=1e3 * high,
                n=self.repeats,
                protocol=protocol,
                note=sentences(times.told, alone),
            )
        else:
            most = f", at most {1e3 * max(high, 0.0):.3g} ms each" if np.isfinite(high) else ""
            note = sentences(f"time does not grow with test instances beyond its noise{most}", times.told, alone)
            yield unavailable((QUERY,), "degenerate", note, protocol)[0]
        yield self._build(run, times, (slope if known else 0.0, low, high), protocol)

    def _build(self, run: Run, times: _Times, slope: tuple[float, float, float], protocol: str) -> Measured:
        """The own estimate's time without ``slope`` (with its interval) for every test instance."""
        seconds, executor = _recorded(run, "seconds"), run.again.cost.get("executor", "local")
        note = "the time of the run's own estimate is not recorded" if seconds is None else _stored_before(run)
        if executor != "local":
            note = f"executor={executor} did the run's own estimate, which was asked again in this process"
        if seconds is None or note:
            return unavailable((BUILD,), "not applicable", note, protocol)[0]
        value, high, low = (seconds - times.m * each for each in slope)
        if value <= 0:
            most = f", at most {max(high, 0.0):.3g} s" if np.isfinite(high) else ""
            note = f"queries alone take as long as the own estimate, {seconds:.3g} s: build is below noise{most}"
            return unavailable((BUILD,), "degenerate", sentences(note, times.told), protocol)[0]
        return Measured(
            metric=BUILD,
            value=value,
            ci_low=max(low, 0.0) if np.isfinite(low) else low,
            ci_high=min(high, seconds) if np.isfinite(high) else high,
            n=self.repeats,
            protocol=protocol,
            note=sentences("" if slope[0] else "no time per test instance was told from noise", _not_told(run)),
        )

    def _interval(self, run: Run, slopes: FloatArray) -> tuple[float, float]:
        if len(slopes) < 2:
            return np.nan, np.nan
        return interval(np.median(slopes[resample(run.rng("repeats"), len(slopes), self.n_boot)], axis=1))


def _in_order(rows: list[Measured]) -> list[Measured]:
    return sorted(rows, key=lambda row: NAMES.index(row.metric))


def _about_n(protocol: str) -> str:
    return sentences(protocol, "n: estimates")


def _recorded(run: Run, what: str) -> float | None:
    """A number of the own estimate's cost; None where it is not there."""
    found: Any = run.again.cost.get(what)
    usable = isinstance(found, int | float) and not isinstance(found, bool) and np.isfinite(found)
    return float(found) if usable else None


def _read_from_bank(run: Run) -> str:
    """What the own estimate's time leaves out."""
    asked, made = (_recorded(run, what) or 0.0 for what in ("trainings", "trained_now"))
    if asked <= made:
        return ""
    return f"without {asked - made:.0f} of {asked:.0f} trainings, which the run read from the bank"


def _stored_before(run: Run) -> str:
    """Why the own estimate's time is not all that it takes, or an empty string."""
    count = int(_recorded(run, "stored_before") or 0)
    if not count:
        return ""
    return (
        f"the run's own estimate read {count} file{'s' if count > 1 else ''} of projected gradients or traces that "
        "were stored before, and its time is without making them; set paths.outputs to a fresh folder"
    )


def _not_told(run: Run) -> str:
    known = _recorded(run, "stored_before") is not None
    return "" if known else "whether it read projected gradients or traces stored before is not recorded"
