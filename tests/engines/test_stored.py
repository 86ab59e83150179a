"""Stored projections: computed once for all who ask for the same, shard by shard, and made again when damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from influx.engines import stored
from influx.engines.kernels import Projected
from influx.engines.projections import Kind
from influx.engines.shares import Compared
from influx.engines.stored import Part, Projections, at_checkpoint
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.problem import Checkpoint, Split


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table(), MLP(width=5))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the splits whose projections are computed, as they are; one instance is looked at to trust the rest."""
    sizes: list[int] = []
    compute = Projections._compute

    def counted(self: Projections, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.extend([len(split)] if len(split) > 1 else [])
        return compute(self, split)

    monkeypatch.setattr(Projections, "_compute", counted)
    return sizes


def asked(toy: Toy, kind: Kind = "rademacher", dim: int = 6) -> Projections:
    run = toy.run(estimator_named("trak"), "trak")
    return at_checkpoint(run, run.final, kind, dim)


def whole(parts: list[Part]) -> torch.Tensor:
    return torch.cat([torch.cat([p.projections, p.slopes[:, None], p.squares[:, None]], 1) for p in parts])


def test_they_are_computed_once(toy: Toy, computed: list[int]) -> None:
    first = whole(list(asked(toy).stored()))
    assert computed == [9]
    assert torch.equal(whole(list(asked(toy).stored())), first) and computed == [9]


@pytest.mark.parametrize("change", ["kind", "dim", "seed", "data"])
def test_another_request_is_another_file(change: str, toy: Toy, computed: list[int]) -> None:
    list(asked(toy).stored())
    other, kind, dim = toy, "rademacher", 6
    if change == "seed":
        other = replace(toy, problem=replace(toy.problem, seed=1))
    elif change == "data":
        split = replace(toy.train, x=toy.train.x + 1)
        other = toy.with_data(replace(toy.problem.data, train=split))
    list(asked(other, "sparse" if change == "kind" else kind, 7 if change == "dim" else dim).stored())
    assert computed == [9, 9]


def test_a_stopped_computation_goes_on_and_a_damaged_shard_is_made_again(
    toy: Toy, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "SHARD_BYTES", 1)
    monkeypatch.setattr(stored, "block_of", lambda *args: 4)
    request = asked(toy)
    parts = request.stored()
    next(parts)
    next(parts)
    parts.close()
    assert computed == [4, 4]
    expected = whole(list(asked(toy).stored()))
    assert computed == [4, 4] and len(expected) == 9
    (shard,) = request._folder.path.glob("rows_000000004_*.npy")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert torch.equal(whole(list(asked(toy).stored())), expected) and computed == [4, 4, 4]
    assert shard.with_name(shard.name + ".corrupt").exists()


def test_estimators_share_them(toy: Toy, computed: list[int]) -> None:
    given = {"dim": 6, "kind": "rademacher"}
    toy.estimate("trak", **given)
    first = len(computed)
    toy.estimate("dtrak", output="margin", **given)
    assert [size for size in computed[first:] if size == 9] == []
    toy.estimate("tracinrp", lr_at="prev", checkpoints=1, **given)  # the last checkpoint
    assert [size for size in computed[first:] if size == 9] == []


def test_blocks_are_the_same_bits_stored_or_not(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "block_of", lambda *args: 4)
    kept, not_kept = (list(asked(toy).blocks(toy.train, keep)) for keep in (True, False))
    assert torch.equal(whole(kept), whole(not_kept))
    rows = [slice(0, 4), slice(4, 8), slice(8, 9)]
    assert [p.rows for p in kept] == [p.rows for p in not_kept] == rows


def test_a_share_that_is_the_whole_is_stored_like_it(toy: Toy, computed: list[int]) -> None:
    run = toy.run(estimator_named("tracinrp"), "tracinrp")

    def at_step(checkpoint: Checkpoint) -> Projections:
        return at_checkpoint(run, checkpoint, "rademacher", 6)

    compared = Compared(run.gradients, [(run.final, 1.0)], Projected(at_step, run.final, keep=True), "all", None)
    first = compared._share(0, slice(0, 9))
    assert computed == [9] and whole(list(asked(toy).stored())).shape == (9, 8) and computed == [9]
    part = compared._share(0, slice(0, 4))
    assert computed == [9, 4]
    assert torch.allclose(torch.from_numpy(first["values0"])[:4], torch.from_numpy(part["values0"]))


def test_other_random_numbers_than_those_stored_are_noticed(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = whole(list(asked(toy).stored()))
    with monkeypatch.context() as patch:
        patch.setattr("influx.engines.projections.stream_seed", lambda seed, name: 7)
        other = whole(list(asked(toy).stored()))
    assert not torch.allclose(other[:, :6], expected[:, :6])
    assert torch.equal(whole(list(asked(toy).stored())), expected)


def test_a_first_shard_that_is_lost_does_not_mix_matrices(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "SHARD_BYTES", 1)
    monkeypatch.setattr(stored, "block_of", lambda *args: 4)
    request = asked(toy)
    list(request.stored())
    (shard,) = request._folder.path.glob("rows_000000000_*.npy")
    shard.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("influx.engines.projections.stream_seed", lambda seed, name: 7)
        fresh = asked(toy)
        expected, _ = fresh._compute(toy.train)
        found = whole(list(fresh.stored()))
    torch.testing.assert_close(found[:, :6], expected)


def test_a_zero_gradient_does_not_vouch_for_the_matrix(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Projections._compute

    def first_is_zero(self: Projections, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        found = compute(self, split)
        zero = torch.from_numpy(split.ids == toy.train.ids[0])
        return tuple(values.masked_fill(zero[:, None], 0) for values in found)  # type: ignore[return-value]

    monkeypatch.setattr(Projections, "_compute", first_is_zero)
    before = whole(list(asked(toy).stored()))
    monkeypatch.setattr("influx.engines.projections.stream_seed", lambda seed, name: 7)
    assert not torch.allclose(whole(list(asked(toy).stored()))[1:, :6], before[1:, :6])


def test_a_file_that_another_process_removes_is_made_again(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "SHARD_BYTES", 1)
    monkeypatch.setattr(stored, "block_of", lambda *args: 4)
    expected = whole(list(asked(toy).stored()))
    request = asked(toy)
    list(request.stored())
    other = asked(toy)._folder
    other.forget(*other.checksums())
    assert torch.equal(whole(list(request.stored())), expected)
