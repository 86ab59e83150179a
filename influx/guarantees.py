"""Which guarantee the values of an estimator can have, told by its name and settings before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXACT = {  # estimators that compute their quantity exactly, and that quantity
    "loo": "leave-one-out of the model under the seeds given, by retraining",
    "group_loo": "leave-one-group-out under the seeds given, by retraining, shared equally by the group's instances",
    "cooks_distance": "leave-one-out of the linear model, by its optimum without each instance",
    "leaf_refit": "leave-one-out of trees whose splits are kept",
    "shapley": "Shapley value of the players over all coalitions, by retraining",
    "shapley_interaction": "Shapley value of the players over all coalitions, by retraining",
    "shapley_taylor": "Shapley value of the players over all coalitions, by retraining",
    "knn_loo": "leave-one-out of a nearest-neighbour predictor on the features",
    "knn_shapley": "Shapley value of a nearest-neighbour predictor on the features (Jia et al. 2019)",
}
SWITCHES = ("variant", "estimator")  # settings with a choice that computes exactly, and others that do not
SAMPLED = ("downsampling", "banzhaf", "tmc_shapley")  # means over independent draws


def exactly(name: str, settings: Mapping[str, Any]) -> str:
    """The quantity that an estimator with these settings computes exactly, or nothing."""
    if any(settings.get(switch, "exact") != "exact" for switch in SWITCHES):
        return ""
    semivalue = settings.get("semivalue", "shapley")
    if name == "knn_shapley" and semivalue != "shapley":
        return f"{semivalue} semivalue of a nearest-neighbour predictor on the features"
    return EXACT.get(name, "")


def unbounded(name: str, settings: Mapping[str, Any]) -> str:
    """Why sampling leaves no concentration bound of an estimator's values; nothing where there is one."""
    if name not in SAMPLED:
        return "the estimator is no mean over independent draws"
    if settings.get("target") != "zero_one":
        return "risks without bounds have no concentration bound; set estimator.target=zero_one"
    if settings.get("seeds", 1) != 1:
        return "with several seeds risks are not independent; set estimator.seeds=1"
    if name == "tmc_shapley":
        if settings.get("truncation") or settings.get("stop") != "budget" or settings.get("groups") is not None:
            return "truncation, stopping rules and groups leave no bound; set estimator.truncation=0 and stop=budget"
        empty = settings.get("empty_value", "")
        if not isinstance(empty, str) and not 0 <= empty <= 1:
            return f"with a risk of {empty:g} on nothing marginals exceed 1; set estimator.empty_value within [0, 1]"
        return ""
    if settings.get("target_stderr") is not None:
        return "a stopping rule leaves no bound; set estimator.target_stderr=null"
    if settings.get("sampling", "") == "paired_sizes" or settings.get("rule", "msr") != "msr":
        return "this rule is no difference of two means; choose another sampling or rule=msr"
    return ""


def by_construction(name: str, settings: Mapping[str, Any], truth: bool) -> str:
    """One sentence on the guarantee that no metric measured: exact, a bound, or an interval that could be calibrated.

    Args:
        name: the estimator's.
        settings: its fields; without them nothing is said of bounds.
        truth: there is ground truth to calibrate on.
    """
    exact = exactly(name, settings)
    if exact:
        return f"exact: {exact}"
    if name in SAMPLED and settings:
        why = unbounded(name, settings)
        if not why:
            return "concentration: a bound (Hoeffding) on the error of sampling; add guarantee to metric for its width"
        return f"none: {why}; {_calibration(truth)}"
    return f"none by construction; {_calibration(truth)}"


def _calibration(truth: bool) -> str:
    given = "the ground truth" if truth else "a ground truth such as truth=loo"
    return f"guarantee in metric calibrates an interval on {given}"
