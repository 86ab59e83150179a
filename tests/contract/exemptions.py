"""Where an estimator departs from the contract, and why. Data only: the checks know no estimator by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from influx.learners.torch.optimizers import Adam

NOISE = "draws numbers for positions, not for instances"

# estimator -> check (a function of checks.py) -> reason
EXEMPT: dict[str, dict[str, str]] = {
    "random": {
        "columns_do_not_depend_on_each_other": NOISE,
        "permuted_test_instances_permute_columns": NOISE,
        "permuted_training_instances_permute_rows": NOISE,
        "equal_instances_score_alike": NOISE,
    },
}

# estimator -> settings of the toy's training, for those that take no other
TRAININGS: dict[str, dict[str, Any]] = {"tracin_adam": {"optimizer": Adam(lr=0.05, weight_decay=0.01)}}


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
FALL = "divides the fall of the risk over the training; the sign is what must hold"
NO_EFFECT = "one number per training instance: the same for every test instance"
AGREEMENT: dict[str, Agreement] = {
    "random": Agreement(ridge=None, logistic=None, reason="noise"),
    "loss": Agreement(ridge=None, logistic=None, reason=NO_EFFECT),
    "gradient_norm": Agreement(ridge=None, logistic=None, reason=NO_EFFECT),
    "feature_similarity": Agreement(
        ridge=None, logistic=(0.5, 0.85), reason="similarity of inputs only; without labels it has no sign"
    ),
    "tracincp": Agreement(ridge=(0.6, 0.85), logistic=(0.7, 0.85), reason=CURVATURE),
    "tracin_last": Agreement(ridge=(0.6, 0.85), logistic=(0.7, 0.85), reason=CURVATURE),
    "tracinrp": Agreement(ridge=(0.6, 0.85), logistic=(0.7, 0.85), reason=CURVATURE),
    "gas": Agreement(ridge=(0.7, 0.85), logistic=(0.8, 0.85), reason=CURVATURE),
    "gas_layerwise": Agreement(
        ridge=(0.5, 0.7), logistic=(0.7, 0.8), reason="as gas; the bias of one output is a layer whose cosine is a sign"
    ),
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
}
