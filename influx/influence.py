"""The one result type: influence of training instances (rows) on test instances (columns)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Scale = Literal["loss", "rank"]


@dataclass(frozen=True, kw_only=True)
class Influence:
    """``values[i, j] > 0``: training instance i helps test instance j, whose risk would rise without i.

    Attributes:
        values: ``(n_train, n_test)``; NaN where not computed.
        scale: ``loss`` when values estimate a change of risk in loss units, ``rank`` when only their order means
            something.
        stderr: standard error of ``values``, same shape, where the method has one.
        self_influence: ``(n_train,)`` influence of each training instance on itself (memorization), or None.
        self_influence_note: why ``self_influence`` is missing or must not be used to rank instances.
        replicates: one array like ``values`` per independent repetition (training seeds), for noise ceilings.
        tables: further results of a method (parameter shifts, group scores…), each a DataFrame.
        report: scalars worth showing: damping used, residuals, number of trainings…
    """

    values: NDArray[Any]
    scale: Scale = "loss"
    stderr: NDArray[Any] | None = None
    self_influence: NDArray[Any] | None = None
    self_influence_note: str = ""
    replicates: tuple[NDArray[Any], ...] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def computed(self) -> NDArray[np.bool_]:
        """``(n_train,)`` rows that hold values."""
        missing: NDArray[np.bool_] = np.isnan(self.values).all(axis=1)
        return ~missing
