"""Sketches and two-sided projections: what their matrices are, that products are unbiased, and every kind of layer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from influx.engines import sketches
from influx.engines.convolutions import Convolved, Geometry
from influx.engines.factors import Dense, OneHot, Product
from influx.engines.gradients import Gradients
from influx.engines.layers import Flat, Weighted
from influx.engines.rows import Rows
from influx.engines.sketches import Pair, Sparse, TwoSided, divided
from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.streams import stream_seed


def flat(*widths: int, count: int = 3) -> Rows:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(count, sum(widths), dtype=torch.float64, generator=generator)
    return Rows([Flat(part) for part in whole.split(list(widths), 1)])


def sparse_matrix(dim: int, seed: int, size: int, chunks: int) -> Tensor:
    """P (p, D) as documented, coordinate by coordinate."""
    matrix = torch.zeros(size, dim, dtype=torch.float64)
    for number, start in enumerate(range(0, size, chunks * dim)):
        own = torch.Generator().manual_seed(stream_seed(seed, str(number)))
        length = min(chunks * dim, size - start)
        turns = torch.randint(dim, (-(-length // dim),), generator=own)
        signs = 2 * torch.empty(length).random_(2, generator=own) - 1
        for j, sign in enumerate(signs):
            matrix[start + j, (j % dim + int(turns[j // dim])) % dim] = sign
    return matrix


@pytest.mark.parametrize("widths", [(20,), (1, 12, 7), (3, 3, 3, 11)])
@pytest.mark.parametrize("dim", [1, 4, 7, 64])
def test_a_sparse_sketch_is_its_matrix_whatever_the_layers(
    widths: tuple[int, ...], dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketches, "PIECE", 8)
    given = flat(*widths)
    expected = given.flat() @ sparse_matrix(dim, 5, 20, max(8 // dim, 1))
    for held in (1, 1 << 20):
        monkeypatch.setattr(sketches, "HELD_BYTES", held)
        sketch = Sparse(dim, 5, 20)
        for _ in range(2):
            torch.testing.assert_close(sketch.project(given), expected, rtol=0, atol=1e-14)


def test_signs_that_are_not_held_are_drawn_once_for_each_block_of_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "PIECE", 8)
    monkeypatch.setattr(sketches, "HELD_BYTES", 1)
    drawn, draw = [], Sparse._draw

    def counted(self: Sparse, number: int, like: Tensor) -> tuple[Tensor, list[int]]:
        drawn.append(number)
        return draw(self, number, like)

    monkeypatch.setattr(Sparse, "_draw", counted)
    sketch = Sparse(2, 5, 20)
    for _ in range(2):
        sketch.project(flat(3, 17))
    assert drawn == [0, 1, 2] * 2


def test_a_chunk_loses_nothing() -> None:
    given = flat(16)
    found = Sparse(16, 3, 16).project(given)
    torch.testing.assert_close(found @ found.T, given.flat() @ given.flat().T)


def test_sparse_products_are_unbiased_and_vary_no_more_than_those_of_signs() -> None:
    u, v = flat(24, 16, count=2).flat()
    products = []
    for seed in range(1500):
        left, right = Sparse(8, seed, 40).project(Rows([Flat(torch.stack([u, v]))]))
        products.append(left @ right)
    drawn = torch.stack(products)
    bound = float(((u @ v) ** 2 + u.square().sum() * v.square().sum() - 2 * (u * u * v * v).sum()) / 8)
    assert abs(float(drawn.mean() - u @ v)) < 4 * float(drawn.std()) / 1500**0.5
    assert 0.5 * bound < float(drawn.var()) < 1.1 * bound


def linear(count: int, positions: int, d_in: int, d_out: int, bias: bool, seed: int = 0) -> Weighted:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, positions, d_in, dtype=torch.float64, generator=generator)
    outputs = torch.randn(count, positions, d_out, dtype=torch.float64, generator=generator)
    return Weighted(count, [Product(Dense(inputs), Dense(outputs))], bias)


@pytest.mark.parametrize("positions", [1, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_two_sides_are_a_kronecker_product_and_a_bias_is_sketched(positions: int, bias: bool) -> None:
    layer = linear(4, positions, 9, 7, bias)
    projection = TwoSided(16, 12)
    found = projection.project(Rows([layer]))
    pair = projection._parts[0]
    whole = torch.kron(pair.rows, pair.columns)  # (d_out d_in, k_r k_c)
    parts = Rows([layer]).tensors()
    expected = parts[0].flat() @ whole
    if bias:
        expected += parts[1].flat() @ sparse_matrix(16, stream_seed(12, "parameter/1"), 7, (1 << 20) // 16)
    torch.testing.assert_close(found, expected)
    assert tuple(pair.rows.shape) == (7, 4) and tuple(pair.columns.shape) == (9, 4)


def test_small_sides_lose_nothing() -> None:
    layer = linear(6, 1, 5, 3, False)
    found = TwoSided(64, 2).project(Rows([layer]))
    torch.testing.assert_close(found @ found.T, layer.flat() @ layer.flat().T)


def test_the_dimension_is_divided_for_least_loss() -> None:
    assert divided(2048, 10, 500) == (16, 128)
    assert divided(2048, 500, 10) == (128, 16)
    assert sorted(divided(2048, 500, 500)) == [32, 64]
    assert divided(7, 100, 100) in ((1, 7), (7, 1))


def test_two_sided_products_are_unbiased() -> None:
    layer = linear(2, 3, 9, 7, True)
    exact = layer.flat() @ layer.flat().T
    drawn = []
    for seed in range(600):
        found = TwoSided(16, seed).project(Rows([layer]))
        drawn.append((found @ found.T)[0])
    every = torch.stack(drawn)
    z = (every.mean(0) - exact[0]) / (every.std(0) / 600**0.5)
    assert float(z.abs().max()) < 4


def test_tokens_are_looked_up() -> None:
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(11, (4, 6), generator=generator)
    outputs = torch.randn(4, 6, 5, dtype=torch.float64, generator=generator)
    layer = Weighted(4, [Product(OneHot(index, 11), Dense(outputs), inputs_first=True)], False)
    projection = TwoSided(16, 0)
    found = projection.project(Rows([layer]))
    pair = projection._parts[0]
    torch.testing.assert_close(found, layer.flat() @ torch.kron(pair.rows, pair.columns))


@pytest.mark.parametrize(
    ("sizes", "kernel", "stride", "padding", "dilation", "images"),
    [
        ((7,), (3,), (2,), (1,), (1,), 1),
        ((6, 5), (3, 2), (1, 1), (1, 0), (1, 1), 1),
        ((9, 8), (3, 3), (2, 1), (2, 1), (2, 1), 2),
        ((5, 4, 4), (2, 3, 2), (1, 1, 2), (0, 1, 1), (1, 1, 1), 1),
    ],
)
def test_convolutions_are_projected_as_their_gradients_written_out(
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    images: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    geometry = Geometry(kernel, stride, padding, dilation, 1)
    inputs = torch.randn(3 * images, 2, *sizes, dtype=torch.float64, generator=generator)
    places = geometry.patches(inputs).shape[2 + len(sizes) :]
    outputs = torch.randn(3 * images, 4, *places, dtype=torch.float64, generator=generator)
    term = Convolved(geometry, 3, inputs, outputs, lambda: outputs)
    layer, width = Weighted(3, [term], False), 2 * math.prod(kernel)
    whole = layer.flat().view(3, 4, width)
    rows, columns = (torch.randn(d, 2, dtype=torch.float64, generator=generator) for d in (4, width))
    torch.testing.assert_close(Pair(rows, columns, (2, 2)).apply(layer), rows.T @ whole @ columns)
    torch.testing.assert_close(Pair(rows, None, (2, width)).apply(layer), rows.T @ whole)
    torch.testing.assert_close(Pair(None, columns, (4, 2)).apply(layer), whole @ columns)
    torch.testing.assert_close(Pair(None, columns, (4, 2)).apply(Flat(layer.flat())), whole @ columns)
    left, right = term.by_pixel()
    turned = torch.bmm(left.vectors.transpose(1, 2), right.vectors)
    torch.testing.assert_close(turned, whole[:, :, term.pixels])


def test_a_layer_that_comes_written_out_later_is_projected_alike() -> None:
    layer, projection = linear(4, 2, 9, 7, False), TwoSided(16, 0)
    expected = projection.project(Rows([layer]))
    torch.testing.assert_close(projection.project(Rows([Flat(layer.flat())])), expected)


@pytest.mark.parametrize("model", [MLP(width=5), CNN(channels=[4], hidden=5, norm="group")])
@pytest.mark.parametrize("kind", [Sparse, TwoSided])
def test_nets_are_projected_linearly_in_any_block(model: object, kind: type, tmp_path: Path) -> None:
    data = toys.images() if isinstance(model, CNN) else toys.table()
    toy = toys.train(tmp_path, data, model)
    at = Gradients(toy.fitted, toy.train, toy.test).at(toy.fitted.checkpoints[-1])
    projection = Sparse(32, 1, at.size) if kind is Sparse else TwoSided(32, 1)
    whole = projection.project(next(at.blocks(toy.train))[1])
    single = [projection.project(rows) for _, rows in at.blocks(toy.train, 1)]
    torch.testing.assert_close(torch.cat(single), whole)
    assert whole.shape == (len(toy.train), 32)


def test_lower_precision_is_summed_in_single() -> None:
    low = Rows([Flat(layer.flat().bfloat16()) for layer in flat(30, 40).layers])
    assert Sparse(8, 0, 70).project(low).dtype == TwoSided(8, 0).project(low).dtype == torch.float32
