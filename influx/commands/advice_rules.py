"""What the assumptions of Table 1 mean for a problem: rules, each with its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from influx.commands.advice_facts import Facts
from influx.commands.advice_figures import Goal
from influx.needs import Need

if TYPE_CHECKING:
    from influx.run import Estimator

REFITS = frozenset({Need.RETRAIN})


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An estimator as rules see it: ``name`` may have a variant behind a colon."""

    name: str
    estimator: Estimator

    @property
    def base(self) -> str:
        """The name without the variant."""
        return self.name.partition(":")[0]

    @property
    def family(self) -> str:
        """The survey's family."""
        return self.estimator.card.family

    @property
    def assumes(self) -> str:
        """The assumptions of Table 1."""
        return self.estimator.card.assumptions

    @property
    def unrolls(self) -> bool:
        """Whether it differentiates the steps of training."""
        return Need.TRAJECTORY in self.estimator.requires and Need.CURVATURE in self.estimator.requires

    @property
    def retrains(self) -> bool:
        """Whether it is made of retrained models alone."""
        return self.estimator.requires == REFITS


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a fact means for some estimators under some goals.

    ``effect`` is how much better (positive) or worse an estimator without a measured figure is expected to be, in
    tenths of a correlation.
    """

    name: str
    goals: tuple[Goal, ...]
    holds: Callable[[Facts], bool]
    of: Callable[[Candidate], bool]
    effect: int
    says: str
    source: str


SINGLE: tuple[Goal, ...] = ("loo", "topk")
ALL: tuple[Goal, ...] = ("loo", "lds", "mislabel", "topk", "pbrf")
PREDICT: tuple[Goal, ...] = ("loo", "topk", "lds")
HALF = ("banzhaf", "downsampling", "data_oob", "c_score", "ame", "datamodels")
SURROGATE = ("shap", "neuron_shapley")

RULES: tuple[Rule, ...] = (
    Rule(
        name="retraining",
        goals=SINGLE,
        holds=lambda f: True,
        of=lambda c: c.base == "loo",
        effect=7,
        says="is what is asked for, computed",
        source="Cook & Weisberg 1982",
    ),
    Rule(
        name="response",
        goals=("pbrf",),
        holds=lambda f: True,
        of=lambda c: c.base == "pbrf",
        effect=7,
        says="is what is asked for, computed",
        source="Bae et al. 2022",
    ),
    Rule(
        name="other values",
        goals=ALL,
        holds=lambda f: True,
        of=lambda c: c.base in SURROGATE,
        effect=-4,
        says="values features or units, not training instances",
        source="Lundberg & Lee 2017; Ghorbani & Zou 2020",
    ),
    Rule(
        name="kinks",
        goals=SINGLE,
        holds=lambda f: f.regime == "kinked",
        of=lambda c: c.unrolls,
        effect=-2,
        says="derivatives through kinks miss removals; goal=lds or truth.seeds is the steadier question",
        source="docs/leave_one_out.md",
    ),
    Rule(
        name="hot",
        goals=SINGLE,
        holds=lambda f: f.regime == "hot",
        of=lambda c: c.unrolls,
        effect=0,
        says="steps are long: heed growth and removal_error in its report",
        source="docs/leave_one_out.md",
    ),
    Rule(
        name="whole path",
        goals=PREDICT,
        holds=lambda f: f.regime in ("calm", "momentum"),
        of=lambda c: c.unrolls and c.base != "hydra_fast",
        effect=4,
        says="differentiates the steps as they were taken",
        source="Hara et al. 2019; Ilyas & Engstrom 2025; docs/leave_one_out.md",
    ),
    Rule(
        name="batches of one",
        goals=ALL,
        holds=lambda f: f.batch > 1,
        of=lambda c: c.base == "tracin_ideal",
        effect=-3,
        says="assumes batches of one instance",
        source="Pruthi et al. 2020, section 3",
    ),
    Rule(
        name="plain steps",
        goals=PREDICT,
        holds=lambda f: bool(f.unlike_sgd),
        of=lambda c: "SGD" in c.assumes and not c.unrolls,
        effect=-2,
        says="takes the steps for plain SGD, they have {unlike_sgd}",
        source="Pruthi et al. 2020; docs/leave_one_out.md",
    ),
    Rule(
        name="memory",
        goals=PREDICT,
        holds=lambda f: bool(f.unlike_sgd),
        of=lambda c: c.base in ("tracin_momentum", "tracin_adam"),
        effect=0,
        says="knows the optimizer's memory, in first order",
        source="Pruthi et al. 2020; docs/leave_one_out.md",
    ),
    Rule(
        name="minimum",
        goals=(*PREDICT, "pbrf"),
        holds=lambda f: f.convex,
        of=lambda c: c.family == "influence functions" or "linear model" in c.assumes,
        effect=3,
        says="meets its assumption: the risk is convex, first order in 1/n",
        source="Cook & Weisberg 1982; Koh & Liang 2017",
    ),
    Rule(
        name="closed form",
        goals=SINGLE,
        holds=lambda f: f.regime == "minimum",
        of=lambda c: c.base in ("cooks_distance", "influence_sketching"),
        effect=4,
        says="has leave-one-out of this model in closed form, up to its sketch",
        source="Cook & Weisberg 1982; Wojnowicz et al. 2016",
    ),
    Rule(
        name="other question",
        goals=SINGLE,
        holds=lambda f: f.net and not f.convex,
        of=lambda c: c.family == "influence functions" and c.base != "pbrf",
        effect=0,
        says="before a minimum it estimates the proximal response (goal=pbrf), not retraining",
        source="Bae et al. 2022",
    ),
    Rule(
        name="last layer",
        goals=(*PREDICT, "pbrf"),
        holds=lambda f: f.deep,
        of=lambda c: "last layer" in c.assumes,
        effect=-1,
        says="sees the last layer alone, the net has more",
        source="Barshan et al. 2020; docs/influence_functions.md",
    ),
    Rule(
        name="splits",
        goals=SINGLE,
        holds=lambda f: f.regime == "trees",
        of=lambda c: c.family == "trees",
        effect=-2,
        says="keeps the splits, which removing one instance changes",
        source="Brophy et al. 2023; docs/trees.md",
    ),
    Rule(
        name="half the data",
        goals=SINGLE,
        holds=lambda f: True,
        of=lambda c: c.base in HALF,
        effect=-1,
        says="is measured on subsets, where one instance weighs more than in the whole",
        source="docs/subsets.md",
    ),
    Rule(
        name="subsets",
        goals=("lds",),
        holds=lambda f: True,
        of=lambda c: c.base in HALF,
        effect=3,
        says="is fitted to retrained subsets, which is what is asked for",
        source="Ilyas et al. 2022; Park et al. 2023",
    ),
    Rule(
        name="other model",
        goals=PREDICT,
        holds=lambda f: True,
        of=lambda c: c.assumes == "surrogate",
        effect=-2,
        says="values instances for a nearest-neighbour model",
        source="Jia et al. 2019",
    ),
    Rule(
        name="direction",
        goals=("mislabel",),
        holds=lambda f: True,
        of=lambda c: "magnitude does not" in c.assumes or c.base == "renorm_if",
        effect=0,
        says="self-influence is constant: summed influence ranks suspects",
        source="Hammoudeh & Lowd 2022",
    ),
    Rule(
        name="wrong labels",
        goals=("mislabel",),
        holds=lambda f: True,
        of=lambda c: c.base in ("confident_learning", "loss", "boostin", "leaf_influence", "leaf_refit"),
        effect=4,
        says="wrong labels show in losses and self-influence",
        source="Northcutt et al. 2021; docs/trees.md",
    ),
    Rule(
        name="floor",
        goals=ALL,
        holds=lambda f: True,
        of=lambda c: c.family == "baseline" and c.base != "confident_learning",
        effect=-2,
        says="a floor to compare with",
        source="Hammoudeh & Lowd 2022, section 6",
    ),
    Rule(
        name="seeds",
        goals=SINGLE,
        holds=lambda f: f.net and not f.convex,
        of=lambda c: c.base == "loo",
        effect=0,
        says="another seed says otherwise in part: estimator.seeds averages",
        source="docs/influence_functions.md; Nguyen et al. 2023",
    ),
)


def rules_for(candidate: Candidate, facts: Facts, goal: Goal) -> list[tuple[Rule, str]]:
    """Rules that apply, with their sentences filled in, in the order of ``RULES``."""
    return [
        (rule, rule.says.format(unlike_sgd=facts.unlike_sgd))
        for rule in RULES
        if goal in rule.goals and rule.holds(facts) and rule.of(candidate)
    ]
