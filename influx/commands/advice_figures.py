"""How well estimators did where it was measured: the tables of ``docs``, as data.

Each figure is of one small problem (digits, an MLP 64-32-10 or softmax regression or LightGBM), so it orders
estimators and promises nothing; runs of the user's own problem stand before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Regime = Literal["minimum", "calm", "momentum", "hot", "kinked", "trees"]
Goal = Literal["loo", "lds", "mislabel", "topk", "pbrf"]

REGIMES: Mapping[Regime, str] = {
    "minimum": "a convex risk at its minimum",
    "calm": "a smooth net and plain SGD",
    "momentum": "a smooth net and an optimizer with memory",
    "hot": "a smooth net and steps that are long for its curvature",
    "kinked": "a net with kinks (ReLU, max pooling)",
    "trees": "boosted trees",
}
LEAVE_ONE_OUT, INFLUENCE = "docs/leave_one_out.md", "docs/influence_functions.md"
CHANCE = "chance"  # of the random baseline, by definition
SUBSETS, TREES = "docs/subsets.md", "docs/trees.md"
PATHS = ("feature_similarity gas gas_layerwise tracin_last tracincp tracin_ideal renorm_tracin tracin tracin_momentum "
         "if_exact hydra_fast sgd_influence:last magic hydra:removal")  # fmt: skip
SUBSET = ("group_loo downsampling c_score ame datamodels data_oob banzhaf tmc_shapley beta_shapley g_shapley shapley "
          "shapley_interaction shapley_taylor knn_loo knn_shapley")  # fmt: skip
INVERSES = "if_cg influence_functions if_lissa if_ekfac if_arnoldi datainf relatif if_last_layer representer_point"
MINIMUM = ("if_exact if_cg influence_functions if_last_layer if_ekfac if_lissa if_arnoldi relatif renorm_if datainf "
           "rps_lje representer_point tracincp gas")  # fmt: skip
FOREST = "leaf_refit leaf_influence boostin trex tree_similarity"
FLIPPED = ("representer_point representer_l1 renorm_representer tracincp gas if_ekfac relatif if_exact if_last_layer "
           "if_cg influence_functions")  # fmt: skip
DAMPED = frozenset("if_exact if_cg influence_functions if_lissa if_arnoldi if_ekfac fast_if relatif renorm_if".split())
RAW = frozenset({"knn_loo", "knn_shapley"})
# regime, goal, page, names, and their figures in the order of the names; hydra and magic are one derivative
TABLES: tuple[tuple[Regime, Goal, str, str, str], ...] = (
    ("calm", "loo", LEAVE_ONE_OUT, f"{PATHS} hydra sgd_influence",
     ".109 .273 .109 .131 .219 .099 .276 .233 .233 .373 .302 .380 .991 .999 .991 .991"),
    ("calm", "lds", LEAVE_ONE_OUT, f"{PATHS} hydra sgd_influence",
     ".270 .490 .387 .503 .595 .205 .489 .613 .613 .575 .682 .697 .978 .989 .978 .978"),
    ("momentum", "loo", LEAVE_ONE_OUT, f"{PATHS} hydra",
     ".079 .210 .077 .101 .146 .011 .213 .158 .164 .492 .232 .275 .977 .996 .977"),
    ("momentum", "lds", LEAVE_ONE_OUT, f"{PATHS} hydra",
     ".191 .357 .270 .359 .419 .027 .357 .424 .422 .686 .554 .585 .918 .973 .918"),
    ("hot", "loo", LEAVE_ONE_OUT, f"{PATHS} hydra",
     ".064 .167 .063 .086 .102 .003 .167 .110 .118 .317 .183 .188 .943 .981 .943"),
    ("hot", "lds", LEAVE_ONE_OUT, f"{PATHS} hydra",
     ".139 .277 .195 .248 .278 .012 .276 .287 .285 .493 .450 .450 .759 .903 .759"),
    ("kinked", "loo", LEAVE_ONE_OUT, f"{PATHS} hydra",
     ".028 .056 .029 .053 .054 .012 .055 .046 .047 .150 .062 .058 .363 .385 .363"),
    ("kinked", "lds", LEAVE_ONE_OUT, f"{PATHS} hydra",
     ".143 .209 .162 .188 .224 .039 .208 .235 .221 .480 .335 .331 .429 .623 .429"),
    ("calm", "loo", INFLUENCE, INVERSES, ".623 .623 .625 .670 .409 .453 .615 .269 .190"),
    ("calm", "lds", INFLUENCE, INVERSES, ".810 .810 .810 .857 .602 .774 .755 .555 .596"),
    ("calm", "pbrf", INFLUENCE, f"{INVERSES} if_exact tracincp",
     ".920 .920 .919 .578 .694 .325 .892 .294 .121 .920 .231"),
    ("minimum", "loo", INFLUENCE, MINIMUM,
     ".989 .989 .989 .989 .989 .988 .814 .934 .914 .404 .575 .233 .211 .390"),
    ("calm", "mislabel", INFLUENCE, FLIPPED,
     ".986 .986 .995 .988 .988 .992 .993 .993 .994 .993 .993"),
    ("calm", "loo", SUBSETS, SUBSET,
     ".324 .410 .395 .473 .796 .426 .467 .740 .660 .524 .278 .278 .278 .119 .357"),
    ("calm", "lds", SUBSETS, f"{SUBSET} loo",
     ".605 .732 .731 .822 .970 .761 .813 .899 .858 .849 .598 .598 .598 .365 .773 .981"),
    ("calm", "mislabel", SUBSETS, f"{SUBSET} loo",
     ".506 .975 .983 .984 .999 .978 .979 .995 .991 .999 .496 .496 .496 .824 .991 .996"),
    ("trees", "loo", TREES, FOREST, ".131 .131 .089 .044 .044"),
    ("trees", "lds", TREES, FOREST, ".53 .53 .51 .54 .48"),
    ("calm", "loo", CHANCE, "random", "0"),
    ("calm", "lds", CHANCE, "random", "0"),
    ("calm", "pbrf", CHANCE, "random", "0"),
    ("calm", "mislabel", CHANCE, "random", ".5"),
    ("trees", "mislabel", TREES, "leaf_refit leaf_influence boostin trex", ".95 .95 .95 .88"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A documented value: ``page`` has its protocol, ``regime`` is the training that it was measured on.

    ``settings`` of the estimator, other than its defaults, belong to the value.
    """

    value: float
    page: str
    regime: Regime
    settings: Mapping[str, Any]


def figure(name: str, goal: Goal, regime: Regime, elsewhere: bool) -> Figure | None:
    """What the documentation has for an estimator (``name:variant``); None where nothing was measured.

    ``topk`` is stood in for by ``loo``. With ``elsewhere`` the calm training stands in for others: subsets, surrogates
    and the search for wrong labels depend on it little, unless what is trained is trees.
    """
    asked: Goal = "loo" if goal == "topk" else goal
    found = _FIGURES.get((regime, asked, name))
    borrows = elsewhere and (regime != "trees" or goal == "mislabel")
    return found if found is not None or not borrows else _FIGURES.get(("calm", asked, name))


def _read() -> dict[tuple[Regime, Goal, str], Figure]:
    read: dict[tuple[Regime, Goal, str], Figure] = {}
    for regime, goal, page, names, values in TABLES:
        for name, value in zip(names.split(), values.split(), strict=True):
            found = Figure(value=float(value), page=page, regime=regime, settings=_settings(page, regime, name))
            read.setdefault((regime, goal, name), found)
    return read


def _settings(page: str, regime: Regime, name: str) -> dict[str, Any]:
    if page == INFLUENCE and name in DAMPED:
        return {"damping": 0.0 if regime == "minimum" else 0.01}
    return {"features": "raw"} if page == SUBSETS and name in RAW else {}


_FIGURES = _read()
