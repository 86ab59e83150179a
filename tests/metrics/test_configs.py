from __future__ import annotations

import dataclasses
import importlib
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from influx.metrics.mislabel import Mislabel
from influx.metrics.ranking import Ranking
from influx.needs import Need

FOLDER = Path(__file__).parents[2] / "conf" / "metric"
BUILT = (
    "agreement",
    "anomaly_detection",
    "ceiling",
    "class_detection",
    "fact_tracing",
    "if_gaps",
    "lds",
    "mislabel",
    "mixed_data",
    "randomisation",
    "ranking",
    "runtime",
    "shortcut",
    "stability",
    "surrogate_transfer",
    "tail_patch",
    "target_identification",
    "tradeoff",
    "unfairness",
)

NEEDS = {
    "lds": frozenset({Need.RETRAIN}),
    "surrogate_transfer": frozenset({Need.RETRAIN}),
    "unfairness": frozenset({Need.RETRAIN}),
    "if_gaps": frozenset({Need.RETRAIN, Need.CURVATURE}),
    "tradeoff": frozenset({Need.GRADIENTS}),
    "tail_patch": frozenset({Need.GRADIENTS}),
}


@pytest.mark.parametrize("name", BUILT)
def test_yaml_lists_every_field_with_its_default(name):
    path = FOLDER / f"{name}.yaml"
    config = OmegaConf.to_container(OmegaConf.load(path))[name]
    module, _, class_name = config.pop("_target_").rpartition(".")
    metric = getattr(importlib.import_module(module), class_name)
    assert config == {field.name: field.default for field in dataclasses.fields(metric)}
    assert metric(**config) == metric()
    assert metric.requires == NEEDS.get(name, frozenset())


@pytest.mark.parametrize("name", BUILT)
def test_yaml_starts_with_a_summary(name):
    summary = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert summary.startswith("# ") and not summary.startswith("# @") and len(summary) <= 120


def test_several_metrics_are_chosen_at_once_and_keep_their_own_settings(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "metric")
    (tmp_path / "root.yaml").write_text("defaults:\n  - metric: [agreement, lds]\n  - _self_\n", encoding="utf-8")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("root", overrides=["metric=[ranking,mislabel]", "metric.ranking.k=3"])
    built = {name: instantiate(settings) for name, settings in config.metric.items()}
    assert built == {"ranking": Ranking(k=3), "mislabel": Mislabel()}
