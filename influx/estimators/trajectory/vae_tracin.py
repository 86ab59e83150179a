"""VAE-TracIn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from influx.engines.draws import (
    Drawn,
    DrawnProducts,
    Own,
    ignores_draws,
    is_mean_over_draws,
    named_parts,
    numbers_of,
    spread_of,
)
from influx.engines.kernels import Kernel, products
from influx.engines.similarity import Checkpointed, scale_of, similarity_work
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

NO_DRAWS = "the model's risk takes no latent draws; the result is that of tracincp"
IGNORED = (
    "the risk does not depend on the latent draws that the model is given: it is deterministic, or its posterior has "
    "collapsed; the result is that of tracincp"
)
NO_MEAN = (
    "vae_tracin compares the risk over some latent draws with that over others, which is another risk where it is no "
    "mean over draws, as with model.bound=importance; set model.bound=elbo, or estimator.self_unbiased=same and "
    "estimator.groups=0"
)


@dataclass(frozen=True, kw_only=True)
class VAETracIn(Checkpointed):
    """TracInCP of a risk that is a mean over latent draws, with the luck of the draws removed or reported.

    Estimates: Σ_c w_c ⟨∇L̄(z_i; θ_c), ∇L̄(z_j; θ_c)⟩, where L̄ is the β-VAE's loss (reconstruction + β · divergence)
        averaged over R draws, which belong to the instance and the checkpoint. Positive for proponents; see TracInCP
        for scale. The standard error is that of the draws. Self-influence compares an instance's gradients over
        different draws: with the same ones it would be too large by Σ_c w_c tr Cov(∇L) / R. A risk that is no mean
        over draws (model.bound=importance) has no such parts: it takes ``self_unbiased=same`` and no groups. On models
        whose risk takes no draws all this is TracInCP, and a warning says so.
    Needs: checkpoints with their learning rates; per-instance gradients.
    Cost: C (n + m) gradients over R draws and C n m dot products, once more for each group of draws, and as much again
        as C n gradients for self-influence; memory O(block + m (1 + groups)) gradients' factors and n·m numbers.
    Source: Kong & Chaudhuri 2021, arXiv:2105.14203. The released code weights by rate · batch size · interval / n, a
        batch size more than ``weight=calibrated``, scales the risk by a constant, and compares an instance with itself
        over the same draws (``self_unbiased=same``). The standard error is an addition.

    Attributes:
        checkpoints: how many saved checkpoints to use; None uses all.
        choose: even (evenly spaced in training) or loss_drop (those at the saved intervals in which the mean
            test loss falls most; the whole test set then has a say in every column).
        lr_at: next, prev or segment_mean.
        weight: paper, calibrated or uniform.
        jackknife: replace the standard error over draws by how much the sum varies when one checkpoint after the
            other is left out. It measures the spread over checkpoints, not over trainings; ``groups`` is not used.
        precision: model, tf32 (on cuda) or bfloat16; the error that it makes is measured and reported.
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
        draws: R, latent draws per instance and checkpoint.
        groups: of draws for the standard error, of which one after the other is left out; 0 for none.
        self_unbiased: split_half (one half of the draws against the other), pairs (each draw against all others, which
            varies less and takes as many gradients as draws) or same (the same draws on both sides, too large).
        parameters: all, or the beginnings of the names of those whose gradients are compared: encoder, decoder,
            [encoder.layers.2,decoder.layers.2] for the last layers of both. Values of a part are no change in risk:
            their scale is rank.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="n p C R",
        incremental="n p C R",
        storage="p C",
        assumptions="SGD-like updates",
        groups="additive",
        paper="Kong & Chaudhuri 2021",
    )

    draws: int = 16
    groups: int = 4
    self_unbiased: Own = "split_half"
    parameters: str | list[str] = "all"

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.draws < 1:
            raise ConfigError(f"estimator.draws must be at least 1, got {self.draws}; 16 is the default")
        if self.groups and (self.groups < 2 or self.draws % self.groups):
            raise ConfigError(
                f"estimator.groups must be 0 or at least 2 and divide estimator.draws={self.draws}, got {self.groups}; "
                "set for example estimator.draws=16 and estimator.groups=4"
            )
        if self.self_unbiased != "same" and (self.draws < 2 or (self.self_unbiased == "split_half" and self.draws % 2)):
            raise ConfigError(
                f"estimator.self_unbiased={self.self_unbiased} needs "
                f"{'an even number of' if self.draws > 1 else 'at least 2'} draws, got estimator.draws={self.draws}; "
                "change it or set estimator.self_unbiased=same"
            )
        named_parts(self.parameters)

    def plan(self, prospect: Prospect) -> Work:
        """Gradients and products at every checkpoint used, for all draws and without each group.

        Raises:
            ConfigError: fewer checkpoints are saved than asked for.
            IncompatibleError: draws are to be split, and the risk is no mean over them.
        """
        work, model = similarity_work(prospect, self), getattr(prospect.problem.learner, "model", None)
        if getattr(model, "noise", None) is None:
            return work
        if self._splits and getattr(model, "bound", "") == "importance":
            raise IncompatibleError(NO_MEAN)
        groups = self._groups
        longer = max(self.draws / getattr(model, "evaluation_draws", 1), 1.0)  # the net's size is that of its own draws
        parts = {"same": 0.0, "split_half": 1.0, "pairs": 1.0}[self.self_unbiased]  # of the draws, each once more
        times = 1 + max(groups - 1, 0) + parts
        return replace(
            work,
            gradients=work.gradients * times * longer,
            flops=work.flops * (1 + groups) * longer,
            numbers=work.numbers * (1 + groups),
            bytes=work.bytes + 8.0 * len(prospect.train) * len(prospect.test) * (groups > 0),
            formula=f"{work.formula}, {1 + groups} times over {self.draws} draws",
        )

    def estimate(self, run: Run) -> Influence:
        """Products of mean gradients, weighted and summed over checkpoints.

        Raises:
            IncompatibleError: draws are to be split, and the risk is no mean over them.
        """
        known = run.gradients
        numbers, own, groups = numbers_of(known.fitted), self.self_unbiased, self._groups
        kernel: Kernel = products
        if numbers:
            if self._splits and not is_mean_over_draws(known.fitted, run.train):
                raise IncompatibleError(NO_MEAN)
            kernel = DrawnProducts(numbers, self.draws, groups, own)
            if ignores_draws(known.fitted, run.train):
                run.warn(IGNORED)
        else:
            run.warn(NO_DRAWS)
        gradients = Drawn(known.fitted, known.train, known.test, count=self.draws, name="vae_tracin", parts=self._parts)
        report = {"draws": self.draws if numbers else 0, "parameters": self.parameters}
        if numbers:
            report |= {"self_influence": own}
        if numbers and groups:
            report |= {"stderr_degrees": groups - 1}
        return self.influence(
            run,
            kernel,
            scale="rank" if self._parts else scale_of(self.weight, run.unlike_sgd),
            spread=spread_of(groups) if numbers else None,
            gradients=gradients,
            report=report,
        )

    @property
    def _groups(self) -> int:
        """Of draws that are left out; none where the standard error is that over checkpoints."""
        return 0 if self.jackknife else self.groups

    @property
    def _splits(self) -> bool:
        """Whether the risk over some of the draws is asked for."""
        return self._groups > 0 or self.self_unbiased != "same"

    @property
    def _parts(self) -> tuple[str, ...]:
        """How the names of the chosen parameters begin; nothing for all."""
        return named_parts(self.parameters)
