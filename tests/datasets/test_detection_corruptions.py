"""Corruptions with test instances of their own: shortcut, grouped classes, mixed data, poison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from influx.datasets.bundled import Bundled
from influx.datasets.cifar import Cifar
from influx.datasets.corruption.backdoor import Backdoor
from influx.datasets.corruption.grouped_classes import GroupedClasses
from influx.datasets.corruption.mixed import Mixed
from influx.datasets.corruption.poison import Poison
from influx.datasets.corruption.shortcut import Shortcut
from influx.datasets.digits import Digits
from influx.datasets.synthetic import Synthetic
from influx.errors import ConfigError, IncompatibleError
from influx.problem import Data
from influx.results import instances_table
from tests.datasets import formats


@pytest.fixture(scope="module")
def digits() -> Data:
    return Digits(n_train=400, n_test=100).load(0)


def test_a_backdoor_says_which_test_instances_carry_it(digits: Data) -> None:
    for test, count in (("none", 0), ("all", 100)):
        assert Backdoor(test=test).apply(digits, 0).test_flags["backdoor"].sum() == count


@pytest.mark.parametrize(("test", "carry"), [("none", 0), ("others", 1), ("all", 2)])
def test_a_shortcut_is_on_one_class_in_training_and_on_the_others_in_testing(
    digits: Data, test: str, carry: int
) -> None:
    data = Shortcut(fraction=0.4, target_class=3, test=test).apply(digits, 0)
    marked, tested = data.flags["shortcut"], data.test_flags["shortcut"]
    assert marked.sum() == round(0.4 * (digits.train.y == 3).sum()) and (digits.train.y[marked] == 3).all()
    np.testing.assert_array_equal(tested, [np.zeros(100, bool), digits.test.y != 3, np.ones(100, bool)][carry])
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(data, split).y, getattr(digits, split).y)
        rows = marked if split == "train" else tested
        drawn = digits.display[split].copy()
        drawn[rows, :, -2:, -2:] = 1.0
        np.testing.assert_array_equal(data.display[split], drawn)
        changed = (getattr(data, split).x != getattr(digits, split).x).any(axis=1)
        assert not changed[~rows].any() and (changed[rows].all() or split == "train")


def test_grouped_classes_hide_the_class_and_keep_it_in_flags(digits: Data) -> None:
    data = GroupedClasses(groups=3).apply(digits, 1)
    assert len(data.classes) == data.n_outputs == 3 and sorted("".join(data.classes).replace("|", "")) == list(
        "0123456789"
    )
    for split, flags in (("train", data.flags), ("test", data.test_flags)):
        hidden, seen = flags["subclass"], getattr(data, split).y
        np.testing.assert_array_equal(hidden, getattr(digits, split).y)
        assert all(str(was) in data.classes[now].split("|") for was, now in zip(hidden, seen, strict=True))
    assert sorted(len(name.split("|")) for name in data.classes) == [3, 3, 4]


def test_mixed_negatives_are_what_scaling_negatives_gives(digits: Data) -> None:
    data = Mixed(fraction=0.1, test_fraction=0.3, target_class="4").apply(digits, 0)
    raw = Digits(n_train=400, n_test=100, standardize=False).load(0)
    mean, std = raw.train.x.mean(0), raw.train.x.std(0)
    std = np.where(np.ptp(raw.train.x, axis=0) == 0, 1, std)
    for split, flags, count in (("train", data.flags, 40), ("test", data.test_flags, 30)):
        foreign, now, was = flags["foreign"], getattr(data, split), getattr(digits, split)
        assert foreign.sum() == count and (now.y[foreign] == 4).all()
        np.testing.assert_array_equal(now.y[~foreign], was.y[~foreign])
        np.testing.assert_array_equal(now.x[~foreign], was.x[~foreign])
        np.testing.assert_array_equal(data.display[split][foreign], 1 - digits.display[split][foreign])
        expected = (1 - getattr(raw, split).x[foreign] - mean) / std
        np.testing.assert_allclose(now.x[foreign], expected, atol=2e-4, rtol=1e-5)
        np.testing.assert_array_equal(now.ids, was.ids)


def test_foreign_instances_come_from_the_same_split_of_the_source(digits: Data) -> None:
    source = Synthetic(shape=[64], n_train=60, n_test=30)
    data, given = Mixed(fraction=0.1, source=source).apply(digits, 3), source.load(3)
    for split, flags in (("train", data.flags), ("test", data.test_flags)):
        found = getattr(data, split).x[flags["foreign"]]
        known = {row.tobytes() for row in getattr(given, split).x}
        assert len(found) == len({row.tobytes() for row in found}) and all(row.tobytes() in known for row in found)


@pytest.mark.parametrize("backwards", [False, True])
def test_foreign_images_are_framed_or_cropped_to_size(tmp_path: Path, digits: Data, backwards: bool) -> None:
    x, *_ = formats.write_cifar10_binary(tmp_path, 50, 20, 0)
    cifar = Cifar(path=str(tmp_path))
    if backwards:  # 3 x 32 x 32, 8 bits, into 8 x 8 in [0, 1]
        data = Mixed(source=cifar).apply(digits, 0)
        shown = data.display["train"][data.flags["foreign"]]
        grey = (x[:, :, 12:20, 12:20] / 255).mean(1, keepdims=True).astype(np.float32)
    else:
        data = Mixed(fraction=0.2, source=Digits(n_train=400, n_test=100)).apply(cifar.load(0), 0)
        shown = data.display["train"][data.flags["foreign"]]
        grey = np.zeros((400, 3, 32, 32), np.uint8)
        grey[:, :, 12:20, 12:20] = np.round(digits.display["train"] * 255)
    assert all(np.isclose(grey, image, atol=1e-6).all((1, 2, 3)).any() for image in shown)


def test_poison_is_a_blend_of_the_target_and_an_instance_of_the_wanted_class(digits: Data) -> None:
    data = Poison(targets=4, poisons=3, opacity=0.7).apply(digits, 2)
    target, of = data.test_flags["target"], data.flags["poison_of"]
    assert target.sum() == 4 and (of >= 0).sum() == 12
    np.testing.assert_array_equal(data.flags["poison"], of >= 0)
    np.testing.assert_array_equal(data.train.y, digits.train.y)
    np.testing.assert_array_equal(data.train.x[of < 0], digits.train.x[of < 0])
    np.testing.assert_array_equal(data.test.y != digits.test.y, target)
    np.testing.assert_array_equal(data.test_flags["original_label"], digits.test.y)
    for place in np.flatnonzero(target):
        rows = of == digits.test.ids[place]
        assert rows.sum() == 3 and (data.train.y[rows] == data.test.y[place]).all()
        for now, train, test in (
            (data.train.x, digits.train.x, digits.test.x),
            (data.display["train"], digits.display["train"], digits.display["test"]),
        ):
            np.testing.assert_allclose(now[rows], 0.7 * test[place] + 0.3 * train[rows], atol=1e-5)


def test_instances_tell_flags_of_both_splits(digits: Data) -> None:
    from types import SimpleNamespace

    data = Poison(targets=4, poisons=3).apply(digits, 2)
    outcome = SimpleNamespace(loss=0.0, margin=0.0, prediction=0.0)
    table = instances_table(data, {"train": outcome, "test": outcome})
    assert table["poison"].sum() == 12 and table["target"].sum() == 4
    assert table.loc[table["split"] == "train", "target"].isna().all()
    assert table.loc[table["split"] == "test", "poison_of"].isna().all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Shortcut(fraction=0.001), r"corruption\.fraction=0.001 selects none"),
        (lambda: Shortcut(target_class=12), "no class '12'"),
        (lambda: Shortcut(test="half"), r"corruption\.test"),
        (lambda: Shortcut(size=9), r"corruption\.size=9"),
        (lambda: GroupedClasses(groups=10), r"corruption\.groups must be below the 10"),
        (lambda: GroupedClasses(groups=1), r"corruption\.groups must be .* at least 2"),
        (lambda: Mixed(test_fraction=0.001), r"corruption\.test_fraction=0.001 selects none of 100 test"),
        (lambda: Mixed(source=Synthetic(shape=[64], n_test=5)), r"has 5 test instances, 10 are needed"),
        (lambda: Mixed(source=Synthetic(shape=[63])), r"need the shape \(64,\)"),
        (lambda: Poison(targets=101), r"corruption\.targets=101"),
        (lambda: Poison(poisons=50), r"corruption\.poisons=50"),
        (lambda: Poison(opacity=0), r"corruption\.opacity"),
        (lambda: Poison(targets=None), r"corruption\.targets"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], Shortcut], words: str, digits: Data) -> None:
    with pytest.raises((ConfigError, IncompatibleError), match=words):
        make().apply(digits, 0)


@pytest.mark.parametrize("corruption", [Shortcut(), GroupedClasses(), Mixed(), Poison()], ids=repr)
def test_regressions_are_refused(corruption: Shortcut, digits: Data) -> None:
    with pytest.raises(IncompatibleError, match="is a regression"):
        corruption.apply(replace(digits, task="regression"), 0)


def test_tables_have_no_negatives() -> None:
    with pytest.raises(IncompatibleError, match=r"set corruption\.source"):
        Mixed().apply(Bundled(which="wine").load(0), 0)
