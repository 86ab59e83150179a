"""Every estimator with a configuration file keeps the contract."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from itertools import product

import pytest

from influx import catalogue
from influx.config import choices_of, load_choice
from influx.errors import IncompatibleError
from influx.oracles.toys import estimator_named
from influx.run import Estimator
from influx.verification import oracle_of
from tests.contract.checks import CHECKS, Maker, block_sizes_do_not_matter, measure
from tests.contract.exemptions import AGREEMENT, EXEMPT, LEARNERS, LONG, SETTINGS, TRAININGS

NAMES = choices_of("estimator")
PARTS = ("Estimates", "Needs", "Cost", "Source")


def exempt(name: str, check: Callable[..., None]) -> bool:
    return check.__name__ in EXEMPT.get(name, {})


def suited(name: str, make: Maker) -> Maker:
    """A maker of problems that the estimator can take."""
    learners = [LEARNERS[need] for need in estimator_named(name).requires if need in LEARNERS]
    return partial(make, **TRAININGS.get(name, {}), **({"learner": learners[0]} if learners else {}))


KEPT = [(name, check) for name, check in product(NAMES, CHECKS) if not exempt(name, check)]
EXCUSED = [(name, check) for name, check in product(NAMES, CHECKS) if exempt(name, check)]


def readable(value: object) -> str:
    return str(getattr(value, "__name__", value))


def marked(name: str, check: Callable[..., None]) -> object:
    """A case, slow where many small blocks are trained."""
    slow = name in LONG and check is block_sizes_do_not_matter
    return pytest.param(name, check, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("name", "check"), [marked(*case) for case in KEPT], ids=readable)
def test_behaviour(name: str, check: Callable[[Estimator, Maker], None], make: Maker) -> None:
    check(estimator_named(name, SETTINGS.get(name)), suited(name, make))


@pytest.mark.parametrize(("name", "check"), EXCUSED, ids=readable)
def test_an_exemption_is_needed(name: str, check: Callable[[Estimator, Maker], None], make: Maker) -> None:
    with pytest.raises(AssertionError):
        check(estimator_named(name, SETTINGS.get(name)), suited(name, make))


@pytest.mark.parametrize("name", TRAININGS)
def test_another_training_is_needed(name: str, make: Maker) -> None:
    with pytest.raises(IncompatibleError):
        measure(estimator_named(name), make())


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_frozen_keyword_only_dataclass_that_only_stores(name: str) -> None:
    estimator = estimator_named(name)
    assert type(estimator).__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in dataclasses.fields(estimator))
    assert vars(estimator).keys() == {field.name for field in dataclasses.fields(estimator)}


@pytest.mark.parametrize("name", NAMES)
def test_the_name_is_that_of_the_module(name: str) -> None:
    assert load_choice("estimator", name)["_target_"].split(".")[-2] == name


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_its_five_parts(name: str) -> None:
    text = type(estimator_named(name)).__doc__ or ""
    assert text.partition("\n")[0].endswith(".")
    places = [text.find(f"\n    {part}: ") for part in PARTS]
    assert min(places) > 0 and places == sorted(places)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_described(name: str) -> None:
    estimator = estimator_named(name)
    described = re.findall(r"^        (\w+): ", (type(estimator).__doc__ or "").partition("Attributes:")[2], re.M)
    assert described == [field.name for field in dataclasses.fields(estimator)]


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_row_is_complete_and_true(name: str) -> None:
    row = next(row for row in catalogue.list_estimators() if row["name"] == name)
    estimator = estimator_named(name)
    assert all(str(row[column]).strip() for column in ("summary", *catalogue.CARD))
    assert {column: row[column] for column in catalogue.CARD} == dataclasses.asdict(estimator.card)
    assert row["scale"] == estimator.scale and row["groups"] in ("exact", "additive", "no")
    assert row["needs"] == sorted(need.name.lower() for need in estimator.requires)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_an_oracle(name: str) -> None:
    assert oracle_of(name) is not None


def test_exemptions_name_estimators_and_checks_that_exist() -> None:
    assert {*EXEMPT, *TRAININGS, *AGREEMENT} <= set(NAMES)
    assert {check for exempt in EXEMPT.values() for check in exempt} <= {check.__name__ for check in CHECKS}
