"""Every choice in every group composes, builds, and lists the fields of its class with their defaults."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from influx.config import GROUPS, NAME, choices_of, compose, conf_dir, load_choice
from influx.errors import ConfigError
from influx.instantiate import build, describe

CHOICES = [(group, name) for group in GROUPS for name in choices_of(group)]
EXPERIMENTS = choices_of("experiment")
IDENTITY = {"which"}  # fields that say which of several datasets a file is; their class has no other default


def nodes(values: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a ``_target_``, however deep."""
    if isinstance(values, dict):
        if "_target_" in values:
            yield values
        for value in values.values():
            yield from nodes(value)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_a_choice_composes_and_builds(group: str, name: str) -> None:
    settings = compose([f"{group}={name}" if group != "metric" else f"metric=[{name}]"])
    chosen = settings[group].keys() if group == "metric" else [settings.choices[group]]
    assert list(chosen) == [name]
    for node in nodes(settings[group]):
        made = build(node, group, [])
        assert (made is None) == (node["_target_"] is None)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_a_file_lists_every_field_with_its_default(group: str, name: str) -> None:
    loaded = load_choice(group, name)
    assert list(nodes(loaded)) or group == "paths"
    for node in nodes(loaded):
        if node["_target_"] is None:
            continue
        made = build(node, group, [])
        fields = {field.name: field for field in dataclasses.fields(made) if field.init}
        assert list(node) == ["_target_", *fields]
        given = {key: node[key] for key in IDENTITY & fields.keys()}
        assert made == type(made)(**given)


@pytest.mark.parametrize(("group", "name"), [*CHOICES, *(("experiment", name) for name in EXPERIMENTS)])
def test_the_first_line_of_a_file_is_a_summary(group: str, name: str) -> None:
    lines = (conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    summary = next(line for line in lines if not line.startswith("# @package"))
    assert summary.startswith("# ") and 10 < len(summary) <= 120
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_and_builds(name: str) -> None:
    settings = compose([f"experiment={name}"])
    for node in nodes(dict(settings.values)):
        if node["_target_"] is not None:
            build(node, name, [])


def test_every_file_belongs_to_a_known_group() -> None:
    groups = {path.relative_to(conf_dir()).parts[0] for path in Path(conf_dir()).rglob("*.yaml")} - {"config.yaml"}
    assert groups <= {*GROUPS, "experiment", "hydra", "machine", "tracker", "bench"}


def other_than(value: Any, hint: Any) -> Iterator[Any]:
    """Values of a type, as YAML would give them, that differ from ``value``; none for a type that is a class."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for arg in args:
            yield from other_than(value, arg)
    elif origin is typing.Literal:
        yield from (arg for arg in args if arg != value)
    elif origin in (list, tuple, Sequence):
        yield from ([item] for item in other_than(None, args[0]))
    else:
        usual = {int: [3, 4], float: [0.25, 0.75, 1], str: ["other"], bool: [True, False], type(None): [None]}
        yield from (made for made in usual.get(hint, []) if made != value)


@pytest.mark.parametrize(("group", "name"), [choice for choice in CHOICES if choice[0] != "paths"])
def test_every_field_can_be_set(group: str, name: str) -> None:
    for node in nodes(load_choice(group, name)):
        if node["_target_"] is None:
            continue
        hints = typing.get_type_hints(type(build(node, "node", [])))
        for key in node.keys() - {"_target_"}:
            assert "collections" not in describe(hints[key]) and "typing" not in describe(hints[key])
            for value in other_than(node[key], hints[key]):
                _set(node | {key: value}, key, hints[key])


def _set(node: dict[str, Any], key: str, hint: Any) -> None:
    try:
        build(node, "node", [])
    except ConfigError as error:  # out of range is fine, a type that nothing fits is not
        assert not str(error).startswith(f"node.{key} must be {describe(hint)}, got")
