"""Each yaml lists exactly the fields of the class that it names, and every choice can be built from it."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"
FILES = sorted([*(CONF / "dataset").glob("*.yaml"), *(CONF / "corruption").glob("*.yaml")])
DATASETS = {"digits", "breast_cancer", "wine", "iris", "diabetes", "csv", "parquet", "npz", "image_folder"} | {
    *("mnist", "fashion_mnist", "cifar10", "cifar100", "synthetic", "synthetic_text", "text", "docstrings", "mine")
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_yaml_file_holds_the_fields_and_defaults_of_its_class(file: Path) -> None:
    assert file.read_text().startswith("# ")
    settings = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(settings, dict)
    module, name = str(settings.pop("_target_")).rsplit(".", 1)
    cls = getattr(importlib.import_module(module), name)
    assert list(settings) == [field.name for field in fields(cls)]
    built = cls(**settings)
    defaults = cls(**({"which": settings["which"]} if "which" in settings else {}))
    assert built == defaults


def test_the_promised_datasets_are_there() -> None:
    assert {file.stem for file in FILES if file.parent.name == "dataset"} == DATASETS
