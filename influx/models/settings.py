"""Range checks of model settings; each failure names the setting, as in ``model.width``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from influx.errors import ConfigError, did_you_mean


def is_count(value: Any) -> bool:
    """Whether ``value`` is an integer of at least 1 (``True`` is not)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_count(name: str, value: Any) -> None:
    """Refuse anything but an integer of at least 1.

    Raises:
        ConfigError: naming ``model.<name>``.
    """
    if not is_count(value):
        raise ConfigError(
            f"model.{name} must be an integer of at least 1, got {value!r}; set for example model.{name}=1"
        )


def check_counts(name: str, values: Any) -> None:
    """Refuse anything but a non-empty list of integers of at least 1.

    Raises:
        ConfigError: naming ``model.<name>``.
    """
    if not isinstance(values, (list, tuple)) or not values or not all(is_count(v) for v in values):
        raise ConfigError(
            f"model.{name} must be a list of integers of at least 1, got {values!r}; "
            f"set for example 'model.{name}=[32,64]'"
        )


def check_flag(name: str, value: Any) -> None:
    """Refuse anything but true or false.

    Raises:
        ConfigError: naming ``model.<name>``.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"model.{name} must be true or false, got {value!r}; set model.{name}=true or =false")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse a name that is not one of ``choices``.

    Raises:
        ConfigError: naming ``model.<name>``, the choices and the closest of them.
    """
    names = list(choices)
    if value not in names:
        raise ConfigError(
            f"model.{name} must be one of {', '.join(names)}, got {value!r}{did_you_mean(str(value), names)}; "
            f"set for example model.{name}={names[0]}"
        )


def check_positive(name: str, value: Any, zero: bool = False) -> None:
    """Refuse anything but a finite number above 0, or from 0 on where ``zero`` is allowed.

    Raises:
        ConfigError: naming ``model.<name>``.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        least = "of at least 0" if zero else "above 0"
        raise ConfigError(f"model.{name} must be a number {least}, got {value!r}; set for example model.{name}=1")


def check_fraction(name: str, value: Any) -> None:
    """Refuse anything outside [0, 1).

    Raises:
        ConfigError: naming ``model.<name>``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
        raise ConfigError(
            f"model.{name} must be a number from 0 to below 1, got {value!r}; set for example model.{name}=0.1"
        )
