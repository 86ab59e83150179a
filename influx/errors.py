"""Everything influx raises on purpose.

Tree::

    InfluxError                     exit 1   something inside influx is wrong
    ├── UserError                   exit 2   the request cannot be met; the message says what to change
    │   ├── ConfigError                      a setting is unknown, of the wrong type or out of range
    │   ├── DataError                        a dataset is missing, damaged or unsuitable
    │   ├── IncompatibleError                dataset, model, estimator or metric do not fit together
    │   └── NumericalError                   NaN, infinity or a singular system, with the place it appeared
    ├── UndeclaredNeed              exit 1   an estimator used an engine that it does not declare
    ├── Busy                        exit 75  another process is working on the same run
    └── Interrupted                 exit 130 or 143; what was finished is saved, the same command goes on

Messages read ``<what was expected>, <what came>; <what to do>`` and name the setting.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class InfluxError(Exception):
    """Base class; ``exit_code`` is what the command line returns."""

    exit_code = 1


class UserError(InfluxError):
    """The request cannot be met as it stands."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(UserError):
    """A dataset or a file is missing, damaged or unsuitable."""


class IncompatibleError(UserError):
    """Two choices that cannot work together."""


class NumericalError(UserError):
    """A computation left the finite numbers."""


class UndeclaredNeed(InfluxError):
    """An estimator or metric used an engine that its ``requires`` does not list."""


class Busy(InfluxError):
    """Another process holds the run."""

    exit_code = 75


class Interrupted(InfluxError):
    """A signal asked for an orderly stop."""

    def __init__(self, signum: int) -> None:
        name = signal.Signals(signum).name
        super().__init__(f"stopped by {name}; finished work is saved, run the same command to continue")
        self.exit_code = 128 + signum


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """``" (did you mean 'tracincp'?)"`` for the closest choice, or an empty string."""
    plain = {c.replace("_", "").replace("-", "").lower(): c for c in choices}
    wanted = name.replace("_", "").replace("-", "").lower()
    close = [wanted] if wanted in plain else difflib.get_close_matches(wanted, plain, n=1, cutoff=0.6)
    return f" (did you mean {plain[close[0]]!r}?)" if close else ""
