"""What the learner finds out about nets that it has never seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from influx.errors import ConfigError, IncompatibleError
from influx.estimators.trajectory.tracincp import TracInCP
from influx.learners.torch.dense import dense_layers
from influx.learners.torch.learner import TorchLearner
from influx.learners.torch.optimizers import SGD
from influx.learners.torch.training import Training
from influx.learners.torch.traits import is_random
from influx.oracles import retraining, toys
from influx.problem import Data, Design
from tests.engines import nets
from tests.engines.nets import Own

Make = Callable[[], nn.Module]
LOOKALIKES = [
    nets.halved,
    nets.hooked,
    nets.pre_hooked,
    nets.doubled,
    nets.repeated,
    nets.tied,
    nets.gradient_hooked,
    nets.backward_hooked,
]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Nets made in a test begin the same every time."""
    torch.manual_seed(0)


def learner(make: Make, **settings: Any) -> TorchLearner:
    given: dict[str, Any] = {"epochs": 3, "batch_size": 4, "dtype": "float64"} | settings
    return TorchLearner(model=Own(make=make), optimizer=SGD(lr=0.3), training=Training(**given))


def leave_one_out(n: int) -> Design:
    zeros = np.zeros(n, np.int64)
    return Design(weights=(1 - np.eye(n)).astype(np.uint8), init=zeros, order=zeros, loss_norm="full")


def with_full_model(n: int) -> Design:
    everything = Design(
        weights=np.ones((1, n), np.uint8), init=np.zeros(1, np.int64), order=np.zeros(1, np.int64), loss_norm="full"
    )
    return everything + leave_one_out(n)


def losses(make: Make, engine: str) -> np.ndarray[Any, Any]:
    return learner(make, engine=engine).retrain(toys.table(), 0, leave_one_out(9))[1].loss


@pytest.mark.parametrize("make", LOOKALIKES)
def test_a_net_that_only_looks_plain_is_not_written_as_products(make: Make) -> None:
    assert dense_layers(nets.plain()) is not None
    assert dense_layers(make()) is None


@pytest.mark.parametrize("make", [*LOOKALIKES, nets.Branching, nets.CalmerInEval])
def test_a_net_of_ones_own_is_retrained_as_one_at_a_time(make: Make) -> None:
    assert np.allclose(losses(make, "auto"), losses(make, "sequential"), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [nets.plain, *LOOKALIKES, nets.CalmerInEval, nets.Centred])
def test_a_net_of_ones_own_is_left_out_from_as_by_hand(make: Make, tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), Own(make=make))
    losses = toy.learner.retrain(toy.problem.data, 0, with_full_model(len(toy.train)))[1].loss
    expected, _ = retraining.leave_one_out(toy)
    assert np.abs(losses[1:] - losses[0] - expected).max() < 1e-9 * np.abs(expected).max()


def test_a_net_that_mixes_instances_in_eval_mode_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="depends on the other instances"):
        learner(nets.untracked).check(toys.table(n_train=12))


def test_a_batch_with_one_survivor_counts_as_empty_for_batch_normalisation() -> None:
    weights = np.ones((2, 11), np.uint8)
    weights[1, ::2] = 0
    zeros = np.zeros(2, np.int64)
    design = Design(weights=weights, init=zeros, order=zeros, loss_norm="subset")
    for order in range(4):  # some batch of three has one survivor
        rows = replace(design, order=zeros + order)
        assert np.isfinite(learner(nets.batch_norm).retrain(toys.table(n_train=11), 0, rows)[1].loss).all()


def test_what_is_done_to_the_module_between_steps_does_not_change_a_replay(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(n_train=12), Own(make=nets.plain_batch_norm))
    ends = []
    for meddle in (False, True):
        for state in toy.fitted.replay(0, toy.fitted.recipe.total):
            if meddle:
                state.module.eval()(toy.fitted.recipe.x)
        ends.append([p.detach().clone() for p in state.module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_net_that_cannot_be_stacked_is_trained_one_at_a_time() -> None:
    assert learner(nets.Branching).block_size(toys.table()) == 1
    assert learner(nets.halved).block_size(toys.table()) > 1


def test_a_net_that_cannot_be_stacked_is_refused_for_vmap() -> None:
    learner(nets.halved, engine="vmap").check(toys.table())
    with pytest.raises(IncompatibleError, match=r"training\.engine=vmap"):
        learner(nets.Branching, engine="vmap").check(toys.table())


@pytest.mark.parametrize("make", [nets.stochastic_depth, nets.FunctionalDropout, nets.randomised_relu])
def test_a_net_that_draws_random_numbers_is_random(make: Make) -> None:
    assert is_random(make(), torch.ones(2, 3))


def test_a_layer_that_draws_for_negative_inputs_only_is_random() -> None:
    assert is_random(nn.RReLU(), torch.ones(2, 3))


@pytest.mark.parametrize("make", [nets.plain, nets.halved, nets.no_dropout, nets.Branching])
def test_a_net_that_draws_nothing_is_not_random(make: Make) -> None:
    assert not is_random(make(), torch.ones(2, 3))


@pytest.mark.parametrize("make", [nets.stochastic_depth, nets.batch_norm])
def test_trying_a_net_leaves_its_mode_its_buffers_and_the_generator_alone(make: Make) -> None:
    torch.manual_seed(0)
    net = make().eval()
    before, buffers = torch.get_rng_state(), [b.clone() for b in net.buffers()]
    assert is_random(net, torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)
    assert not net.training
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), buffers, strict=True))


def test_checking_a_learner_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    with pytest.raises(IncompatibleError):
        learner(nets.batch_norm).check(toys.table(n_train=9))
    assert torch.equal(torch.get_rng_state(), before)


def test_two_fits_of_a_random_net_leave_the_same_checkpoints(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first, second = (
        toys.train(tmp_path / name, toys.table(), Own(make=nets.stochastic_depth)) for name in ("first", "second")
    )
    for mine, theirs in zip(first.fitted.checkpoints, second.fitted.checkpoints, strict=True):
        assert mine.path.read_bytes() == theirs.path.read_bytes()


@pytest.mark.parametrize("n_train", [9, 10])  # the last batch of 4 has one or two
def test_batch_normalisation_is_refused_for_a_batch_that_may_shrink_to_one(n_train: int) -> None:
    with pytest.raises(IncompatibleError, match=r"training\.batch_size"):
        learner(nets.batch_norm).check(toys.table(n_train=n_train))
    with pytest.raises(IncompatibleError, match=r"training\.batch_size"):
        learner(nets.one_pixel).check(toys.images(n_train=n_train))


@pytest.mark.parametrize(
    ("make", "data", "settings"),
    [
        (nets.batch_norm, toys.table(n_train=12), {}),
        (nets.batch_norm, toys.table(n_train=11), {}),
        (nets.batch_norm, toys.table(n_train=9), {"drop_last": True}),
        (nets.one_pixel, toys.images(n_train=8), {}),
        (nets.many_pixels, toys.images(n_train=9), {}),
    ],
)
def test_batch_normalisation_over_enough_numbers_is_accepted(make: Make, data: Data, settings: Any) -> None:
    learner(make, **settings).check(data)
    design = leave_one_out(len(data.train)).rows(slice(0, 2))
    assert np.isfinite(learner(make, **settings).retrain(data, 0, design)[1].loss).all()


def test_frozen_parameters_are_refused_by_name() -> None:
    with pytest.raises(IncompatibleError, match=r"0\.weight is frozen"):
        learner(nets.frozen).check(toys.table())


def test_a_warm_up_as_long_as_the_training_is_refused() -> None:
    learner(nets.plain, warmup_steps=8).check(toys.table())  # 3 epochs of 3 steps
    for steps in (9, 10):
        with pytest.raises(ConfigError, match=r"training\.warmup_steps"):
            learner(nets.plain, warmup_steps=steps).check(toys.table())


@pytest.mark.parametrize("device", ["mps", "meta", "cpu:x", "gpu"])
def test_devices_besides_processors_and_cuda_are_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.device"):
        learner(nets.plain, device=device).check(toys.table())


def test_a_net_of_another_input_size_is_refused_before_training() -> None:
    data = toys.table(features=5)
    with pytest.raises(IncompatibleError, match="cannot be trained"):
        learner(nets.plain).check(data)
    learner(nets.plain).check(replace(data, train=toys.table().train))


@pytest.mark.parametrize(("make", "moves"), [(nets.plain, True), (nets.Pruned, False)])
def test_a_net_that_keeps_what_no_checkpoint_has_is_built_anew_for_each(
    make: Make, moves: bool, tmp_path: Path
) -> None:
    toy = toys.train(tmp_path, toys.table(), Own(make=make), epochs=6, checkpoints=4)
    estimator = TracInCP(weight="uniform")
    run = toy.run(estimator, "tracincp")
    expected = np.zeros((len(toy.train), len(toy.test)))
    for checkpoint in toy.fitted.checkpoints[:-1]:
        module = toy.module(checkpoint.step)
        sides = []
        for split in (toy.train, toy.test):
            x, y = toy.tensors(split)
            risks = F.cross_entropy(module(x), y, reduction="none")
            rows = [torch.autograd.grad(risk, list(module.parameters()), retain_graph=True) for risk in risks]
            sides.append(np.array([np.concatenate([part.flatten().numpy() for part in row]) for row in rows]))
        expected += sides[0] @ sides[1].T
    assert np.allclose(estimator.estimate(run).values, expected, rtol=1e-9, atol=1e-12)
    fresh = [run.gradients.at(checkpoint) for checkpoint in toy.fitted.checkpoints[:2]]
    moved = run.gradients.onward(run.gradients.at(toy.fitted.checkpoints[0]), toy.fitted.checkpoints[1])
    assert run.gradients.moves(moved, fresh[1]) is moves
