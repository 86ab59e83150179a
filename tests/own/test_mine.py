"""``model=mine`` and ``dataset=mine``: a package on disk, named by the command and trusted by it."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import influx
from influx.config import compose, load_choice
from influx.datasets.given import FIRST, instances_of
from influx.errors import UserError
from influx.instantiate import build
from influx.job import assemble
from influx.problem import Data

MODELS = """
from torch import nn

def build(width=3):
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))

def sized(data):
    return nn.Linear(data.train.x.shape[1], data.n_outputs)

def broken():
    raise ValueError("two\\nlines")

def nothing():
    return None

from os import getcwd
"""
DATA = """
import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

READ = []

def whole(n=20):
    x = np.random.default_rng(0).normal(size=(n, 2))
    return x, (x[:, 0] > 0).astype(int)

def split():
    x, y = whole()
    return (x[:12], y[:12]), [(a, b) for a, b in zip(x[12:], y[12:])]

class Items(Dataset):
    def __init__(self, start=0, stop=20, spoilt=""):
        self.rows, self.spoilt = range(start, stop), spoilt

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        x, y = (part[self.rows[index]] for part in whole())
        READ.append(self.rows[index])
        if self.spoilt == "broken" and index == 3:
            raise KeyError("gone")
        found = {"three": (x, y, 1), "ragged": (x[: 1 + (index < 5)], y), "text": ("a", y), "alone": x}
        return found.get(self.spoilt, (torch.from_numpy(x), int(y)))

class Endless(IterableDataset):
    def __iter__(self):
        yield 1

def pair(second=12):
    return Items(0, second), Items(second)

def endless_pair():
    return Endless(), Endless()

def several():
    x, y = whole()
    return ({"a": x, "b": x}, y), ({"a": x, "b": x}, y)

def ready(spoilt=False):
    from influx.problem import Data, Split
    x, y = whole()
    x[0, 0] = np.nan if spoilt else 0
    part = Split(x=x.astype("float32"), y=y.astype("int64"), ids=np.arange(len(y)))
    return Data(name="d", task="classification", kind="tabular", train=part, test=part, classes=("a", "b"))
"""
BASE = ["training.epochs=1", "truth=none", "metric=[]", "baselines=[]", "quiet=true", "estimator=loss"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A package of its own for every test: modules stay imported."""
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "models.py").write_text(MODELS)
    (tmp_path / name / "data.py").write_text(DATA)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def overrides(package: str, model: str = "build", data: str = "whole") -> list[str]:
    parts = [f"model.factory={package}.models:{model}", f"dataset.factory={package}.data:{data}", f"trust=[{package}]"]
    return [*BASE, "model=mine", "dataset=mine", *parts]


def test_a_run_on_a_model_and_data_of_your_own(package: str, tmp_path: Path) -> None:
    found = influx.run([*overrides(package), f"paths.outputs={tmp_path}/out", "+model.arguments.width=4"])
    assert found.influence.shape == (16, 4) and found.model()[0].weight.shape == (4, 2)  # type: ignore[index]
    again = influx.load(found.folder, trust=[f"{package}.data:whole", f"{package}.models:build"])
    assert again.problem.id == found.problem.id
    with pytest.raises(UserError, match="trust"):
        _ = influx.load(found.folder).problem
    for trust in ([package], [package, f"{package}.data:split", f"{package}.models:build"]):
        loaded = influx.load(found.folder, trust=trust)
        assert f"names the function {package}.data:whole" in said(lambda loaded=loaded: loaded.problem)


def test_a_split_that_is_given_is_kept(package: str) -> None:
    data = assemble(compose([*overrides(package, "sized", "split"), "model.sizes=true"])).problem.data
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    assert np.array_equal(data.train.x, x[:12]) and np.array_equal(data.test.x, x[12:])


def loaded(package: str, name: str, seed: int = 0, **settings: object) -> Data:
    node = load_choice("dataset", "mine") | {"factory": f"{package}.data:{name}"} | settings
    found: Data = build(node, "dataset", [package]).load(seed)
    return found


def same(left: Data, right: Data) -> bool:
    pairs = ((a, b) for a, b in zip((left.train, left.test), (right.train, right.test), strict=True))
    return all(a.fingerprint() == b.fingerprint() for a, b in pairs)


def test_a_class_of_dataset_is_split_like_arrays_and_its_items_are_read_once(package: str) -> None:
    for settings in ({}, {"n_train": 8, "n_test": 4, "standardize": True}, {"seed": 1}):
        found = loaded(package, "Items", **settings)  # type: ignore[arg-type]
        read = sys.modules[f"{package}.data"].READ
        assert read == list(range(20))
        read.clear()
        assert same(found, loaded(package, "whole", **settings))  # type: ignore[arg-type]
    assert not same(found, loaded(package, "Items"))


def test_a_pair_of_datasets_keeps_its_split(package: str) -> None:
    assert same(loaded(package, "pair"), loaded(package, "split"))
    assert len(loaded(package, "pair", n_train=6).train) == 6


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("Items", {"spoilt": "three"}, "item 0 of the data of dataset.factory=PACKAGE.data:Items must be (x, y) or"),
        ("Items", {"spoilt": "three"}, "got tuple of 3"),
        ("Items", {"spoilt": "alone"}, "got ndarray"),
        ("Items", {"spoilt": "ragged"}, "x of item 5 of the data of dataset.factory=PACKAGE.data:Items has shape (1,)"),
        ("Items", {"spoilt": "text"}, "must be numbers, got str; convert it"),
        ("Items", {"spoilt": "broken"}, "cannot be read (KeyError: 'gone')"),
        ("Items", {"stop": 0}, "the data of dataset.factory=PACKAGE.data:Items holds no instances"),
        ("pair", {"second": 20}, "test of dataset.factory=PACKAGE.data:pair holds no instances"),
        ("Endless", {}, "is an IterableDataset (Endless), whose items have no numbers; give a map-style Dataset"),
        ("endless_pair", {}, "train of dataset.factory=PACKAGE.data:endless_pair is an IterableDataset"),
    ],
)
def test_a_dataset_whose_items_cannot_serve_is_named(
    package: str, name: str, arguments: dict[str, object], words: str
) -> None:
    assert words.replace("PACKAGE", package) in said(loaded, package, name, arguments=arguments)


def test_items_are_let_go_when_they_are_read() -> None:
    class Long(list[int]):
        def __getitem__(self, index: Any) -> Any:
            return np.full(20_000, index, np.float32), index % 2

    tracemalloc.start()
    try:
        found = instances_of(Long(range(100)), "train", None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    x = found.inputs[FIRST]
    assert x.shape == (100, 20_000) and (x[:, 0] == np.arange(100)).all() and peak < 1.6 * x.nbytes


def test_numbers_of_later_items_may_need_a_wider_type() -> None:
    found = instances_of([(np.array([1]), True), (np.array([0.5]), 2)], "train", None)
    assert found.inputs[FIRST].tolist() == [[1.0], [0.5]] and found.y.tolist() == [1, 2]


def test_other_code_is_another_problem(package: str, tmp_path: Path) -> None:
    first = assemble(compose(overrides(package))).problem.id
    with (tmp_path / package / "layers.py").open("w") as file:  # the factory's file may import it
        file.write("# new\n")
    assert "have changed since Python imported it" in said(assemble, compose(overrides(package)))
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]  # as in another Python
    assert assemble(compose(overrides(package))).problem.id != first


def made(package: str, trust: list[str], **settings: object) -> Any:
    node = load_choice("model", "mine") | {"factory": f"{package}.models:build"} | settings
    return build(node, "model", trust)


def said(call: Callable[..., Any], *arguments: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as refused:
        call(*arguments, **settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_is_not_trusted_is_not_even_imported(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "models.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n" + MODELS)
    assert f"trust=[{package}]" in said(made, package, []) and not (tmp_path / "mark").exists()
    for name in ("os:mkdir", "influx.store:set_aside"):  # functions of influx write files
        assert "outside the packages of yours" in said(made, package, [package], factory=name)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"factory": "PACKAGE.models:getcwd"}, "must name a function or class that"),
        ({"factory": "PACKAGE.models:absent"}, "must name a function or class that"),
        ({"factory": "build"}, "text such as mypackage.module:function"),
        ({"factory": None}, "model.factory must name a function of yours"),
        ({"factory": "PACKAGE.models:broken"}, "fails (ValueError: two lines)"),
        ({"factory": "PACKAGE.models:nothing"}, "must return a torch.nn.Module, got NoneType"),
        ({"arguments": {"height": 3}}, "unexpected keyword argument"),
    ],
)
def test_a_factory_that_cannot_serve_is_named(package: str, settings: dict[str, Any], words: str) -> None:
    named = {k: v.replace("PACKAGE", package) if isinstance(v, str) else v for k, v in settings.items()}
    assert words in said(lambda: made(package, [package], **named).build(None))


def test_a_dataset_that_cannot_serve_is_named(package: str) -> None:
    def load(name: str | None, settings: dict[str, object] | None = None, **arguments: object) -> Any:
        node = load_choice("dataset", "mine") | {"factory": name, "arguments": arguments} | (settings or {})
        return build(node, "dataset", [package]).load(0)

    assert "and models read one" in said(load, f"{package}.data:several")
    assert "unexpected keyword argument" in said(load, f"{package}.data:whole", m=3)
    assert "dataset.factory must name a function of yours" in said(load, None)
    assert len(load(f"{package}.data:ready").train.y) == 20
    for settings in ({"n_train": 5}, {"n_test": 2}, {"standardize": True}):
        assert f"dataset.{next(iter(settings))} does not apply" in said(load, f"{package}.data:ready", settings)
    assert "x of train" in said(load, f"{package}.data:ready", spoilt=True)
