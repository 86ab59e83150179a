"""Each check of the contract notices the fault that it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from influx.estimators.baseline.gradient_norm import GradientNorm
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run
from tests.contract import checks
from tests.contract.checks import Maker

Values = Callable[[Run], np.ndarray]
CALLS = [0]


def count(run: Run) -> float:
    CALLS[0] += 1
    return CALLS[0]


def disturb(run: Run) -> float:
    torch.rand(1)
    return 0.0


def zero(run: Run) -> np.ndarray:
    return np.zeros((len(run.train), len(run.test)))


def by_block(run: Run) -> np.ndarray:
    blocks = run.gradients.at(run.final).blocks(run.train)
    return (
        zero(run) + np.concatenate([np.full(len(rows.squares()), len(rows.squares())) for _, rows in blocks])[:, None]
    )


FAULTS: list[tuple[Callable[..., None], Values]] = [
    (checks.values_are_finite_float64_numbers_for_every_pair, lambda run: zero(run) + np.nan),
    (checks.values_are_finite_float64_numbers_for_every_pair, lambda run: zero(run).astype(np.float32)),
    (checks.running_twice_gives_the_same_bits, lambda run: zero(run) + count(run)),
    (checks.nothing_outside_is_changed, lambda run: zero(run) + disturb(run)),
    (checks.block_sizes_do_not_matter, by_block),
    (checks.columns_do_not_depend_on_each_other, lambda run: zero(run) + run.outcomes(run.test).loss.mean()),
    (checks.permuted_test_instances_permute_columns, lambda run: zero(run) + np.arange(len(run.test))),
    (checks.permuted_training_instances_permute_rows, lambda run: zero(run) + np.arange(len(run.train))[:, None]),
    (checks.equal_instances_score_alike, lambda run: zero(run) + run.train.ids[:, None]),
    (checks.it_uses_what_it_declares_and_nothing_else, zero),
]


@dataclass(frozen=True, kw_only=True)
class Faulty:
    """An estimator with one fault."""

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = GradientNorm.card
    values: Values

    def estimate(self, run: Run) -> Influence:
        return run.influence(self.values(run), scale="loss", self_influence=np.zeros(len(run.train)))


@pytest.mark.parametrize(("check", "values"), FAULTS)
def test_a_fault_is_noticed(check: Callable[..., None], values: Values, make: Maker) -> None:
    with pytest.raises(AssertionError):
        check(Faulty(values=values), make)


def test_a_wrong_scale_is_noticed(make: Maker) -> None:
    with pytest.raises(AssertionError):
        checks.scale_is_the_declared_one(Faulty(values=zero), make)


def test_an_undeclared_need_that_goes_through_is_noticed(make: Maker) -> None:
    with pytest.raises(pytest.fail.Exception):
        checks.an_undeclared_need_is_refused(Faulty(values=zero), make)
