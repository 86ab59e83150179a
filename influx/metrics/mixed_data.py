"""Are foreign instances explained by foreign ones?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from influx.influence import Influence
from influx.metrics.flagged import flagged_rows, names
from influx.metrics.statistics import check_resamples
from influx.metrics.tidy import sentences, tidy, unavailable
from influx.needs import Need
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class MixedData:
    """For foreign test instances, do foreign training instances rank before the others of their label and all others?

    Measures: per foreign test instance, average precision (``mixed_auprc``) and AUROC (``mixed_auroc``) of the foreign
        training instances among all, ranked by influence; then the mean over test instances.
    Not applicable: no corruption=mixed, or no such test instance.
    Intervals: 95% percentile bootstrap over these test instances.
    Cost: q·n·log n for q test instances asked about.
    Source: Hammoudeh and Lowd 2022, arXiv:2201.10055, section 3.

    Attributes:
        correct_only: ask only about foreign test instances that are predicted as their label.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    correct_only: bool = True
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.mixed_data.n_boot", self.n_boot)

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Two rows: ``mixed_auprc`` and ``mixed_auroc``."""
        data = run.problem.data
        if "foreign" not in data.flags or "foreign" not in data.test_flags:
            reason = "no training instance is foreign; set corruption=mixed"
            return tidy(unavailable(names("mixed"), "not applicable", reason))
        foreign, asked = (np.asarray(flags["foreign"]).astype(bool) for flags in (data.flags, data.test_flags))
        kind = "foreign"
        if self.correct_only:
            asked = asked & (run.outcomes(run.test).prediction == run.test.y)
            kind = "foreign and predicted as labelled"
        protocol = sentences(
            f"{int(asked.sum())} of {len(asked)} test instances: {kind}",
            f"{int(foreign.sum())} foreign training instances",
        )
        if not asked.any():
            reason = f"no test instance is {kind}"
            return tidy(unavailable(names("mixed"), "not applicable", reason, protocol))
        values = np.asarray(influence.values[:, asked])
        flags = np.broadcast_to(foreign[:, None], values.shape)
        computed = influence.computed
        return tidy(
            flagged_rows("mixed", values, flags, computed=computed, run=run, n_boot=self.n_boot, protocol=protocol)
        )
