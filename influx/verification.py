"""``influx verify``: estimators against independent, slow computations on toy problems."""

from __future__ import annotations

import importlib
import importlib.util
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from influx import interrupts, progress
from influx.config import choices_of, load_choice
from influx.errors import ConfigError, did_you_mean
from influx.oracles.comparison import Oracle


@dataclass(frozen=True, kw_only=True)
class Check:
    """One estimator against one oracle; ``error`` is what was measured, ``bound`` what is allowed."""

    name: str
    oracle: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound; NaN is not."""
        return self.error <= self.bound


def verify(*names: str) -> list[Check]:
    """Hold estimators (none named: all) against their oracles; an estimator without one fails.

    Raises:
        ConfigError: there is no such estimator.
    """
    known = choices_of("estimator")
    for name in names:
        if name not in known:
            raise ConfigError(
                f"estimator={name} does not exist{did_you_mean(name, known)}; choose one of {', '.join(known)}"
            )
    checks = []
    wanted = list(dict.fromkeys(names)) or known
    with tempfile.TemporaryDirectory(prefix="influx-verify-") as folder, progress.task("verify", len(wanted)) as done:
        for name in wanted:
            checks += list(_checks(name, Path(folder)))
            done(1)
    return checks


def _checks(name: str, folder: Path) -> Iterator[Check]:
    oracle = oracle_of(name)
    if oracle is None:
        yield Check(name=name, oracle="no oracle", error=math.inf, bound=0.0)
        return
    for found in oracle(folder):
        interrupts.check()
        yield Check(name=name, oracle=found.oracle, error=found.error, bound=found.bound)


def oracle_of(name: str) -> Oracle | None:
    """The oracle of an estimator, listed in ``ORACLES`` of ``influx.oracles.<family>``; None without one."""
    parts = str(load_choice("estimator", name)["_target_"]).split(".")
    module = f"influx.oracles.{parts[2]}"  # influx.estimators.<family>.<module>.<class>
    if importlib.util.find_spec(module) is None:
        return None
    found: Oracle | None = importlib.import_module(module).ORACLES.get(name)
    return found
