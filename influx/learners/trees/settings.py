"""Range checks of tree settings; each failure names the setting, as in ``model.max_depth``."""

from __future__ import annotations

import math
from typing import Any

from influx.errors import ConfigError


def check_ranges(learner: Any, **lowest: float) -> None:
    """Refuse numbers below the given ones; null passes.

    Raises:
        ConfigError: naming the setting.
    """
    for name, low in lowest.items():
        value = getattr(learner, name)
        if value is not None and not low <= value < math.inf:
            raise ConfigError(f"model.{name} must be at least {low:g}, got {value}; set model.{name}={low:g} or more")


def check_shares(learner: Any, *names: str) -> None:
    """Refuse numbers that are not above 0 and at most 1; names such as sqrt pass.

    Raises:
        ConfigError: naming the setting.
    """
    for name in names:
        value = getattr(learner, name)
        if value is not None and not isinstance(value, str) and not 0 < value <= 1:
            raise ConfigError(f"model.{name} must be above 0 and at most 1, got {value}; set model.{name}=1")


def check_rate(learner: Any) -> None:
    """Refuse a learning rate that is not positive.

    Raises:
        ConfigError: naming the setting.
    """
    if not 0 < learner.learning_rate < math.inf:
        raise ConfigError(
            f"model.learning_rate must be positive, got {learner.learning_rate}; set model.learning_rate=0.1"
        )
