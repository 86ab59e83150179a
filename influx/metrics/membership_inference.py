"""Membership inference: can one tell what a model was trained on, and does self-influence say whose secret is out?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics import scores
from influx.metrics.aligned import Unavailable
from influx.metrics.detection import detect, stratified_counts
from influx.metrics.membership_attacks import Told, lira, separation, told
from influx.metrics.resampled import resampled_spearman
from influx.metrics.statistics import FloatArray, check_resamples, counts_of, interval, resample, spearman_columns
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

SETTING = "metric.membership_inference"
LEAST_SIDE = 3  # models with, and without, an instance
ATTACKS = {
    "loss": "attack: low loss (Yeom et al. 2018)",
    "lira": "attack: likelihood ratio of the margin under the other models (LiRA)",
    "self": "attack: loss below own loss + self-influence, what influence expects without the instance",
}
FEWEST_WRONG = 5  # false positives below which a rate of them is an accident
CHANGED = ("mislabeled", "poison", "backdoor", "target", "anomaly")  # flags of instances that are no fair test of it
VULNERABLE = ("membership_vulnerability", "membership_auroc_top", "membership_auroc_rest")


@dataclass(frozen=True, kw_only=True)
class MembershipInference:
    """Membership inference by loss, likelihood ratio and self-influence, and who is vulnerable to it.

    Measures: K models are trained on random halves of the training set; ``targets`` of them are attacked. Members are
        the training instances in a target's half, non-members those outside, so that both are of one distribution.
        ``membership_auroc_<attack>``: probability that a member scores above a non-member, and
        ``membership_tpr_<attack>``: share of members found at a false positive rate of ``rate``. Attacks: loss; lira,
        which uses the other models; self, which needs none, only the run's own model and the estimator's self-influence
        (scores in loss units). ``membership_vulnerability``: Spearman correlation, over training instances, of the
        estimator's self-influence with d′, by how much an instance's margin under models with it exceeds that under
        models without it in standard deviations. ``membership_auroc_top`` and ``_rest``: lira on the ``share`` of
        instances with the highest self-influence and on the others. ``membership_auroc_own``: loss, on the run's own
        model, training against test instances; those that a corruption changed are left out, since they would differ by
        that alone. The table membership is d′ and self-influence per instance.
    Intervals: 95% percentile bootstrap over training instances (members and non-members follow their instance), with
        models fixed; resamples of the rank correlation are moved by their mean difference from the estimate.
    Not applicable: no self-influence; self with scores of another unit. Where ``rate`` allows fewer than 5 false
        positives, a note says so.
    Needs: retraining.
    Cost: K trainings, no estimator's own; n_boot · targets · n for the intervals.
    Source: Carlini et al. 2022, arXiv:2112.03570 (LiRA, true positives at few false ones); Yeom et al. 2018,
        arXiv:1709.01604 (loss); Cohen & Giryes 2022, arXiv:2205.13680 (self-influence; there by a classifier of its
        value, here as each instance's threshold); Feldman & Zhang 2020 for memorization.

    Attributes:
        models: K.
        targets: models attacked, the first ones.
        rate: false positive rate.
        share: of instances that count as most memorised.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    models: int = 64
    targets: int = 8
    rate: float = 0.01
    share: float = 0.1
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples(f"{SETTING}.n_boot", self.n_boot)
        if self.models < 8:
            raise ConfigError(f"{SETTING}.models must be at least 8, got {self.models}; raise it")
        if not 1 <= self.targets <= self.models:
            raise ConfigError(
                f"{SETTING}.targets must be from 1 to models={self.models}, got {self.targets}; change it"
            )
        for name, value in (("rate", self.rate), ("share", self.share)):
            if not 0 < value < 1:
                raise ConfigError(f"{SETTING}.{name} must be between 0 and 1, got {value}; change it")

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``evaluate``."""
        n = len(prospect.train)
        return Work(
            trainings=(self._design(prospect),),
            numbers=12.0 * len(ATTACKS) * self.n_boot * self.targets * n + 20.0 * self.models * n * self.targets,
            bytes=24.0 * self.models * n + 2e8,
            formula=f"{self.models} trainings on halves",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Two rows per attack, three of vulnerability, one of the run's own model."""
        design, n = self._design(run), len(run.train)
        margins, losses = np.empty((self.models, n)), np.empty((self.models, n))
        for which, train, _ in run.retrain.parts(design, "retraining on halves"):
            margins[which], losses[which] = train.margin, train.loss
        inside, targets = design.weights > 0, np.arange(self.targets)
        attacks = {"loss": -losses[targets], "lira": lira(margins, inside, targets)}
        own = scores.by_self(influence)
        refusal = own if isinstance(own, Unavailable) else _unfit(influence)
        if not isinstance(refusal, Unavailable) and not isinstance(own, Unavailable):
            attacks["self"] = run.outcomes(run.train).loss + own - losses[targets]
        counts = counts_of(resample(run.rng("training instances"), n, self.n_boot))
        weights = np.vstack([np.ones(n), counts])  # the first resample is the data itself
        rows: list[Measured] = []
        for name, said in ATTACKS.items():
            protocol = sentences(said, self._protocol(n))
            if name in attacks:
                found = told(attacks[name], inside[targets], weights, self.rate)
                rows += self._attack(name, found, n, protocol, int((~inside[targets]).sum()))
            elif isinstance(refusal, Unavailable):
                names = [f"membership_{kind}_{name}" for kind in ("auroc", "tpr")]
                rows += unavailable(names, refusal.status, refusal.note, protocol)
        exposed = separation(margins, inside)
        if isinstance(own, Unavailable):
            rows += unavailable(VULNERABLE, own.status, own.note, self._protocol(n))
        else:
            rows += self._vulnerable(own, exposed, attacks["lira"], inside[targets], counts)
        rows.append(self._own(run))
        return tidy(rows, tables={"membership": _table(run, exposed, own)})

    def _design(self, run: Run | Prospect) -> Design:
        """Models on random halves, no estimator's own: its self-influence would be judged on what it was made of.

        Raises:
            ConfigError: some instance is in, or out of, too few halves.
        """
        n = len(run.train)
        size = round(0.5 * n)
        masks = subsets.fixed_size(run.train.ids, size, self.models, run.drawn(f"membership/{size}"))
        inside = masks.sum(axis=0, dtype=np.int64)
        fewest = int(min(inside.min(), self.models - inside.max()))
        if fewest <= LEAST_SIDE:
            raise ConfigError(
                f"{SETTING}.models={self.models} leaves an instance {fewest} models on one side, and more than "
                f"{LEAST_SIDE} are needed; raise it"
            )
        return subsets.turns(masks, 1)

    def _protocol(self, n: int) -> str:
        return sentences(
            f"{self.targets} of {self.models} models on random halves of {n} training instances are attacked, one "
            "threshold for all; members: in the half, non-members: outside",
            f"n: training instances; one training seed; 95% CI: bootstrap over training instances x{self.n_boot}",
        )

    def _attack(self, name: str, found: Told, n: int, protocol: str, others: int) -> Iterator[Measured]:
        at_rate, few = f"at a false positive rate of {self.rate:g}", ""
        if self.rate * others < FEWEST_WRONG:
            few = f"the rate allows {int(self.rate * others + 1e-9)} of {others} non-members, too few to rely on; "
            few += "raise targets or rate"
        for kind, samples, chance, said, doubt in (
            ("auroc", found.auroc, 0.5, "", ""),
            ("tpr", found.tpr, self.rate, at_rate, few),
        ):
            low, high = interval(samples[1:])
            yield Measured(
                metric=f"membership_{kind}_{name}",
                value=float(samples[0]),
                ci_low=low,
                ci_high=high,
                n=n,
                protocol=sentences(said, protocol),
                note=sentences(f"random guess: {chance:g}", doubt),
            )

    def _vulnerable(
        self, own: FloatArray, exposed: FloatArray, ratio: FloatArray, member: NDArray[np.bool_], counts: FloatArray
    ) -> Iterator[Measured]:
        """Does self-influence rank instances by how much they give away?"""
        n, protocol = len(own), self._protocol(len(own))
        value = float(spearman_columns(own[:, None], exposed[:, None])[0])
        samples = resampled_spearman(np.stack([own, exposed])[:, :, None], counts)[:, 0]
        low, high = interval(np.clip(samples + value - np.nanmean(samples), -1.0, 1.0))
        said = "Spearman of self-influence with d' (margin with against without the instance)"
        names = iter(VULNERABLE)
        yield Measured(
            metric=next(names), value=value, ci_low=low, ci_high=high, n=n, protocol=sentences(said, protocol)
        )
        order = scores.descending(own)
        first = max(1, round(self.share * n))
        for kind, rows in (("highest", order[:first]), ("other", order[first:])):
            weights = np.vstack([np.ones(len(rows)), counts[:, rows]])
            weights = weights[(weights.sum(axis=1) > 0)]
            with np.errstate(invalid="ignore", divide="ignore"):  # a resample may lack members or others
                found = told(ratio[:, rows], member[:, rows], weights, self.rate)
            low, high = interval(found.auroc[1:])
            yield Measured(
                metric=next(names),
                value=float(found.auroc[0]),
                ci_low=low,
                ci_high=high,
                n=len(rows),
                protocol=sentences(f"LiRA on the {len(rows)} instances of {kind} self-influence", protocol),
                note="random guess: 0.5",
            )

    def _own(self, run: Run) -> Measured:
        """The run's own model: low loss against training and test."""
        name, data = "membership_auroc_own", run.problem.data
        kept, others = unchanged(data.flags, len(run.train)), unchanged(data.test_flags, len(run.test))
        n, m = int(kept.sum()), int(others.sum())
        low_loss = -np.concatenate([run.outcomes(run.train).loss[kept], run.outcomes(run.test).loss[others]])
        lost = len(kept) + len(others) - n - m
        without = f"{lost} that the corruption changed left out" if lost else ""
        if not n or not m:
            return unavailable([name], "not applicable", sentences("members or non-members are none", without))[0]
        member = np.arange(n + m) < n
        counts = stratified_counts(member, self.n_boot, run.rng("members and others"))
        found = detect(low_loss, member, np.vstack([np.ones(n + m), counts])).auroc
        low, high = interval(found[1:])
        protocol = sentences(
            ATTACKS["loss"],
            f"the run's own model; members: {n} training instances, non-members: {m} test instances",
            without,
            f"n: both; 95% CI: stratified bootstrap x{self.n_boot}",
        )
        note = "random guess: 0.5"
        return Measured(
            metric=name,
            value=float(found[0]),
            ci_low=low,
            ci_high=high,
            n=n + m,
            protocol=protocol,
            note=note,
        )


def unchanged(flags: Mapping[str, NDArray[Any]], size: int) -> NDArray[np.bool_]:
    """``(size,)`` instances that no corruption gave another label, a trigger or poison."""
    kept = np.ones(size, np.bool_)
    for name in CHANGED:
        if name in flags:
            kept &= ~np.asarray(flags[name]).astype(bool)
    return kept


def _unfit(influence: Influence) -> Unavailable | None:
    if influence.scale != "loss":
        note = "a threshold needs self-influence in loss units; this estimator's scale is rank"
        return Unavailable(status="not applicable", note=note)
    return None


def _table(run: Run, exposed: FloatArray, own: FloatArray | Unavailable) -> pd.DataFrame:
    """Per training instance how much it gives away, the most vulnerable first."""
    import pandas as pd

    known = np.full(len(exposed), np.nan) if isinstance(own, Unavailable) else own
    columns = {"train_id": run.train.ids, "separation": exposed, "self_influence": known}
    return pd.DataFrame(columns).sort_values("separation", ascending=False, kind="stable").reset_index(drop=True)
