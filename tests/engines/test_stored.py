"""Stored projections: computed once for all who ask for the same, shard by shard, and made again when damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
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

    def counted(self: Projections, split: Split) -> tuple[torch.Tensor, ...]:
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
    (shard,) = request.folder.path.glob("rows_000000004_*.npy")
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
    kept, not_kept = (list(asked(toy).blocks(toy.train, part)) for part in (slice(0, 9), None))
    assert torch.equal(whole(kept), whole(not_kept))
    rows = [slice(0, 4), slice(4, 8), slice(8, 9)]
    assert [p.rows for p in kept] == [p.rows for p in not_kept] == rows


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_half_precision_halves_the_disk_and_stays_close(dtype: str, tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(n_train=40), MLP(width=5), dtype=dtype)
    plain, half = asked(toy, dim=64), replace(asked(toy, dim=64), store="float16")
    expected, found = whole(list(plain.stored())), whole(list(half.stored()))
    assert found.dtype == expected.dtype and torch.equal(found[:, 64:], expected[:, 64:])
    off = (found - expected)[:, :64].norm(dim=1) / expected[:, :64].norm(dim=1)
    assert 1e-5 < off.max() < 4e-4
    sizes = [next(p.folder.path.glob("rows_*")).stat().st_size - 128 for p in (plain, half)]  # without headers
    each = getattr(torch, dtype).itemsize
    assert sizes == [40 * 64 * each, 40 * 64 * 2]
    for store, p in (("model", plain), ("float16", half)):
        files = sum(path.stat().st_size - 128 for path in p.folder.path.glob("*.npy"))
        assert files == stored.stored_bytes(40, 64, each, store)  # type: ignore[arg-type]
    assert torch.equal(whole(list(replace(asked(toy, dim=64), store="float16").stored())), found) and half.trusted


def test_half_precision_changes_what_is_estimated_by_rounding(toy: Toy) -> None:
    for name in ("trak", "tracinrp"):
        expected, found = (toy.estimate(name, dim=6, store=store).values for store in ("model", "float16"))
        assert not np.array_equal(found, expected)
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_a_share_reads_its_rows_of_what_is_stored(toy: Toy, computed: list[int]) -> None:
    run = toy.run(estimator_named("tracinrp"), "tracinrp")

    def at_step(checkpoint: Checkpoint) -> Projections:
        return at_checkpoint(run, checkpoint, "rademacher", 6)

    compared = Compared(run.gradients, [(run.final, 1.0)], Projected(at_step, run.final, keep=True), "all", None)
    first = compared._share(0, slice(0, 9))
    assert computed == [9] and whole(list(asked(toy).stored())).shape == (9, 8) and computed == [9]
    part = compared._share(0, slice(0, 4))
    assert computed == [9]
    assert torch.equal(torch.from_numpy(first["values0"])[:4], torch.from_numpy(part["values0"]))


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
    (shard,) = request.folder.path.glob("rows_000000000_*.npy")
    shard.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("influx.engines.projections.stream_seed", lambda seed, name: 7)
        fresh = asked(toy)
        expected = fresh._compute(toy.train)[0]
        found = whole(list(fresh.stored()))
    torch.testing.assert_close(found[:, :6], expected)


def test_a_zero_gradient_does_not_vouch_for_the_matrix(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Projections._compute

    def first_is_zero(self: Projections, split: Split) -> tuple[torch.Tensor, ...]:
        found = compute(self, split)
        zero = torch.from_numpy(split.ids == toy.train.ids[0])
        return tuple(values.masked_fill(zero[:, None] if values.ndim > 1 else zero, 0) for values in found)

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
    other = asked(toy).folder
    other.forget(*other.checksums())
    assert torch.equal(whole(list(request.stored())), expected)
