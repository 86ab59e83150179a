"""Are the training instances found that taught a shortcut?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from influx.influence import Influence
from influx.metrics.flagged import LOW, flagged_rows, names
from influx.metrics.statistics import check_resamples
from influx.metrics.tidy import sentences, tidy, unavailable
from influx.needs import Need
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

MARKS = ("shortcut", "backdoor")  # flags of the corruptions that put one


@dataclass(frozen=True, kw_only=True)
class ShortcutDetection:
    """Detection of the training instances that carry a watermark or a trigger, for predictions that follow it.

    Measures: the test instances asked about carry the mark, are predicted as the class that goes with it and are of
        another. For each, training instances are ranked by influence, low first: what raises the loss of the true
        label speaks for the marked class. ``shortcut_auprc`` is the average precision, ``shortcut_auroc`` the AUROC of
        the marked ones, averaged over test instances.
    Not applicable: no corruption=shortcut or backdoor, or no such test instance; never a score of 0.
    Intervals: 95% percentile bootstrap over these test instances.
    Cost: q·n·log n for q test instances asked about.
    Source: Koh and Liang 2017, section 5.3; the choice of test instances is that of common toolkits.

    Attributes:
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.shortcut.n_boot", self.n_boot)

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Two rows: ``shortcut_auprc`` and ``shortcut_auroc``."""
        data = run.problem.data
        mark = next((mark for mark in MARKS if mark in data.flags and mark in data.test_flags), None)
        if mark is None:
            reason = "no training instance carries a mark; set corruption=shortcut or corruption=backdoor"
            return tidy(unavailable(names("shortcut"), "not applicable", reason))
        marked, carry = (np.asarray(flags[mark]).astype(bool) for flags in (data.flags, data.test_flags))
        target = int(run.train.y[marked][0])  # all marked instances have that label
        followed = run.outcomes(run.test).prediction == target
        asked = carry & followed & (run.test.y != target)
        protocol = sentences(
            f"{int(asked.sum())} of {len(asked)} test instances: with the mark, predicted as "
            f"{data.classes[target]!r}, of another class",
            f"{int(marked.sum())} marked training instances",
        )
        if not asked.any():
            reason = f"no test instance with the mark is predicted as {data.classes[target]!r} and of another class"
            if not carry.any():
                reason = "no test instance carries the mark; set corruption.test"
            return tidy(unavailable(names("shortcut"), "not applicable", reason, protocol))
        towards = -influence.values[:, asked]
        flags = np.broadcast_to(marked[:, None], towards.shape)
        rows = flagged_rows(
            "shortcut",
            towards,
            flags,
            computed=influence.computed,
            run=run,
            n_boot=self.n_boot,
            protocol=protocol,
            rule=LOW,
        )
        return tidy(rows)
