"""TracInRP: nearly TracInCP with many numbers, the same draws for a seed, and honest about when it is of no use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.errors import ConfigError
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=5))


def values(toy: Toy, seed: int = 0, **settings: Any) -> np.ndarray:
    other = replace(toy, problem=replace(toy.problem, seed=seed))
    return other.estimate("tracinrp", **settings).values


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
@pytest.mark.parametrize("share", [False, True])
def test_errors_are_as_large_as_the_standard_error_says(kind: str, share: bool, toy: Toy) -> None:
    influence = toy.estimate("tracinrp", dim=400, kind=kind, share=share)
    assert influence.stderr is not None
    z = (influence.values - toy.estimate("tracincp").values) / influence.stderr
    assert (0.5 if kind == "gaussian" and not share else 0.2) < np.sqrt((z**2).mean()) < 1.5


def test_more_numbers_are_closer_to_tracincp(toy: Toy) -> None:
    exact = toy.estimate("tracincp").values
    errors = [np.sqrt(((values(toy, dim=dim) - exact) ** 2).mean()) for dim in (4, 64, 1024, 16384)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 20


def test_projections_depend_on_the_seed_the_checkpoint_and_sharing(toy: Toy) -> None:
    assert not np.allclose(values(toy, seed=0), values(toy, seed=1))
    one = {"dim": 8, "checkpoints": 1, "weight": "uniform"}
    first, last = (values(toy, lr_at=lr_at, share=True, **one) for lr_at in ("next", "prev"))
    assert not np.allclose(first, last) and not np.allclose(values(toy, share=True), values(toy, share=False))


def test_self_influence_is_exact(toy: Toy) -> None:
    projected, exact = (toy.estimate(name).self_influence for name in ("tracinrp", "tracincp"))
    assert projected is not None and exact is not None
    np.testing.assert_allclose(projected, exact, rtol=1e-12)


def test_as_many_numbers_as_parameters_are_warned_about(toy: Toy) -> None:
    size = 3 * 5 + 5 + 5 * 3 + 3
    for dim, expected in ((size, True), (size - 1, False)):
        estimator = estimator_named("tracinrp", {"dim": dim})
        run = toy.run(estimator, "tracinrp")
        estimator.estimate(run)
        assert any(f"dim={dim} projects the {size} parameters" in w for w in run.warnings) is expected


@pytest.mark.parametrize("dim", [0, -3])
def test_no_numbers_are_refused(dim: int) -> None:
    with pytest.raises(ConfigError, match=f"estimator.dim must be at least 1, got {dim}"):
        estimator_named("tracinrp", {"dim": dim})


def test_one_number_is_enough_to_run(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression"), MLP(width=5))
    influence = toy.estimate("tracinrp", dim=1)
    assert np.isfinite(influence.values).all() and influence.stderr is not None and (influence.stderr > 0).all()
