"""TracInAD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from influx.engines import subsets, tails
from influx.engines.attribution import doubts
from influx.engines.draws import Partial, named_parts
from influx.engines.gradients import Gradients
from influx.engines.influence_samples import Array, Rows, Weighted, collect, drawn, means
from influx.engines.path import Path
from influx.engines.rounding import constant_columns
from influx.engines.similarity import Checkpointed, Choose, checkpoints_used, scale_of
from influx.engines.tails import Tail
from influx.engines.weighting import RateAt, Weight
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

if TYPE_CHECKING:
    import pandas as pd

Aggregate = Literal["mean", "quantile"]
Against = Literal["train", "test"]
DRAWN = "only a random sample of the training instances was asked"
ALONE = "estimator.distribution=false keeps the mean over training instances alone"


@dataclass(frozen=True, kw_only=True)
class TracInAD:
    """Anomalous test instances by the distribution of training instances' influence on them.

    Estimates: A(z_j) = mean over sampled i of Σ_c w_c ⟨∇L(z_i; θ_c), ∇L(z_j; θ_c)⟩, or a quantile over them, in the
        table ``anomaly``: per test instance the mean, deviation and quantiles of the distribution, the score, for a
        sample with its bootstrap interval (corrected for the share s/n drawn), its distance from what is usual in
        robust deviations, and the p-value of its tail. The matrix is TracInCP of the sampled instances, positive for
        proponents, its other rows are not computed; see TracInCP for scale. On density models with latent draws this
        is over their mean risk.
    Needs: checkpoints with their learning rates; per-instance gradients.
    Cost: C (s + m + r) gradients and C s (m + r) products for s samples and r instances of reference; the mean alone
        takes a gradient of s and a forward-mode pass over m + r per checkpoint. Memory O(s (m + r)) and n·m numbers.
    Source: Thimonier et al. 2022, arXiv:2205.01362. The released code averages over layers and divides by s twice,
        which changes no order; here gradients are whole and in eval mode. What is usual is left open there.

    Attributes:
        checkpoints: how many saved checkpoints to use; None uses all.
        choose: even (evenly spaced in training) or loss_drop (those at the saved intervals in which the mean
            test loss falls most; the whole test set then has a say in every column).
        lr_at: next, prev or segment_mean.
        weight: paper, calibrated or uniform.
        samples: training instances sampled at a checkpoint; None takes all. The paper takes 64 to 512.
        fresh: draw anew at every checkpoint. The sums over checkpoints then belong to no instance, and the more
            checkpoints the less they spread, so that only their mean is told, without deviation and quantiles.
        distribution: false leaves it at the mean: no matrix, no distribution and no interval.
        aggregate: mean or quantile of the distribution.
        level: which quantile.
        tail: upper (as the released code), lower or two-sided. The mean over all training instances is, to first order
            and up to a factor, what training lowered the test risk by. That is little for what resembles no training
            instance, and much where the risk began high; which prevails depends on the data.
        against: what is usual: train (training instances without their influence on themselves) or test (the test
            instances, each counted among them).
        reference: how many training instances, at most.
        draws: latent draws per instance, where the model has them; None takes the model's number.
        n_boot: resamples.
        parameters: all, or the beginnings of the names of those whose gradients are compared, as for vae_tracin: the
            released code takes the last layers. Values of a part are no change in risk: their scale is rank.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="n p C",
        incremental="n p C",
        storage="p C",
        assumptions="SGD-like updates",
        groups="additive",
        paper="Thimonier et al. 2022",
    )

    checkpoints: int | None = None
    choose: Choose = "even"
    lr_at: RateAt = "next"
    weight: Weight = "paper"
    samples: int | None = None
    fresh: bool = True
    distribution: bool = True
    aggregate: Aggregate = "mean"
    level: float = 0.9
    tail: Tail = "upper"
    against: Against = "train"
    reference: int = 500
    draws: int | None = None
    n_boot: int = 1000
    parameters: str | list[str] = "all"

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, least in (("samples", 2), ("reference", 19), ("draws", 1), ("n_boot", 100)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"estimator.{name} must be at least {least}, got {value}; raise it")
        if not 0 < self.level < 1:
            raise ConfigError(f"estimator.level must be between 0 and 1, got {self.level}; 0.9 is the default")
        self._path()
        named_parts(self.parameters)
        if self.aggregate == "quantile" and not self.distribution:
            raise ConfigError(
                "estimator.aggregate=quantile needs the distribution; set estimator.distribution=true or "
                "estimator.aggregate=mean"
            )
        if self.aggregate == "quantile" and self.fresh and self.samples is not None and self.checkpoints != 1:
            raise ConfigError(
                "estimator.aggregate=quantile needs the same instances at all checkpoints; set estimator.fresh=false "
                "or estimator.aggregate=mean"
            )

    def plan(self, prospect: Prospect) -> Work:
        """Gradients and products at every checkpoint used."""
        net, n, m = prospect.net, len(prospect.train), len(prospect.test)
        count, s, r = checkpoints_used(prospect, self._path()), self._size(n), self._usual(n)
        judged = 2.0 * len(net.saved) * net.macs * m if self.choose == "loss_drop" else 0.0
        right = m + r
        if not self.distribution:
            return Work(
                gradients=float(count * (s + right)),
                flops=count * 6.0 * net.macs * (s + 2 * right) + judged,
                numbers=4.0 * count * net.parameters,
                bytes=16.0 * net.parameters,
                formula=f"{count} checkpoints x (gradient of {s} + forward-mode passes over {m} + {r})",
            )
        return Work(
            gradients=float(count * (s + right)),
            flops=count * (6.0 * net.macs * (s + right) + 2.0 * net.dot * s * right)
            + 2.0 * self.n_boot * s * m * (self.aggregate == "mean" and s < n)
            + judged,
            numbers=float(count * 4 * s * right + 8 * s * m),
            bytes=8.0 * (n * m + s * r + (s * m if self.samples else 0) + self.n_boot * m * (s < n)),
            formula=f"{count} checkpoints x ({s} + {m} + {r}) gradients, {count} x {s} x {right} products of "
            f"{net.dot:.3g} multiply-adds per pair",
        )

    def estimate(self, run: Run) -> Influence:
        """Influence of sampled training instances, and what its distribution says of each test instance."""
        n = len(run.train)
        self._size(n)
        gradients = self._gradients(run)
        weighted = self._path().weighted(run)
        rows = drawn(run.train.ids, self._samples(n), len(weighted), self.fresh, run.rng("samples"))
        usual = subsets.some(run.train.ids, np.arange(n), self._usual(n), run.rng("reference"))
        sentences, explained = doubts(Path(run.gradients.fitted), run.gradients, clips=False)
        for sentence in sentences:
            run.warn(sentence)
        report = self._report(len(weighted), n) | explained
        if not self.distribution:
            return self._mean_alone(run, gradients, weighted, rows, usual, report)
        found = collect(gradients, weighted, rows, usual, run.zeros)
        mean, deviation = tails.moments(found.draws)
        if constant_columns(found.draws, np.float32).all():
            run.warn("the sampled training instances have the same influence; there is no distribution of it")
        parts: dict[str, Any] = {"mean": mean}
        if all(np.array_equal(row, rows[0]) for row in rows):
            quantiles = tails.shares(found.draws, tails.QUANTILES)
            parts["deviation"] = deviation
            parts |= {f"q{round(100 * q):02d}": row for q, row in zip(tails.QUANTILES, quantiles, strict=True)}
        if self.aggregate == "mean":
            scores, reference = mean, found.usual.mean(axis=0)
        else:
            scores, reference = (tails.shares(v, (self.level,))[0] for v in (found.draws, found.usual))
        parts["score"] = scores
        if len(found.draws) < n:
            low, high = self._interval(found.draws, scores, n, run)
            parts |= {"ci_low": low, "ci_high": high}
        tables, least = self._tables(run, parts, reference, usual)
        return run.influence(
            found.values,
            scale=self._scale(run),
            self_influence=found.own,
            self_influence_note=DRAWN if np.isnan(found.own).any() else "",
            tables=tables,
            report=report | least,
        )

    def _interval(self, draws: Array, scores: Array, n: int, run: Run) -> tuple[Array, Array]:
        """Of a score over all n instances, from some."""
        if self.aggregate == "mean":
            ends = tails.mean_interval(draws, self.n_boot, run.rng("bootstrap"))
        else:
            ends = tails.quantile_interval(draws, self.level)
        return tails.narrowed(scores, ends, len(draws), n)

    def _mean_alone(
        self, run: Run, gradients: Gradients, weighted: Weighted, rows: list[Rows], usual: Rows, report: dict[str, Any]
    ) -> Influence:
        """By directional derivatives; the matrix has no values."""
        scores, reference = means(gradients, weighted, rows, usual)
        tables, least = self._tables(run, {"mean": scores, "score": scores}, reference, usual)
        return run.influence(
            np.broadcast_to(np.nan, (len(run.train), len(run.test))),
            scale=self._scale(run),
            self_influence_note=ALONE,
            tables=tables,
            report=report | least,
        )

    def _path(self) -> Checkpointed:
        """What it shares with TracInCP."""
        return Checkpointed(checkpoints=self.checkpoints, choose=self.choose, lr_at=self.lr_at, weight=self.weight)

    def _samples(self, n: int) -> int | None:
        if self.samples is not None and self.samples > n:
            raise ConfigError(
                f"estimator.samples={self.samples} is more than the {n} training instances; lower it or set "
                "estimator.samples=null"
            )
        return self.samples

    def _size(self, n: int) -> int:
        if n < 2:
            raise ConfigError(
                f"tracin_ad compares training instances with each other, and there is {n}; raise dataset.n_train"
            )
        return self._samples(n) or n

    def _usual(self, n: int) -> int:
        """How many training instances say what is usual."""
        return min(self.reference, n) if self.against == "train" else 0

    def _gradients(self, run: Run) -> Gradients:
        """With the latent draws asked for, of the parameters asked for."""
        known, parts = run.gradients, named_parts(self.parameters)
        if self.draws is None and not parts:
            return known
        fitted = known.fitted if self.draws is None else known.fitted.with_draws(self.draws, "tracin_ad")
        return Partial(fitted, known.train, known.test, parts=parts)

    def _scale(self, run: Run) -> Scale:
        return "rank" if named_parts(self.parameters) else scale_of(self.weight, run.unlike_sgd)

    def _tables(
        self, run: Run, parts: dict[str, Any], reference: Array, usual: Rows
    ) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
        """The tables, and for the report the smallest p-value that could come out."""
        import pandas as pd

        scores = parts["score"]
        among = self.against == "test"
        found = tails.judged(scores, scores if among else reference, self.tail, among)
        parts |= {"standardised": found.standardised, "p_value": found.p_value, "suspicion": found.suspicion}
        lost = int((~np.isfinite(reference)).sum())
        if lost and not among:
            run.warn(f"{lost} of {len(reference)} training instances of reference have no finite score and are dropped")
        tables = {"anomaly": pd.DataFrame({"test_id": run.test.ids} | parts)}
        if not among:
            tables["anomaly_reference"] = pd.DataFrame({"train_id": run.train.ids[usual], "score": reference})
        return tables, {"least_p_value": found.least}

    def _report(self, checkpoints: int, n: int) -> dict[str, Any]:
        return {
            "checkpoints": checkpoints,
            "choose": self.choose,
            "weight": self.weight,
            "lr_at": self.lr_at,
            "parameters": self.parameters,
            "samples": self._size(n),
            "fresh": self.fresh and self.samples is not None,
            "score": "mean" if self.aggregate == "mean" else f"quantile {self.level:g}",
            "tail": self.tail,
            "against": f"{self._usual(n)} training instances" if self.against == "train" else "the test instances",
        }
