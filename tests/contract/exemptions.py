"""Where an estimator departs from the contract, and why. Data only: the checks know no estimator by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from influx.learners.linear.logistic import Logistic
from influx.learners.torch.optimizers import Adam
from influx.learners.trees.gradient_boosting import GradientBoosting
from influx.models.text_encoder import TextEncoder
from influx.needs import Need
from influx.oracles import toys
from influx.problem import Learner

NOISE = "draws numbers for positions, not for instances"
SAMPLED = "sampled: equal instances are in different subsets"
FOLDS = "cross-validated: equal instances are in different folds"

# estimator -> check (a function of checks.py) -> reason
EXEMPT: dict[str, dict[str, str]] = {
    "random": {
        "columns_do_not_depend_on_each_other": NOISE,
        "permuted_test_instances_permute_columns": NOISE,
        "permuted_training_instances_permute_rows": NOISE,
        "equal_instances_score_alike": NOISE,
    },
    "downsampling": {"equal_instances_score_alike": SAMPLED},
    "banzhaf": {"equal_instances_score_alike": SAMPLED},
    "ame": {"equal_instances_score_alike": SAMPLED},
    "datamodels": {"equal_instances_score_alike": SAMPLED},
    "c_score": {"equal_instances_score_alike": SAMPLED},
    "confident_learning": {"equal_instances_score_alike": FOLDS},
    "data_oob": {"equal_instances_score_alike": SAMPLED},
    "generative_downsampling": {"equal_instances_score_alike": FOLDS},
    "tmc_shapley": {"equal_instances_score_alike": SAMPLED},
    "beta_shapley": {"equal_instances_score_alike": SAMPLED},
    "g_shapley": {"equal_instances_score_alike": SAMPLED},
}

# estimator -> settings of the toy's training, for those that take no other
TEXTS: dict[str, Any] = {"data": toys.tokens, "model": TextEncoder(width=4, hidden=4)}
TRAININGS: dict[str, dict[str, Any]] = {
    "tracin_adam": {"optimizer": Adam(lr=0.05, weight_decay=0.01)},
    "tracin_we": TEXTS,
    "bm25": TEXTS,
}

# estimator -> its own settings where the default takes long, or leaves an error that checks see or rows without a value
SETTINGS: dict[str, dict[str, Any]] = {
    "pbrf": {"damping": 0.3, "tol": 1e-12},
    "if_cg": {"tolerance": 1e-13},
    "generative_downsampling": {"folds": 3, "repeats": 3},
    "fast_if": {"depth": 100},
    "averaged": {"count": 2},
    "simfluence": {"runs": 3, "held_out": 1, "bootstrap": 2},
    "complexity_gap": {"jitter": 0.01, "repeats": 2},
    "if_lissa": {"depth": 200, "repeats": 2},
    "trak": {"dim": 6, "damping": 1.0},
    "dtrak": {"dim": 6, "damping": 0.1},
    "logra": {"rank": 2},
    "less": {"dim": 16},
}

# estimators that train many models one block after the other when blocks are small
LONG = (
    *("datamodels", "data_oob", "ame", "banzhaf", "c_score", "g_shapley", "beta_shapley", "fast_if", "if_lissa"),
    *("shapley", "tmc_shapley", "shapley_taylor", "shapley_interaction"),
)

# need -> learner of the toy for estimators with that need, which nets do not serve
LEARNERS: dict[Need, Learner] = {
    Need.LINEAR_MODEL: Logistic(weight_decay=0.05),
    Need.FOREST: GradientBoosting(n_estimators=4, max_depth=1, min_samples_leaf=2),  # purer leaves leave boostin 0
}


@dataclass(frozen=True)
class Agreement:
    """Least mean Spearman correlation with exact leave-one-out, and least share of its sum with the right sign.

    None where the score says nothing about the effect of removal. ``size``: a score in loss units is as large.
    """

    ridge: tuple[float, float] | None = (0.95, 0.99)
    logistic: tuple[float, float] | None = (0.95, 0.99)
    size: bool = True
    reason: str = "an estimate of the effect of removal"


CURVATURE = "ignores curvature and depends on the checkpoints; the sign is what must hold"
DIVIDED = "divides each instance's effect by its size; the sign is what must hold"
FALL = "divides the fall of the risk over the training; the sign is what must hold"
NO_EFFECT = "one number per training instance: the same for every test instance"
COALITIONS = "an average over training sets of all sizes, on which leave-one-out has no say; these have many players"
EXPLAINED = "compares explanations of one trained model, which say nothing of training without an instance"
PARTS = "the effect in training sets of part of the size, from a sample of them"
SHARES = "shares of a logit, which are not the effect of removal; the sign is what must hold"
SHARED = "instances share the effect of their group equally"
LINEARISED = "weighs all instances alike in its curvature, which is damped by ten times its mean eigenvalue"
LAYERS = "its curvature is an approximation, which a softmax layer shows"
NO_TEXTS = Agreement(ridge=None, logistic=None, size=False, reason="takes texts, which no closed form tells about")
TREES = Agreement(ridge=None, logistic=None, size=False, reason="takes trees, which no closed form tells about")
AGREEMENT: dict[str, Agreement] = {
    "trak": Agreement(ridge=(0.8, 0.9), logistic=(0.85, 0.9), reason=LINEARISED),
    "dtrak": Agreement(ridge=None, logistic=None, reason="an association without a sign of the risk"),
    "less": Agreement(ridge=(0.6, 0.8), logistic=(0.7, 0.8), reason=CURVATURE),
    "logra": Agreement(ridge=(0.7, 0.8), logistic=(0.7, 0.8), size=False, reason=LAYERS),
    "tracin_we": NO_TEXTS,
    "bm25": NO_TEXTS,
    "leaf_refit": TREES,
    "leaf_influence": TREES,
    "boostin": TREES,
    "trex": TREES,
    "tree_similarity": TREES,
    "if_ekfac": Agreement(logistic=(0.95, 0.97), reason=LAYERS),
    "datainf": Agreement(ridge=(0.8, 0.9), logistic=(0.85, 0.9), reason="a mean of inverses of single instances"),
    "random": Agreement(ridge=None, logistic=None, reason="noise"),
    "loss": Agreement(ridge=None, logistic=None, reason=NO_EFFECT),
    "confident_learning": Agreement(ridge=None, logistic=None, reason=NO_EFFECT),
    "gradient_norm": Agreement(ridge=None, logistic=None, reason=NO_EFFECT),
    "feature_similarity": Agreement(
        ridge=None, logistic=(0.5, 0.85), reason="similarity of inputs only; without labels it has no sign"
    ),
    "relatif": Agreement(ridge=(0.8, 0.95), logistic=(0.8, 0.95), reason=DIVIDED),
    "renorm_if": Agreement(ridge=(0.6, 0.95), logistic=(0.7, 0.95), reason=DIVIDED),
    "tracincp": Agreement(ridge=(0.6, 0.85), logistic=(0.7, 0.85), reason=CURVATURE),
    "tracin_ad": Agreement(ridge=(0.6, 0.85), logistic=(0.7, 0.85), reason=CURVATURE),
    "tracin_last": Agreement(ridge=(0.6, 0.85), logistic=(0.7, 0.85), reason=CURVATURE),
    "vae_tracin": Agreement(ridge=(0.6, 0.85), logistic=(0.7, 0.85), reason=CURVATURE),
    "tracinrp": Agreement(ridge=(0.6, 0.85), logistic=(0.7, 0.85), reason=CURVATURE),
    "gas": Agreement(ridge=(0.7, 0.85), logistic=(0.8, 0.85), reason=CURVATURE),
    "gas_layerwise": Agreement(
        ridge=(0.5, 0.7), logistic=(0.7, 0.8), reason="as gas; the bias of one output is a layer whose cosine is a sign"
    ),
    "representer_point": Agreement(ridge=(0.75, 0.88), logistic=(0.78, 0.87), reason=SHARES),
    "renorm_representer": Agreement(ridge=(0.65, 0.88), logistic=(0.75, 0.87), reason=SHARES),
    "representer_l1": Agreement(ridge=(0.3, 0.65), logistic=(0.65, 0.8), reason=f"{SHARES}; it sees a few features"),
    "representer_nuclear": Agreement(
        ridge=(0.2, 0.6), logistic=(0.6, 0.8), reason=f"{SHARES}; it sees a few directions of the features"
    ),
    "rps_lje": Agreement(ridge=(0.95, 0.9), logistic=(0.75, 0.9), reason=SHARES),
    "tracin": Agreement(ridge=(0.7, 0.85), logistic=(0.7, 0.85), size=False, reason=FALL),
    "tracin_momentum": Agreement(ridge=(0.7, 0.85), logistic=(0.7, 0.85), size=False, reason=FALL),
    "renorm_tracin": Agreement(ridge=(0.6, 0.85), logistic=(0.7, 0.85), reason=FALL),
    "tracin_ideal": Agreement(
        ridge=None, logistic=None, size=False, reason="a full batch shares the fall of the risk equally"
    ),
    "tracin_adam": Agreement(ridge=None, logistic=None, size=False, reason="takes no training by SGD"),
    "hydra_fast": Agreement(
        ridge=(0.7, 0.85),
        logistic=(0.7, 0.85),
        size=False,
        reason="without curvature no step takes back what an earlier one did; the sign is what must hold",
    ),
    "shapley": Agreement(ridge=None, logistic=None, size=False, reason=COALITIONS),
    "tmc_shapley": Agreement(ridge=None, logistic=None, size=False, reason=COALITIONS),
    "beta_shapley": Agreement(ridge=None, logistic=None, size=False, reason=COALITIONS),
    "shapley_interaction": Agreement(ridge=None, logistic=None, size=False, reason=COALITIONS),
    "shapley_taylor": Agreement(ridge=None, logistic=None, size=False, reason=COALITIONS),
    "g_shapley": Agreement(ridge=None, logistic=None, size=False, reason=COALITIONS),
    "shap": Agreement(ridge=None, logistic=None, reason=EXPLAINED),
    "neuron_shapley": Agreement(ridge=None, logistic=None, reason=EXPLAINED),
    "generative_downsampling": Agreement(
        ridge=(0.6, 0.85), logistic=(0.35, 0.75), size=False, reason="ten models without each instance, of less data"
    ),
    "downsampling": Agreement(ridge=(0.8, 0.93), logistic=(0.85, 0.95), size=False, reason=PARTS),
    "banzhaf": Agreement(ridge=(0.8, 0.93), logistic=(0.85, 0.95), size=False, reason=PARTS),
    "ame": Agreement(ridge=(0.8, 0.93), logistic=(0.85, 0.95), size=False, reason=PARTS),
    "datamodels": Agreement(ridge=(0.9, 0.95), size=False, reason=PARTS),
    "c_score": Agreement(ridge=(0.7, 0.9), logistic=(0.8, 0.93), size=False, reason=PARTS),
    "data_oob": Agreement(ridge=(0.8, 0.93), logistic=(0.85, 0.95), size=False, reason=PARTS),
    "group_loo": Agreement(ridge=(0.4, 0.75), logistic=(0.6, 0.8), size=False, reason=SHARED),
    "group_if": Agreement(ridge=(0.4, 0.75), logistic=(0.6, 0.8), size=False, reason=SHARED),
    "second_order_if": Agreement(ridge=(0.4, 0.75), logistic=(0.6, 0.8), size=False, reason=SHARED),
    "averaged": Agreement(ridge=None, logistic=None, reason="that of the estimator that it averages"),
    "simfluence": Agreement(
        ridge=None, logistic=None, size=False, reason="batches that hold every instance do not tell them apart"
    ),
    "complexity_gap": Agreement(ridge=None, logistic=None, reason=NO_EFFECT),
    "knn_loo": Agreement(ridge=None, logistic=None, reason="zero for all but the nearest instances"),
    "knn_shapley": Agreement(
        ridge=(0.3, 0.6), logistic=(0.7, 0.7), reason="the utility of a surrogate; labels near by are what agrees"
    ),
}
