"""An estimator's cost parted into what it takes once and what each further test instance adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from influx.bench.clock import MORE, Kernel, Rounds
from influx.bench.fingerprint import fingerprint
from influx.bench.growth import rounds_of
from influx.bench.measures import Entry
from influx.bench.suites import Split
from influx.bench.trial import arrays, timed, tried
from influx.influence import Influence

TESTS = 1000  # that the entry of queries is about
LEAST = 1e-4  # seconds; less cannot be told from nothing
Times = Rounds[Influence]


def measure(
    where: str, split: Split, outputs: Path, kernel: Kernel, suspect: Callable[[str, Times], bool]
) -> dict[str, Entry]:
    """Two entries: ``<where>/build/<estimator>``, and ``<where>/query/<estimator>`` for ``TESTS`` test instances.

    Both are measured again as long as ``suspect`` finds one of them too slow or large. What goes wrong is noted.
    """
    keys = [f"{where}/{part}/{split.estimator}" for part in ("build", "query")]
    found = tried(partial(_measured, keys, split, outputs, kernel, suspect))
    if isinstance(found, str):
        return {key: Entry(error=found) for key in keys}
    return {key: timed(_prints(times), times) for key, times in zip(keys, found, strict=True)}


def _measured(
    keys: Sequence[str], split: Split, outputs: Path, kernel: Kernel, suspect: Callable[[str, Times], bool]
) -> tuple[Times, Times]:
    both = [rounds_of(split.estimator, "dataset.n_test", m, split.settings, outputs, kernel) for m in split.tests]
    for one in both:
        one.go(lambda found: False)
    for _ in range(MORE):
        if not any(suspect(key, times) for key, times in zip(keys, parts(split.tests, *both), strict=True)):
            break
        for one in both:
            one.once()
    return parts(split.tests, *both)


def parts(tests: Sequence[int], few: Times, many: Times) -> tuple[Times, Times]:
    """Build and ``TESTS`` queries, from the fastest estimates on few and on many test instances.

    Memory is that of the estimate on few and of that on many; neither time is less than ``LEAST``.
    """
    each = (many.processor - few.processor) / (tests[1] - tests[0])
    wall = (many.wall - few.wall) / (tests[1] - tests[0])
    build = replace(
        few,
        processor=max(few.processor - tests[0] * max(each, 0.0), LEAST),
        wall=max(few.wall - tests[0] * max(wall, 0.0), LEAST),
    )
    return build, replace(many, processor=max(TESTS * each, LEAST), wall=max(TESTS * wall, LEAST))


def _prints(times: Times) -> Entry:
    return Entry(prints={what: fingerprint(array) for what, array in arrays(times.first).items()})
