"""Which guarantee the values of an estimator can have, told by its name and settings before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
SUBSETS = {  # differences of mean risks of models on random subsets, and what they are in expectation
    "downsampling": "expected risk of models on random subsets without the instance, minus that with it",
    "banzhaf": "(weighted) Banzhaf value: expected risk of models on random subsets without the instance, minus with",
    "data_oob": "expected risk of models on bootstrap samples without the instance, minus that with it",
    "c_score": "expected risk without the instance minus that with it at each size, in the mean over sizes that this "
    "run's numbers of models weigh",
    "ame": "mean over estimator.probabilities of the expected risk without the instance minus that with it",
}
ORDERS = {  # means of marginal risks over random permutations, and what they are in expectation
    "tmc_shapley": "Shapley value of the risk under the seeds given",
    "beta_shapley": "Beta Shapley value of the risk under the seeds given",
    "shapley_interaction": "Shapley value of the risk under the seeds given",
}
RULES = {"banzhaf": "msr", "ame": "ipw"}  # the rule that is a difference of means
OWN_SEEDS = ("downsampling", "banzhaf", "data_oob")  # a seed for every model makes its training part of the draw
DISJOINT = (None, "label", "cluster")  # groups that no instance has two of
INSTEAD = "choose estimator=downsampling estimator.target=zero_one"
UNBOUNDED = {  # estimators that draw, and why that leaves no bound whatever the settings
    "averaged": f"it averages few values without bounds; {INSTEAD}",
    "datamodels": "weights of a LASSO, debiased or not, are no mean over independent draws; choose estimator=banzhaf "
    "estimator.target=zero_one on the same models",
    "g_shapley": "it averages falls of the loss, which has no bounds; choose estimator=tmc_shapley "
    "estimator.target=zero_one estimator.truncation=0",
    "generative_downsampling": f"log-densities have no bounds; with classes {INSTEAD}",
    "neuron_shapley": "a product of two explanations estimates no retraining, and with more units than "
    "estimator.max_exact they are sampled; see table neurons for bounds of units",
    "shap": "a product of two explanations estimates no retraining, and with more features than estimator.max_exact "
    "they are sampled",
    "shapley_taylor": "a draw adds up interactions with all players, so that its range grows with their number; set "
    "estimator.estimator=exact or choose estimator=shapley_interaction",
    "simfluence": f"it simulates by a fit to few trainings, which is no mean over draws; {INSTEAD}",
}


def exactly(name: str, settings: Mapping[str, Any]) -> str:
    """The quantity that an estimator with these settings computes exactly, or nothing."""
    if any(settings.get(switch, "exact") != "exact" for switch in SWITCHES):
        return ""
    semivalue = settings.get("semivalue", "shapley")
    if name == "knn_shapley" and semivalue != "shapley":
        return f"{semivalue} semivalue of a nearest-neighbour predictor on the features"
    return EXACT.get(name, "")


def unbounded(name: str, settings: Mapping[str, Any], *, classes: bool | None = True) -> str:
    """Why sampling leaves no concentration bound of an estimator's values; nothing where there is one.

    Args:
        name: the estimator's.
        settings: its fields.
        classes: whether the data have classes, whose errors are risks within [0, 1]; None where this is not known.
    """
    if exactly(name, settings):
        return "the values are exact, so that there is no error of sampling"
    if name not in SUBSETS and name not in ORDERS:
        return UNBOUNDED.get(name, "the estimator is no mean over independent draws")
    if classes is False:
        return "only errors of classes have bounds, not the risks of these data; choose a dataset with classes"
    found = list(_obstacles(name, settings))
    if not found:
        return ""
    remedies = " ".join(remedy for _, remedy in found)
    given = "with classes " if classes is None and "zero_one" in remedies else ""
    return f"{' and '.join(why for why, _ in found)}; {given}set {remedies}"


def _obstacles(name: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What stands against a bound, and the setting that takes it away."""
    if settings.get("target") != "zero_one":
        yield "risks without bounds have no concentration bound", "estimator.target=zero_one"
    yield from _of_orders(settings) if name in ORDERS else _of_subsets(name, settings)


def _of_subsets(name: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if settings.get("seeds", 1) != 1 and not own_seeds(name, settings):
        yield "models that take turns with several seeds are not drawn alike", "estimator.seeds=1"
    if settings.get("target_stderr") is not None:
        yield "a stopping rule leaves no bound", "estimator.target_stderr=null"
    rule = RULES.get(name)
    if settings.get("rule", rule) != rule:
        yield f"the rule {settings['rule']} is no difference of means", f"estimator.rule={rule}"


def own_seeds(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether every model has a seed of its own, so that the randomness of training is drawn with the subset."""
    alone = name in OWN_SEEDS and settings.get("sampling") != "paired_sizes"
    return alone and settings.get("seeds", 1) == settings.get("models")


def _of_orders(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if settings.get("truncation"):
        yield "truncation leaves out marginals", "estimator.truncation=0"
    if settings.get("stop", "budget") != "budget":
        yield "a stopping rule leaves no bound", "estimator.stop=budget"
    if settings.get("groups") not in DISJOINT:
        yield "instances in several groups add up their shares", "estimator.groups=label"
    empty = settings.get("empty_value", "")
    if not isinstance(empty, str) and not 0 <= empty <= 1:
        yield f"with a risk of {empty:g} on nothing marginals exceed 1", "estimator.empty_value=uniform"


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
    quantity = (SUBSETS | ORDERS).get(name)
    if settings and (quantity or name in UNBOUNDED):
        why = unbounded(name, settings, classes=None)
        if not why:
            return f"concentration: a bound on the distance to the {quantity}; add guarantee to metric for its width"
        return f"none: {why}; {_calibration(truth)}"
    return f"none by construction; {_calibration(truth)}"


def _calibration(truth: bool) -> str:
    given = "the ground truth" if truth else "a ground truth such as truth=loo"
    return f"guarantee in metric calibrates an interval on {given}"
