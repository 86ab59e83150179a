"""Settings of tree libraries whose leaves would follow another rule: refused by name, before any work."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from influx.config import load_choice
from influx.errors import ConfigError
from influx.instantiate import build
from tests.cli.conftest import Influx

EARLY, MONOTONE, DRAWN, L1 = "5", "[1,0,0,0]", "0.5", "0.1"
REFUSED = {  # model -> settings of its library, and values that it would take
    "lightgbm": {
        "boosting": "dart",
        "boosting_type": "dart",
        "data_sample_strategy": "goss",
        "subsample": DRAWN,
        "bagging_fraction": DRAWN,
        "monotone_constraints": MONOTONE,
        "categorical_feature": "[0]",
        "reg_alpha": L1,
        "lambda_l1": L1,
        "early_stopping_rounds": EARLY,
        "linear_tree": "true",
        "objective": "huber",
    },
    "xgboost": {
        "booster": "dart",
        "subsample": DRAWN,
        "monotone_constraints": MONOTONE,
        "enable_categorical": "true",
        "reg_alpha": L1,
        "early_stopping_rounds": EARLY,
        "num_parallel_tree": "4",
        "max_delta_step": "1",
        "objective": "reg:pseudohubererror",
    },
    "catboost": {
        "subsample": DRAWN,
        "bootstrap_type": "Bayesian",
        "boosting_type": "Ordered",
        "monotone_constraints": MONOTONE,
        "cat_features": "[0]",
        "early_stopping_rounds": EARLY,
        "leaf_estimation_iterations": "5",
        "langevin": "true",
    },
    "hist_gradient_boosting": {
        "monotonic_cst": MONOTONE,
        "categorical_features": "[0]",
        "early_stopping": "true",
        "subsample": DRAWN,
        "loss": "poisson",
    },
    "gradient_boosting": {
        "subsample": DRAWN,
        "n_iter_no_change": EARLY,
        "validation_fraction": DRAWN,
        "ccp_alpha": L1,
        "init": "zero",
        "loss": "huber",
    },
    "random_forest": {"monotonic_cst": MONOTONE, "ccp_alpha": L1, "class_weight": "balanced", "criterion": "entropy"},
    "extra_trees": {"monotonic_cst": MONOTONE, "ccp_alpha": L1, "class_weight": "balanced", "criterion": "entropy"},
}
PAIRS = [(model, setting) for model, settings in REFUSED.items() for setting in settings]
SHOWN = [("lightgbm", "boosting"), ("random_forest", "monotonic_cst"), ("hist_gradient_boosting", "early_stopping")]
COMMANDS = [("", pair) for pair in PAIRS] + [("+", pair) for pair in PAIRS]


def of(added: str, pair: tuple[str, str]) -> Any:
    """A command line; most take too long for every day."""
    return pytest.param(added, *pair, marks=[] if not added and pair in SHOWN else pytest.mark.slow)


@pytest.mark.parametrize(("model", "setting"), PAIRS)
def test_a_setting_that_changes_the_rule_of_the_leaves_is_no_setting_of_the_model(model: str, setting: str) -> None:
    node = load_choice("model", model)
    known = [f"model.{name}" for name in node if name != "_target_"]
    assert build(node, "model", []).name == model
    with pytest.raises(ConfigError) as refused:
        build(node | {setting: yaml.safe_load(REFUSED[model][setting])}, "model", [])
    said, listed = str(refused.value).split("; known: ")
    assert said.startswith(f"model.{setting} is not a setting") and listed.split(", ") == known


@pytest.mark.parametrize(("added", "model", "setting"), [of(added, pair) for added, pair in COMMANDS])
def test_the_command_refuses_it_in_one_sentence(influx: Influx, added: str, model: str, setting: str) -> None:
    done = influx("run", f"model={model}", f"{added}model.{setting}={REFUSED[model][setting]}")
    assert done.code == 2 and done.out == ""
    assert done.err.startswith(f"error: model.{setting} is not a setting") and "; known: model." in done.err
    assert done.err.count("\n") == 1 and "Traceback" not in done.err
