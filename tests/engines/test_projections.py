"""Random projections: what P is, that it is never whole in memory, and that products of projections are unbiased."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from influx.engines import projections
from influx.engines.gradients import Gradients, Rows
from influx.engines.layers import Flat
from influx.engines.projections import Kind, Projector, projected
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from influx.streams import stream_seed

KINDS: tuple[Kind, ...] = ("gaussian", "rademacher")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=5))


def rows(*widths: int, count: int = 3) -> Rows:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(count, sum(widths), dtype=torch.float64, generator=generator)
    return Rows([Flat(part) for part in whole.split(list(widths), 1)])


def matrix(dim: int, kind: Kind, seed: int, size: int, width: int) -> Tensor:
    """P (p, D) as documented, piece by piece."""
    pieces = []
    for number, start in enumerate(range(0, size, width)):
        own, count = stream_seed(seed, str(number)), min(width, size - start) * dim
        if kind == "gaussian":
            pieces.append(torch.empty(count).normal_(generator=torch.Generator().manual_seed(own)).numpy())
        else:
            random = np.random.Generator(np.random.PCG64(own))
            pieces.append(2.0 * np.unpackbits(np.frombuffer(random.bytes(-(-count // 8)), np.uint8))[:count] - 1)
    return torch.from_numpy(np.concatenate(pieces)).view(size, dim).double() / dim**0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("widths", [(20,), (1, 12, 7), (6, 6, 8)])
def test_it_is_the_product_with_p_whatever_the_layers(
    kind: Kind, widths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections, "PIECE", 24)
    given = rows(*widths)
    expected = given.flat() @ matrix(4, kind, 7, 20, 6)
    torch.testing.assert_close(Projector(4, kind, 7, 20).project(given), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("held", [1, 79, 80])
def test_what_is_kept_is_bounded_and_changes_nothing(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "PIECE", 24)
    given = rows(3, 17)
    expected = Projector(4, "gaussian", 0, 20).project(given)
    monkeypatch.setattr(projections, "HELD", held)
    projector = Projector(4, "gaussian", 0, 20)
    assert torch.equal(projector.project(given), expected) and torch.equal(projector.project(given), expected)
    assert len(projector._held) == (4 if held == 80 else 0)  # all four pieces of six columns, or none


def test_pieces_that_are_kept_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = Projector._draw
    monkeypatch.setattr(Projector, "_draw", lambda self, number, like: drawn.append(number) or draw(self, number, like))
    monkeypatch.setattr(projections, "PIECE", 24)
    projector = Projector(4, "gaussian", 0, 20)
    for _ in range(3):
        projector.project(rows(20))
    assert drawn == [0, 1, 2, 3]


def test_entries_of_signs_are_one_over_root_d() -> None:
    identity = Rows([Flat(torch.eye(9, dtype=torch.float64))])
    entries = Projector(16, "rademacher", 0, 9).project(identity)
    assert set(entries.flatten().tolist()) == {-0.25, 0.25}


def test_lower_precision_keeps_p_and_sums_in_single(toy: Toy) -> None:
    given = rows(30, 40)
    low = Rows([Flat(layer.flat().bfloat16()) for layer in given.layers])
    found, expected = (Projector(64, "gaussian", 1, 70).project(r) for r in (low, given))
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max() / expected.abs().max()) < 0.02


def test_blocks_of_instances_do_not_matter(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    at = Gradients(toy.fitted, toy.train, toy.test).at(toy.fitted.checkpoints[1])
    expected = next(projected(at, toy.train, Projector(8, "gaussian", 0, at.size)))
    monkeypatch.setattr(projections, "WRITTEN_BYTES", 1)
    parts = list(projected(at, toy.train, Projector(8, "gaussian", 0, at.size)))
    assert [part.stop - part.start for part, _, _ in parts] == [1] * 9
    torch.testing.assert_close(torch.cat([z for _, z, _ in parts]), expected[1], rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.cat([squares for _, _, squares in parts]), at.squares(toy.train))


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_unbiased_with_the_variance_of_the_formula(kind: Kind, toy: Toy) -> None:
    seeds, dim, weights = 2400, 16, (0.5, 0.2, 0.3)
    at = [Gradients(toy.fitted, toy.train, toy.test).at(c) for c in toy.fitted.checkpoints[:-1]]
    flat = [torch.cat([rows.flat() for split in (toy.train, toy.test) for _, rows in a.blocks(split)]) for a in at]
    mine, theirs = torch.stack(flat).split([9, 4], 1)  # (C, n, p)
    w = torch.tensor(weights, dtype=torch.float64)[:, None, None]
    norms = mine.square().sum(2)[:, :, None] * theirs.square().sum(2)[:, None, :]
    values, variances = [], []
    for seed in range(seeds):
        projectors = [Projector(dim, kind, stream_seed(seed, str(c)), at[0].size) for c in range(3)]
        projected = [p.project(Rows([Flat(g)])) for p, g in zip(projectors, flat, strict=True)]
        left, right = torch.stack(projected).split([9, 4], 1)
        products = left @ right.transpose(1, 2)
        values.append((w * products).sum(0))
        variances.append((w**2 * (products**2 + norms) / (dim + 1)).sum(0))
    drawn = torch.stack(values)
    z = (drawn.mean(0) - (w * (mine @ theirs.transpose(1, 2))).sum(0)) / (drawn.std(0) / seeds**0.5)
    assert float(z.abs().max()) < 4
    less = (2 * w**2 / dim * (mine**2 @ (theirs**2).transpose(1, 2))).sum(0) if kind == "rademacher" else 0.0
    ratio = ((drawn.var(0) + less) / torch.stack(variances).mean(0)).sqrt()
    assert abs(float(ratio.mean()) - 1) < 0.03 and float((ratio - 1).abs().max()) < 0.1
