"""Certified removal: how many training instances must change before an ensemble over partitions changes its vote."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
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
from influx.problem import Data, Design, Split
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

SETTING = "metric.certified_removal"
SINGLE = "certified_single"
ALL_TARGETS = "all test instances are targets; lower corruption.targets"


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
        ``certified_single`` is the accuracy of one model trained on everything, which has no certificate. With a
        poisoning in the data, ``certified_attack_k<k>`` and ``certified_attack_single`` are the shares of attacked
        test instances that vote and single model give the class that the attacker wants, and
        ``certified_poison_k<k>`` is the certified accuracy with as many changes as there are poisoned instances:
        on those the poison decides nothing, wherever it is.
    Counts as one change: an instance removed (weight 0) or given another label in its row. An instance with other
        inputs may move to another part and counts twice. Scaling of the inputs and the seed must not depend on what the
        adversary changes, and training must repeat exactly.
    Intervals: 95% Wilson over test instances; percentiles of order statistics for the median.
    Not applicable: a regression.
    Needs: retraining; classes.
    Cost: 1 + Σ k trainings, each of the latter on about n/k instances, the same for all estimators.
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
            trainings=(_single(prospect.train), *designs),
            numbers=10.0 * sum(self.partitions) * len(prospect.test),
            bytes=16.0 * max(self.partitions) * (len(prospect.train) + len(prospect.test)),
            formula=f"{' + '.join(str(k) for k in self.partitions)} trainings on parts + 1 on everything",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """One row per number of parts and budget, the median radius, the single model, and what an attack reaches."""
        import pandas as pd

        data = run.problem.data
        if data.task != "classification":
            names = [name for k in self.partitions for name in self._names(k)]
            note = "this is regression: there is no class to vote on"
            return tidy(unavailable([*names, SINGLE], "not applicable", note))
        attack = attack_in(data)
        judged = np.ones(len(run.test), bool) if attack is None else attack.labelled
        without = "" if judged.all() else f"{int((~judged).sum())} targets left out"
        rows: list[Measured] = []
        curves, certificates = [], []
        for k in self.partitions:
            design = self._design(run.train, k)
            votes = np.zeros((len(run.test), data.n_outputs), np.int64)
            for predicted in _predicted(run, design, "retraining on parts of the data"):
                votes[np.arange(len(votes)), predicted] += 1
            winner, radius = certified(votes)
            held, protocol = np.where(winner == run.test.y, radius, -1), self._protocol(k, design.weights.sum(axis=1))
            rows += self._rows(k, held[judged], sentences(protocol, without))
            rows += _under_attack(f"k{k}", winner, held, attack, protocol)
            if judged.any():
                curves += [_point(k, budget, held[judged]) for budget in range(int(max(held.max(), 0)) + 2)]
            certificates.append(_certificates(run, k, votes, winner, radius))
        (alone,) = _predicted(run, _single(run.train), "retraining on everything")
        right = (alone == run.test.y)[judged]
        rows.append(_share(SINGLE, right, sentences("one model on everything, without a certificate", without)))
        rows += _under_attack("single", alone, None, attack, "one model on everything")
        tables = {"certificates": pd.concat(certificates, ignore_index=True)}
        return tidy(rows, tables=({"certified": pd.DataFrame(curves)} if curves else {}) | tables)

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
        if not m:
            return unavailable(self._names(k), "not applicable", ALL_TARGETS, protocol)
        *names, of_radius = self._names(k)
        for name, budget in zip(names, self.budgets, strict=True):
            rows.append(_share(name, held >= budget, sentences(protocol, f"{budget} training instances changed")))
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


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """What is known of a poisoning: ``guilty`` training instances, and test instances ``(m,)`` it is after.

    ``wanted`` is the class that the attacker wants for each of the ``attacked``; ``labelled`` have their true label.
    """

    guilty: int
    attacked: NDArray[np.bool_]
    wanted: NDArray[np.int64]
    labelled: NDArray[np.bool_]


def attack_in(data: Data) -> Poisoned | None:
    """The attack of corruption=backdoor or corruption=poison; None without one."""
    m = len(data.test)
    if "backdoor" in data.flags:
        guilty = np.asarray(data.flags["backdoor"]).astype(bool)
        wanted = int(data.train.y[guilty][0])
        carries = np.asarray(data.test_flags.get("backdoor", np.zeros(m))).astype(bool)
        attacked, labelled = carries & (data.test.y != wanted), np.ones(m, bool)
        return Poisoned(
            guilty=int(guilty.sum()), attacked=attacked, wanted=np.full(m, wanted, np.int64), labelled=labelled
        )
    if "poison" in data.flags and "target" in data.test_flags:
        target = np.asarray(data.test_flags["target"]).astype(bool)  # labelled as the attacker wants
        guilty = np.asarray(data.flags["poison"]).astype(bool)
        return Poisoned(
            guilty=int(guilty.sum()), attacked=target, wanted=data.test.y.astype(np.int64), labelled=~target
        )
    return None


def _under_attack(
    who: str, winner: NDArray[np.int64], held: NDArray[np.int64] | None, attack: Poisoned | None, protocol: str
) -> list[Measured]:
    """How often the attack reaches its aim, and with ``held`` (m,) how much is certified against all of the poison."""
    if attack is None:
        return []
    name, rows = f"certified_attack_{who}", []
    said = sentences(protocol, f"{attack.guilty} training instances are poisoned")
    if attack.attacked.any():
        reached = (winner == attack.wanted)[attack.attacked]
        rows.append(_share(name, reached, sentences(said, "attacked test instances given the class that is wanted")))
    else:
        note = "no test instance carries the trigger; set corruption.test=half"
        rows += unavailable([name], "not applicable", note, said)
    if held is not None:
        kept = held[attack.labelled] >= attack.guilty
        without = "" if attack.labelled.all() else f"{int((~attack.labelled).sum())} targets left out"
        rows.append(_share(f"certified_poison_{who}", kept, sentences(said, "as many changed", without)))
    return rows


def _single(train: Split) -> Design:
    return subsets.turns(np.ones((1, len(train)), np.uint8), 1)


def _predicted(run: Run, design: Design, label: str) -> Iterator[NDArray[np.int64]]:
    """``(m,)`` predicted classes, model after model."""
    for _, _, test in run.retrain.parts(design, label):
        yield from test.prediction.astype(np.int64)


def _share(name: str, held: NDArray[np.bool_], protocol: str) -> Measured:
    """A share of test instances with Wilson's interval; not applicable where targets alone are left."""
    if not len(held):
        return unavailable([name], "not applicable", ALL_TARGETS, protocol)[0]
    value, n = float(held.mean()), len(held)
    low, high = wilson(value, n)
    said = sentences(protocol, "95% CI: Wilson over test instances")
    return Measured(metric=name, value=value, ci_low=low, ci_high=high, n=n, protocol=said)


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
