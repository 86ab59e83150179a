"""What the sign of a run's values says: who lowers the test loss, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from influx.reporting import text

if TYPE_CHECKING:
    from influx.reporting.record import Role, RunRecord

SIGN = "positive influence = proponent: the test loss would be higher without it"
UNSIGNED = "none: values are associations, which say nothing of who lowers or raises the test loss"
ROLES: Mapping[Role, str] = {"proponent": "proponent", "opponent": "opponent"}
ENDS: Mapping[Role, str] = {"proponent": "largest", "opponent": "smallest"}


def is_unsigned(record: RunRecord) -> bool:
    """Whether the estimator's values have no sign, by the manifest; earlier versions had it in the settings alone."""
    settings = record.config.get("estimator")
    own = settings.get("sign") if isinstance(settings, Mapping) else None
    return own == "unsigned" or str(record.manifest.get("sign", "")).startswith("unsigned")


def roles(record: RunRecord) -> Mapping[Role, str]:
    """What the two ends of a ranking are called."""
    return ENDS if is_unsigned(record) else ROLES


def sign_line(record: RunRecord, estimators: Iterable[str]) -> str:
    """What a sign says, and of whose values it does not."""
    if is_unsigned(record):
        return UNSIGNED
    listed = record.manifest.get("unsigned")
    others = [text.clean(name) for name in estimators if isinstance(listed, list) and name in listed]
    return f"{SIGN}; of {', '.join(others)} {UNSIGNED}" if others else SIGN
