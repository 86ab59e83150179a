"""Certified removal: how many training instances must change before an ensemble over partitions changes its vote."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.metrics.unfairness import wilson
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design, Split
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

SETTING = "metric.certified_removal"


@dataclass(frozen=True, kw_only=True)
class CertifiedRemoval:
    """Certified accuracy of a vote among models that each saw one part of the training set.

    Measures: a hash of its inputs sends every training instance to one of k parts; a model is trained on each part;
        they vote, and of equally many votes the first class wins. One changed training instance changes one model, so
        the vote on a test instance stays as it is while at most r = ⌊(votes of the winner - votes of c - [c before the
        winner]) / 2⌋ of them change, for the class c that leaves least. ``certified_k<k>_<budget>`` is the share of
        test instances with a right vote and r of at least the budget; ``certified_k<k>_0`` is the vote's accuracy.
        ``certified_radius_k<k>`` is the median r, -1 for a wrong vote. No change of that many instances, whoever
        chooses them, does more: r bounds the influence of every group of r on the vote. The estimator plays no part.
        The table certified is the curve over budgets, certificates has votes and r of every test instance.
    Counts as one change: an instance removed (weight 0) or given another label in its row. An instance with other
        inputs may move to another part and counts twice. Scaling of the inputs and the seed must not depend on what the
        adversary changes, and training must repeat exactly.
    Intervals: 95% Wilson over test instances; percentiles of order statistics for the median.
    Not applicable: a regression.
    Needs: retraining; classes.
    Cost: Σ k trainings, each on about n/k instances, the same for all estimators.
    Source: Levine & Feizi 2021, arXiv:2006.14768, theorem 1 (deep partition aggregation); the hash is of the inputs, as
        in its semi-supervised variant.

    Attributes:
        partitions: numbers of parts, ascending.
        budgets: changed training instances; ascending from 0.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    partitions: list[int] = field(default_factory=lambda: [20, 50])
    budgets: list[int] = field(default_factory=lambda: [0, 1, 2, 4, 8, 16])

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, values, least in (("partitions", self.partitions, 2), ("budgets", self.budgets, 0)):
            if not values or values != sorted(set(values)) or values[0] < least:
                raise ConfigError(f"{SETTING}.{name} must be ascending numbers from {least}, got {values}; change it")

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``evaluate``."""
        if prospect.problem.data.task != "classification":
            return Work()
        designs = tuple(self._design(prospect.train, k) for k in self.partitions)
        return Work(
            trainings=designs,
            numbers=10.0 * sum(self.partitions) * len(prospect.test),
            bytes=16.0 * max(self.partitions) * (len(prospect.train) + len(prospect.test)),
            formula=f"{' + '.join(str(k) for k in self.partitions)} trainings on parts",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """One row per number of parts and budget, and the median radius."""
        import pandas as pd

        data = run.problem.data
        if data.task != "classification":
            names = [name for k in self.partitions for name in self._names(k)]
            return tidy(unavailable(names, "not applicable", "this is regression: there is no class to vote on"))
        rows: list[Measured] = []
        curves, certificates = [], []
        for k in self.partitions:
            design = self._design(run.train, k)
            votes = np.zeros((len(run.test), data.n_outputs), np.int64)
            for _, _, test in run.retrain.parts(design, "retraining on parts of the data"):
                for predicted in test.prediction.astype(np.int64):
                    votes[np.arange(len(votes)), predicted] += 1
            winner, radius = certified(votes)
            right = winner == run.test.y
            held = np.where(right, radius, -1)
            rows += self._rows(k, held, self._protocol(k, design.weights.sum(axis=1)))
            curves += [_point(k, budget, held) for budget in range(int(max(held.max(), 0)) + 2)]
            certificates.append(_certificates(run, k, votes, winner, radius))
        tables = {"certified": pd.DataFrame(curves), "certificates": pd.concat(certificates, ignore_index=True)}
        return tidy(rows, tables=tables)

    def _names(self, k: int) -> list[str]:
        return [*(f"certified_k{k}_{budget}" for budget in self.budgets), f"certified_radius_k{k}"]

    def _design(self, train: Split, k: int) -> Design:
        if k > len(train):
            raise ConfigError(
                f"{SETTING}.partitions must be at most {len(train)} training instances, got {k}; lower it"
            )
        members = (parts_of(train.x, k) == np.arange(k)[:, None]).astype(np.uint8)
        return subsets.turns(members[members.any(axis=1)], 1)

    def _rows(self, k: int, held: NDArray[np.int64], protocol: str) -> list[Measured]:
        m, rows = len(held), []
        *names, of_radius = self._names(k)
        for name, budget in zip(names, self.budgets, strict=True):
            share = float((held >= budget).mean())
            low, high = wilson(share, m)
            said = sentences(protocol, f"{budget} training instances changed", "95% CI: Wilson over test instances")
            rows.append(Measured(metric=name, value=share, ci_low=low, ci_high=high, n=m, protocol=said))
        low, high = median_interval(held)
        said = sentences(protocol, "-1: wrong without any change", "95% CI: order statistics over test instances")
        value = float(np.median(held))
        rows.append(Measured(metric=of_radius, value=value, ci_low=low, ci_high=high, n=m, protocol=said))
        return rows

    def _protocol(self, k: int, sizes: NDArray[Any]) -> str:
        empty = f", {k - len(sizes)} parts empty and without a vote" if len(sizes) < k else ""
        return sentences(
            f"vote of {len(sizes)} models on disjoint parts of {sizes.min()} to {sizes.max()} instances by a hash of "
            f"the inputs{empty}",
            "ties: first class; a change: removed or relabelled in its row; loss_norm=subset, steps as on everything",
            "inputs scaled beforehand",
        )


def parts_of(x: NDArray[Any], k: int) -> NDArray[np.int64]:
    """``(n,)`` part of each instance, which depends on its inputs alone."""
    digests = (hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in x)
    return np.array([int.from_bytes(digest[:8], "big") % k for digest in digests], np.int64)


def certified(votes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Winner of each row of ``votes`` (m, classes), ties to the first class, and the votes that may change freely.

    A changed vote moves from the winner to the runner-up at worst, which narrows their gap by 2. A class before the
    winner overtakes it with as many votes, one after it needs one more (Levine & Feizi 2021, equation 7).
    """
    winner = votes.argmax(axis=1)
    classes = np.arange(votes.shape[1])
    most = np.take_along_axis(votes, winner[:, None], axis=1)
    gap = most - votes - (classes < winner[:, None])
    gap[np.arange(len(votes)), winner] = 2 * votes.sum(axis=1, dtype=np.int64) + 2  # nobody overtakes itself
    return winner.astype(np.int64), np.minimum(gap.min(axis=1) // 2, votes.sum(axis=1))


def median_interval(values: NDArray[np.int64]) -> tuple[float, float]:
    """95% interval of the median by order statistics (binomial), for any distribution."""
    from scipy.stats import binom

    ordered, m = np.sort(values), len(values)
    low = int(binom.ppf(0.025, m, 0.5))
    return float(ordered[max(low - 1, 0)]), float(ordered[min(m - low, m - 1)])


def _point(k: int, budget: int, held: NDArray[np.int64]) -> dict[str, Any]:
    share = float((held >= budget).mean())
    low, high = wilson(share, len(held))
    return {
        "series": f"{k} parts",
        "changed_instances": budget,
        "certified_accuracy": share,
        "ci_low": low,
        "ci_high": high,
    }


def _certificates(
    run: Run, k: int, votes: NDArray[np.int64], winner: NDArray[np.int64], radius: NDArray[np.int64]
) -> pd.DataFrame:
    import pandas as pd

    classes = np.array(run.problem.data.classes)
    columns: dict[str, NDArray[Any]] = {
        "test_id": run.test.ids,
        "label": classes[run.test.y],
        "vote": classes[winner],
        "votes": votes.max(axis=1),
        "changes_withstood": radius,
        "least_changes_to_alter": radius + 1,
    }
    return pd.DataFrame({"parts": k, **columns})
