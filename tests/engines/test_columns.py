"""Gradients some columns at a time: the pieces are the gradients, and blocks that are gathered are one block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from influx.engines import columns, gradients, projections
from influx.engines.columns import gathered, outer
from influx.engines.entries import entries
from influx.engines.factors import Dense, OneHot, Product
from influx.engines.gradients import Gradients
from influx.engines.layers import Flat, LayerRows, Weighted
from influx.engines.projections import Projector, block_of, projected
from influx.engines.rows import Rows
from influx.engines.stored import at_checkpoint
from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def linear(positions: int, d_in: int, d_out: int, bias: bool, inputs_first: bool = False, count: int = 5) -> Weighted:
    term = Product(Dense(drawn(count, positions, d_in)), Dense(drawn(count, positions, d_out)), inputs_first)
    return Weighted(count, [term], bias)


def tokens(count: int = 5) -> Weighted:
    index = torch.arange(count * 3).view(count, 3) % 7
    return Weighted(count, [Product(OneHot(index, 7), Dense(drawn(count, 3, 4)), inputs_first=True)], False)


LAYERS: dict[str, list[LayerRows]] = {
    "one position": [linear(1, 20, 30, False)],
    "with biases": [linear(1, 20, 30, True), linear(1, 31, 17, True)],
    "inputs first": [linear(1, 20, 30, False, inputs_first=True)],
    "several positions": [linear(2, 40, 50, True)],
    "many positions": [linear(9, 6, 5, True)],
    "beside others": [tokens(), linear(1, 40, 20, True), Flat(drawn(5, 9)), linear(1, 3, 2, True)],
}


@pytest.mark.parametrize("beside", [None, 64])
@pytest.mark.parametrize("numbers", [37, 100])
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_pieces_are_the_gradients_from_left_to_right(
    layers: list[LayerRows], numbers: int, beside: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SLICE", numbers), ("CACHED", numbers), ("WIDE", 16)):
        monkeypatch.setattr(columns, name, value)
    rows = Rows(layers)
    found, before = torch.full_like(rows.flat(), torch.nan), 0
    for part, first, written in columns.columns(rows, beside):
        assert first >= before
        before, place = first, found[part, first : first + written.shape[1]]
        assert bool(place.isnan().all())
        place.copy_(written)
    torch.testing.assert_close(found, rows.flat(), rtol=0, atol=1e-14)


def test_outer_products_are_written_out_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "SLICE", 100)
    layer = linear(1, 31, 40, False)
    pieces = list(columns.columns(Rows([layer])))
    assert outer(layer) is not None and not layer.made
    assert max(written.numel() for _, _, written in pieces) <= 100 and len(pieces) == 40 * 2


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_gathered_blocks_are_one(layers: list[LayerRows]) -> None:
    one = Rows(layers)
    twice = Rows([Flat(layer.flat().repeat(2, 1)) for layer in one.tensors()])
    found, squares = gathered(iter([one, one]), 10)
    assert torch.equal(found.flat(), twice.flat())
    torch.testing.assert_close(squares, twice.squares())
    assert [outer(layer) is None for layer in found.tensors()] == [outer(layer) is None for layer in one.tensors()]
    assert gathered(iter([one]), 5)[0] is one


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "cnn":
        return toys.train(folder, toys.images(), CNN(channels=[4], hidden=40, norm="group"))
    return toys.train(folder, toys.table(), MLP(width=[60, 40]))


def test_what_is_kept_of_a_gradient_is_counted(toy: Toy) -> None:
    at = Gradients(toy.fitted, toy.train, toy.test).at(toy.fitted.checkpoints[-1])
    (rows,) = [rows for _, rows in at.blocks(toy.train.take(slice(0, 1)))]
    kept = 0
    for layer in rows.tensors():
        term = outer(layer)
        sides = [] if term is None else [side.vectors.numel() for side in term.sides() if isinstance(side, Dense)]
        kept += sum(sides) if sides else layer.flat().numel()
    assert at.numbers(toy.train)[2] == kept < at.size


def test_small_blocks_of_gradients_are_projected_together(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def computed() -> tuple[list[int], torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        run = toy.run(estimator_named("trak"), "trak")
        at = run.gradients.at(run.final)
        sizes = [
            part.stop - part.start for part, _, _ in projected(at, toy.train, Projector(8, "gaussian", 0, at.size))
        ]
        return sizes, at.squares(toy.train), *at_checkpoint(run, run.final, "gaussian", 8)._compute(toy.train)

    _, squares, whole, slopes, lengths = computed()
    blocks: list[int] = []
    rows = gradients.GradientsAt.rows
    monkeypatch.setattr(gradients.GradientsAt, "block_size", lambda self, split: 2)
    monkeypatch.setattr(
        gradients.GradientsAt, "rows", lambda self, x, y, of=None: blocks.append(len(x)) or rows(self, x, y, of)
    )
    sizes, _, found, found_slopes, found_lengths = computed()
    assert sizes == [len(toy.train)] and max(blocks) == 2
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found_slopes, slopes)
    torch.testing.assert_close(found_lengths, lengths)
    torch.testing.assert_close(found_lengths, _margin_squares(toy))
    assert squares.shape == (len(toy.train),)


def _margin_squares(toy: Toy) -> torch.Tensor:
    """Squared norms of the margins' gradients, one backward pass per instance."""
    module, (x, y) = toy.module(), toy.tensors(toy.train)
    found = []
    for i in range(len(x)):
        p = torch.softmax(module(x[i : i + 1])[0], 0)[y[i]]
        parts = torch.autograd.grad(torch.log(p) - torch.log(1 - p), list(module.parameters()))
        found.append(sum(float(part.square().sum()) for part in parts))
    return torch.tensor(found, dtype=torch.float64)


def test_blocks_hold_whole_blocks_of_gradients(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    at = Gradients(toy.fitted, toy.train, toy.test).at(toy.fitted.checkpoints[-1])
    element, kept = next(iter(at.parameters.values())).element_size(), at.numbers(toy.train)[2]
    monkeypatch.setattr(gradients.GradientsAt, "block_size", lambda self, split: 3)
    projector = Projector(8, "gaussian", 0, at.size)
    for fitting, expected in ((1, 1), (2, 2), (4, 3), (8, 6)):
        monkeypatch.setattr(projections, "WRITTEN_BYTES", fitting * element * kept)
        assert block_of(at, toy.train, projector) == expected


def test_signs_are_the_bits_of_bytes() -> None:
    found = entries("rademacher", 5, 7, 3, torch.device("cpu"))
    octets = np.frombuffer(np.random.Generator(np.random.PCG64(5)).bytes(3), np.uint8)
    bits = [octets[k // 8] >> (7 - k % 8) & 1 for k in range(21)]
    assert found.dtype == torch.float32 and found.flatten().tolist() == [2.0 * bit - 1 for bit in bits]


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_entries_have_the_moments_of_their_kind(kind: str) -> None:
    found = entries(kind, 0, 400, 500, torch.device("cpu"))  # type: ignore[arg-type]
    fourth = 3.0 if kind == "gaussian" else 1.0
    assert abs(float(found.mean())) < 0.01 and abs(float(found.square().mean()) - 1) < 0.02
    assert abs(float(found.pow(4).mean()) - fourth) < 0.1
    rows = (found @ found.T / 500).fill_diagonal_(0)
    assert float(rows.abs().max()) < 0.3  # no two alike
