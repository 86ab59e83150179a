"""TracInWE."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from influx.engines import precision as lower
from influx.engines.lookups import Embeddings, embeddings
from influx.engines.similarity import Checkpointed, scale_of, similarity_work
from influx.engines.tokens import check_tokens, shared_tokens, vocabulary_size, without_common
from influx.engines.word_shares import sampled, special_share, word_table
from influx.engines.words import Words
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run
from influx.vocabulary import PADDING, special_tokens


@dataclass(frozen=True, kw_only=True)
class TracInWE(Checkpointed):
    """TracInCP on the word embeddings, which is a sum over the words that two texts share.

    Estimates: Σ_c w_c Σ_{w in both} (∂L(z_i; θ_c)/∂E_w)·(∂L(z_j; θ_c)/∂E_w), E_w the embedding of word w: the
        embedding's share of TracInCP. Positive for proponents, so that self-influence is never negative; see TracInCP
        for scale. 0 where two texts share no token. The table ``words`` has the terms of the strongest pairs.
    Needs: checkpoints with their learning rates; per-instance gradients; a model that looks tokens up in an embedding.
        Of one that the output layer uses as well (tied), the part that comes from the input is taken.
    Cost: C (n + m) forward passes and backward passes to the embedding, and d multiply-adds for every shared token of
        every pair, d the width of the embedding; memory for the tests' word gradients and a block of the others.
    Source: Yeh et al. 2022, arXiv:2202.11844, TracIn-WE; with ``topk`` TracIn-WE-Topk. Checkpoints and weights as in
        TracInCP.

    Attributes:
        checkpoints: how many saved checkpoints to use; None uses all.
        choose: even (evenly spaced in training) or loss_drop (those at the saved intervals in which the mean
            test loss falls most; the whole test set then has a say in every column).
        lr_at: next, prev or segment_mean.
        weight: paper, calibrated or uniform.
        jackknife: give a standard error: how much the sum varies when one checkpoint after the other is left
            out. It measures the spread over checkpoints, not over trainings.
        precision: model, tf32 (on cuda) or bfloat16; the error that it makes is measured and reported.
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
        embedding: a regular expression for the names of the embeddings' weights; None takes those that look up the
            instances' tokens, not their positions. Rows of others have no names, and no tokens to exclude.
        special_tokens: include (texts without a common word are then connected by their beginnings and ends) or
            exclude padding, beginnings, ends and unknown words.
        topk: keep the words of largest gradient norm of each text and checkpoint, so many; None keeps all.
        word_tests: of how many test instances, the first ones, to list words.
        word_pairs: of how many proponents and of how many opponents of each.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="n m s d C",
        incremental="n s d C",
        storage="p C + m s d",
        assumptions="SGD-like updates; shared words tell",
        groups="additive",
        paper="Yeh et al. 2022",
    )

    embedding: str | None = None
    special_tokens: Literal["include", "exclude"] = "include"
    topk: int | None = None
    word_tests: int = 10
    word_pairs: int = 5

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        try:
            re.compile(self.embedding or "")
        except re.error as error:
            raise ConfigError(
                f"estimator.embedding must be a regular expression, got {self.embedding!r} ({error}); correct it"
            ) from error
        if self.topk is not None and self.topk < 1:
            raise ConfigError(f"estimator.topk must be at least 1 or null, got {self.topk}; null keeps all words")
        for name in ("word_tests", "word_pairs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"estimator.{name} must not be negative, got {getattr(self, name)}; use 0 for none")

    def plan(self, prospect: Prospect) -> Work:
        """Gradients at every checkpoint used, and products over the tokens that pairs share."""
        check_tokens(prospect.train.x, prospect.who)
        work, net = similarity_work(prospect, self), prospect.net
        n, m = len(prospect.train), len(prospect.test)
        count = round(work.gradients / (n + m))
        width = max((columns for rows, columns, _ in net.sides if not rows), default=0)
        shared = shared_tokens(prospect.train.x, prospect.test.x)
        again = self._again(n, m)
        return dataclasses.replace(
            work,
            gradients=work.gradients + count * again,
            flops=count * (4.0 * net.macs * (n + m + again) + 2.0 * width * shared),
            numbers=float(count * (3 * n * m + 2 * width * shared)),
            formula=f"{count} checkpoints x ({n} + {m}) gradients and {again} again for words, "
            f"{count} x {shared:.3g} shared tokens x {width}",
        )

    def _again(self, n: int, m: int) -> int:
        """Instances whose word gradients the report and the table of words need once more, at most."""
        tests = min(self.word_tests, m)
        listed = min(2 * tests * self.word_pairs, n) + tests if self.word_pairs else 0
        return listed + (sampled(n, m) if self.special_tokens == "include" else 0)

    def estimate(self, run: Run) -> Influence:
        """Products of word gradients, weighted and summed over checkpoints; the words of the strongest pairs."""
        check_tokens(run.train.x, run.who)
        data = run.problem.data
        size = max(len(data.vocabulary), vocabulary_size(run.train.x, run.test.x))
        found = embeddings(run.gradients.at(run.final), (run.train, run.test), self.embedding, size)
        if found.tied:
            run.warn(
                f"{', '.join(found.tied)} is the output layer's weight as well: what the output layer adds to its "
                "gradient is left out"
            )
        if self.special_tokens == "exclude" and not found.of_words:
            raise ConfigError(
                "estimator.special_tokens=exclude needs embeddings that look up every token in a row of its own, and "
                f"not all of {', '.join(found.names)} do; set it to include, or estimator.embedding=null"
            )
        special = special_tokens(data.vocabulary, data.tokenizer)
        every = (*special, *found.others)
        words = Words(found, every if self.special_tokens == "exclude" else (), self.topk)
        scale = scale_of(self.weight, run.unlike_sgd)
        influence = self.influence(run, words, scale=scale, report=self._told(run, found, special))
        weighted, dtype = self.weighted(run), lower.dtype_of(self.precision)
        report = dict(influence.report)
        with lower.computing(self.precision, run.gradients.fitted.device, run.gradients.fitted.recipe.dtype):
            if self.special_tokens == "include" and found.of_words:
                report |= special_share(run.gradients, weighted, words, every, dtype)
            table = word_table(
                run.gradients,
                weighted,
                words,
                influence.values,
                tests=self.word_tests,
                pairs=self.word_pairs,
                vocabulary=data.vocabulary if found.of_words else (),
                dtype=dtype,
            )
        return dataclasses.replace(influence, tables={"words": table, **influence.tables}, report=report)

    def _told(self, run: Run, found: Embeddings, special: tuple[int, ...]) -> dict[str, Any]:
        """Facts for the report; with ``topk`` a pair may share tokens that were not kept."""
        ignored = special if self.special_tokens == "exclude" else (PADDING,)
        all_count = self.topk is None and found.of_words
        return {
            "embedding": ", ".join(found.names),
            "special_tokens": self.special_tokens,
            "topk": self.topk,
            "pairs_without_common_token": without_common(run.train.x, run.test.x, ignored) if all_count else None,
            "pairs_without_common_word": without_common(run.train.x, run.test.x, special),
        }
