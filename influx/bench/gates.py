"""Results held against a baseline: what got worse, by how much, and whether that counts.

Quality is a hard gate: seeds are fixed, so numbers that move have a cause. Speed and memory are gated only on the
machine that the baseline is from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from influx.bench.fingerprint import change
from influx.bench.machine import differences
from influx.bench.measures import Check, Entry, Kind, Results, Value
from influx.errors import ConfigError

Level = Literal["fail", "warn", "note"]
SMALLEST = 0.01  # band of a metric, however narrow its interval
ELSEWHERE = 2.0  # factor of all bands where the baseline is from another machine
MOVED = 1e-4  # relative change of a whole matrix that same seeds on the same machine do not explain
MOVED_ELSEWHERE = 0.3
SLOWER, TOO_SLOW = 1.25, 1.5  # ratios of ratios that warn and fail
TOO_SLOW_AT_MOST = 1.65  # however crowded the machine was
TICK = 0.003  # processor seconds that are too little to count
LARGER, MB = 0.10, 5.0  # band of memory: a share and MB


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something to say about one entry; ``fail`` sets the exit code that belongs to its kind."""

    level: Level
    kind: Kind
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def on_their_own(results: Results) -> Iterator[Finding]:
    """What is wrong whatever was measured before."""
    for key, entry in results.entries.items():
        if entry.error:
            yield Finding(level="fail", kind="run", where=key, message=f"stopped with {entry.error}")
        elif not entry.steady:
            message = f"{entry.rounds} rounds with the same seed gave different numbers"
            yield Finding(level="fail", kind="quality", where=key, message=message)
    yield from (failure(check) for check in results.checks if not check.passed)


def failure(check: Check) -> Finding:
    """What a check that does not hold adds to the findings."""
    return Finding(level="fail", kind=check.kind, where=check.where, message=check.message)


def refuse_other(suites: Mapping[str, str], then: Results) -> None:
    """Compare only like with like; ``suites`` has the protocol of each suite.

    Raises:
        ConfigError: a suite is not in the baseline, or was another one then.
    """
    for name, protocol in suites.items():
        earlier = then.suites.get(name)
        if earlier is None:
            raise ConfigError(f"the baseline has no suite {name}; add it by --update-baseline")
        if earlier["protocol"] != protocol:
            raise ConfigError(
                f"suite {name} was another one when the baseline was made; make it anew by --update-baseline"
            )


def against(now: Results, then: Results) -> Iterator[Finding]:
    """What changed since the baseline, in the suites that ran."""
    elsewhere = differences(then.machine, now.machine)
    if elsewhere:
        message = (
            f"the baseline is from another machine ({'; '.join(elsewhere)}): bands of quality are {ELSEWHERE:g} times "
            "as wide, speed and memory are not compared"
        )
        yield Finding(level="note", kind="run", where="baseline", message=message)
    stopped = {check.where for check in now.checks if check.kind == "run" and not check.passed}
    for key, before in then.entries.items():
        if key.partition("/")[0] not in now.suites or key.rpartition("/")[0] in stopped:
            continue
        entry = now.entries.get(key)
        if before.error:
            message = f"stopped when the baseline was made ({before.error}): nothing to compare with"
            yield Finding(level="warn", kind="quality", where=key, message=message)
        elif entry is None:
            yield Finding(level="fail", kind="quality", where=key, message="is in the baseline and no longer measured")
        elif not entry.error:
            yield from _quality(key, before, entry, bool(elsewhere))
            if not elsewhere:
                yield from _cost(key, before, entry)
    for key in sorted(now.entries.keys() - then.entries.keys()):
        yield Finding(level="note", kind="quality", where=key, message="is new; --update-baseline adds it")


def uncompared(now: Results, then: Results) -> Iterator[Finding]:
    """Suites that measured something, none of which the baseline has."""
    for suite in now.suites:
        keys = [key for key in now.entries if key.partition("/")[0] == suite]
        if keys and not any(key in then.entries and not then.entries[key].error for key in keys):
            message = "the baseline has no number of this suite: nothing was compared; make it by --update-baseline"
            yield Finding(level="fail", kind="quality", where=suite, message=message)


def band(then: Value, elsewhere: bool = False) -> float:
    """By how much a metric may get worse: half its 95% interval, and more where the machine is another one."""
    half = (then.high - then.low) / 2
    return max(SMALLEST, half if math.isfinite(half) else 0.0) * (ELSEWHERE if elsewhere else 1.0)


def worse_by(then: Value, now: Value) -> float:
    """How much worse a metric became, negative where it became better."""
    if then.better == "one":
        return abs(now.value - 1) - abs(then.value - 1)
    return (then.value - now.value) * (1 if then.better == "higher" else -1)


def _quality(key: str, then: Entry, now: Entry, elsewhere: bool) -> Iterator[Finding]:
    for name, before in then.values.items():
        after = now.values.get(name)
        if after is None:
            yield Finding(level="fail", kind="quality", where=key, message=f"{name} is no longer measured")
        else:
            yield from _metric(key, name, before, after, elsewhere)
    for name in dict.fromkeys([*then.prints, *now.prints]):
        yield from _moved(key, name, then.prints.get(name, ()), now.prints.get(name, ()), elsewhere)


def _moved(key: str, name: str, then: Sequence[float], now: Sequence[float], elsewhere: bool) -> Iterator[Finding]:
    allowed = MOVED_ELSEWHERE if elsewhere else MOVED
    what = "the numbers" if name == "values" else name
    if not then or not now:
        message = f"{what} {'came new' if now else 'got lost'}"
    elif not (moved := change(then, now)) <= allowed:
        far = f"by about {100 * moved:.3g}%" if math.isfinite(moved) else "in shape or in which are finite"
        message = f"{what} moved {far} ({100 * allowed:g}% allowed)"
    else:
        return
    message += "; if that is meant, --update-baseline accepts it"
    yield Finding(level="fail", kind="quality", where=key, message=message)


def _metric(key: str, name: str, then: Value, now: Value, elsewhere: bool) -> Iterator[Finding]:
    if then.protocol != now.protocol:
        message = (
            f"{name} is measured otherwise ({now.protocol}; before: {then.protocol}); --update-baseline accepts it"
        )
        yield Finding(level="fail", kind="quality", where=key, message=message)
        return
    if then.status != now.status:
        level: Level = "fail" if then.status == "ok" else "note"
        yield Finding(level=level, kind="quality", where=key, message=f"{name} was {then.status}, is {now.status}")
        return
    if then.status != "ok":
        return
    worse, allowed = worse_by(then, now), band(then, elsewhere)
    if not worse <= allowed:  # True for NaN
        message = f"{name} was {then.value:.4g}, is {now.value:.4g}: worse by {worse:.3g}, {allowed:.2g} allowed"
        yield Finding(level="fail", kind="quality", where=key, message=message)
    elif -worse > allowed:
        message = f"{name} was {then.value:.4g}, is {now.value:.4g}: better; --update-baseline keeps it"
        yield Finding(level="note", kind="quality", where=key, message=message)


def slower(then: Entry, processor: float, kernel: float) -> float:
    """How many times as much time as in the baseline; 1 where the difference is too small to measure."""
    surplus = processor - then.ratio * kernel
    return (processor / kernel) / then.ratio if surplus > TICK else 1.0


def too_slow(then: Entry, now: Entry) -> float:
    """The factor that fails: more where the kernel itself scattered, yet less than a doubling."""
    return min(TOO_SLOW * max(then.noise, now.noise), TOO_SLOW_AT_MOST)


def larger(then: Entry, memory: float) -> bool:
    """Whether an estimate takes more memory than the band allows; False where nobody could measure."""
    return memory > then.memory * (1 + LARGER) + MB


def _cost(key: str, then: Entry, now: Entry) -> Iterator[Finding]:
    times = slower(then, now.processor, now.kernel)
    if times >= SLOWER:
        limit = too_slow(then, now)
        level: Level = "fail" if times >= limit else "warn"
        message = (
            f"{times:.2f} times as slow: {now.ratio:.3g} kernels, was {then.ratio:.3g} "
            f"(warning from {SLOWER:g}, failure from {limit:.2f}, best of {now.rounds})"
        )
        yield Finding(level=level, kind="speed", where=key, message=message)
    if larger(then, now.memory):
        message = f"takes {now.memory:.1f} MB, was {then.memory:.1f} ({LARGER:.0%} + {MB:g} MB more allowed)"
        yield Finding(level="fail", kind="memory", where=key, message=message)


def exit_code(findings: Sequence[Finding]) -> int:
    """1 when something stopped, else 3 for quality, else 4 for speed or memory, else 0."""
    kinds = {finding.kind for finding in findings if finding.level == "fail"}
    for kind, code in (("run", 1), ("quality", 3), ("speed", 4), ("memory", 4)):
        if kind in kinds:
            return code
    return 0
