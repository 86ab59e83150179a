"""An estimator on few and on many test instances: what it takes once, and what each further one adds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from influx.bench.clock import LONG, MORE, ROUNDS, SHORT, Kernel, Rounds
from influx.bench.fingerprint import fingerprint
from influx.bench.growth import rounds_of
from influx.bench.measures import Check, Entry
from influx.bench.suites import Split
from influx.bench.trial import arrays, timed, tried
from influx.influence import Influence

Times = Rounds[Influence]
Suspect = Callable[[str, Times], bool]


def measure(
    where: str, split: Split, outputs: Path, kernel: Kernel, suspect: Suspect
) -> tuple[dict[str, Entry], list[Check]]:
    """Two entries, ``<where>/<m>_tests/<estimator>`` for both numbers m of test instances, and one check that holds.

    The speed of both is gated like that of other entries; what is told of build and query, differences of both, by
    nothing, and so is memory: how much a process grows depends on what the other estimate left free. Both are measured
    again as long as ``suspect`` finds one too slow. What goes wrong is noted, without a check.
    """
    keys = [f"{where}/{m}_tests/{split.estimator}" for m in split.tests]
    found = tried(partial(_measured, keys, split, outputs, kernel, suspect))
    if isinstance(found, str):
        return {key: Entry(error=found) for key in keys}, []
    told = Check(
        where=f"{where}/build_query/{split.estimator}", kind="speed", passed=True, message=parts(split, *found)
    )
    entries = {key: timed(_prints(times), times) for key, times in zip(keys, found, strict=True)}
    return {key: replace(entry, memory=math.nan) for key, entry in entries.items()}, [told]


def _measured(
    keys: Sequence[str], split: Split, outputs: Path, kernel: Kernel, suspect: Suspect
) -> tuple[Times, Times]:
    """Rounds in turn, so that both meet the same disturbances; as many as the shorter needs, few if long ones."""
    few, many = (rounds_of(split.estimator, "dataset.n_test", m, split.settings, outputs, kernel) for m in split.tests)
    both = (few, many)
    while not few.count or (many.spent < LONG and few.count < (ROUNDS if few.processor > SHORT else 3 * ROUNDS)):
        for one in both:
            one.once()
    for _ in range(2 * MORE):  # other estimates are measured again twice: at once, and at the end of their problem
        if not any(suspect(key, times) for key, times in zip(keys, both, strict=True)):
            break
        for one in both:
            one.once()
    return both


def parts(split: Split, few: Times, many: Times) -> str:
    """Build and query in words, from the line through the fastest estimates on few and on many test instances."""
    small, large = split.tests
    each = (many.processor - few.processor) / (large - small)
    build = few.processor - small * each
    told = f"build {build:.3g} s, query {1e3 * each:.3g} ms for each test instance"
    if each <= 0 or build <= 0:
        told = "build and query cannot be told from noise"
    return f"{told}; {small}: {few.processor:.3g} s, {large}: {many.processor:.3g} s (gated by nothing)"


def _prints(times: Times) -> Entry:
    return Entry(prints={what: fingerprint(array) for what, array in arrays(times.first).items()})
