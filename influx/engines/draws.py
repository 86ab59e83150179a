"""Gradients of risks that are means over latent draws: with draws of one's own, and what their luck is worth.

Draws belong to instances, so those of a training and of a test instance are independent, and a product of their
gradients has no bias. That of an instance with itself has: E|g|² = |E g|² + tr Cov(g), unless its two factors come
from different draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from influx.engines.gradients import Gradients, GradientsAt, Rows, Select
from influx.engines.kernels import Block
from influx.engines.spread import INDEPENDENT, Spread
from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.fitted import TorchFitted
from influx.problem import Checkpoint, Split

Own = Literal["split_half", "pairs", "same"]
LOOKED_AT = 8  # instances whose risk must depend on the draws
SAME = 1e-7  # relative difference of two risks that are one
ROUNDING = 1000.0  # times the precision of the model: how far a mean of two risks may be off


def numbers_of(fitted: TorchFitted) -> int:
    """Standard normal numbers that a draw of the model's risk takes; 0 where it draws nothing."""
    attached = fitted.recipe.attached
    return 0 if attached is None else attached.numbers


def ignores_draws(fitted: TorchFitted, split: Split) -> bool:
    """Whether the risk of a few instances is the same whatever is drawn: the module takes draws, and uses none."""
    few, module = split.take(slice(0, LOOKED_AT)), fitted.model()
    one, other = (fitted.with_draws(1, name).outputs(module, few).double() for name in ("one draw", "another"))
    return bool(((one - other).abs() <= SAME * one.abs()).all())


@torch.no_grad()
def is_mean_over_draws(fitted: TorchFitted, split: Split) -> bool:
    """Whether the risk over two draws is the mean of the risks over either, of a few instances.

    Importance-weighted bounds are none: over half of the draws they are another risk.
    """
    module, numbers = fitted.model(), numbers_of(fitted)
    x, _ = fitted.with_draws(2, "one draw").tensors(split.take(slice(0, LOOKED_AT)))
    known, one, other = x.split([x.shape[1] - 2 * numbers, numbers, numbers], 1)
    both, first, second = (module(torch.cat([known, *drawn], 1)) for drawn in ((one, other), (one,), (other,)))
    size = torch.maximum(first.abs(), second.abs()).clamp(min=1).double()
    off = (both.double() - (first.double() + second.double()) / 2).abs()
    return bool((off <= ROUNDING * torch.finfo(both.dtype).eps * size).all())


@dataclass(frozen=True)
class Partial(Gradients):
    """Gradients of some of the parameters.

    Attributes:
        parts: how the names of the parameters begin; all when empty.
    """

    parts: tuple[str, ...] = ()

    def at(self, checkpoint: Checkpoint, select: Select = "all", dtype: torch.dtype | None = None) -> GradientsAt:
        """Gradients at a checkpoint.

        Raises:
            IncompatibleError: no parameter has such a name.
        """
        made = super().at(checkpoint, select, dtype)
        if self.parts:
            made.parameters = self._chosen(made)
        return made

    def _chosen(self, at: GradientsAt) -> dict[str, torch.nn.Parameter]:
        known = at.parameters
        for part in self.parts:
            if not any(_within(name, part) for name in known):
                begin = ", ".join(dict.fromkeys(name.partition(".")[0] for name in known))
                raise IncompatibleError(
                    f"estimator.parameters={part} is the beginning of no parameter's name, these begin with {begin}; "
                    "choose among them or set estimator.parameters=all"
                )
        return {name: p for name, p in known.items() if any(_within(name, part) for part in self.parts)}


@dataclass(frozen=True)
class Drawn(Partial):
    """Gradients of risks over ``count`` draws of their own at every checkpoint, of some of the parameters.

    Attributes:
        count: draws per instance.
        name: whose they are.
    """

    count: int = 16
    name: str = "draws"

    def at(self, checkpoint: Checkpoint, select: Select = "all", dtype: torch.dtype | None = None) -> GradientsAt:
        """Gradients at a checkpoint.

        Raises:
            IncompatibleError: no parameter has such a name.
        """
        fitted = self.fitted.with_draws(self.count, f"{self.name}/{checkpoint.step}")
        return Partial(fitted, self.train, self.test, self._first, self.parts).at(checkpoint, select, dtype)

    def onward(self, at: GradientsAt, checkpoint: Checkpoint) -> GradientsAt:
        """All parameters' gradients at another checkpoint: anew, since it has draws of its own."""
        return self.at(checkpoint, dtype=next(at.module.parameters()).dtype)


def named_parts(parameters: str | list[str]) -> tuple[str, ...]:
    """What ``estimator.parameters`` names: beginnings of names; nothing for all.

    Raises:
        ConfigError: it names nothing.
    """
    if not parameters:
        raise ConfigError("estimator.parameters must name some parameters, got nothing; all is the default")
    if parameters == "all":
        return ()
    return (parameters,) if isinstance(parameters, str) else tuple(parameters)


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


@dataclass(frozen=True)
class DrawnProducts:
    """⟨ḡ_i, ḡ_j⟩ of means over draws, with the variance that the draws give it.

    The variance is that of the jackknife over groups of draws, left out on both sides together (Efron & Stein 1981: no
    less than the true one on average).

    Attributes:
        numbers: standard normal numbers per draw.
        draws: per instance.
        groups: of draws that are left out one after the other; 0 for no variance. Divides ``draws``.
        own: how an instance is compared with itself: split_half (means of the two halves of the draws), pairs (mean
            over all pairs of different draws) or same (its squared norm, which is too large).
    """

    numbers: int
    draws: int
    groups: int
    own: Own

    def __call__(self, at: GradientsAt, checkpoint: Checkpoint, left: Split, right: Split) -> Iterator[Block]:
        """Test instances' gradients are held, once for each group that is left out."""
        size, held = self.step(at, left), max(at.held_size(right) // (1 + self.groups), 1)
        for columns in _pieces(len(right), held):
            x, y = at.tensors(right.take(columns))
            theirs = [at.rows(x, y), *self._without_each(at, x, y)]
            for rows in _pieces(len(left), size):
                x, y = at.tensors(left.take(rows))
                mine = at.rows(x, y)
                values, squares = _wide(mine.dot(theirs[0])), mine.squares().double()
                variance = self._variance(values, self._without_each(at, x, y), theirs[1:]) if self.groups else None
                own = self._own(at, x, y, squares) if columns.start == 0 else squares
                yield Block(rows, columns, values, own, int((squares == 0).sum()), variance)

    def step(self, at: GradientsAt, left: Split) -> int:
        """A block of instances."""
        return at.block_size(left)

    def _variance(self, values: Tensor, mine: Iterator[Rows], theirs: Sequence[Rows]) -> Tensor:
        """(G - 1)/G Σ_g (K_g - mean K_g)², where K_g leaves out group g."""
        total, squares = torch.zeros_like(values).double(), torch.zeros_like(values).double()
        for one, other in zip(mine, theirs, strict=True):
            apart = (_wide(one.dot(other)) - values).double()
            total += apart
            squares.addcmul_(apart, apart)
        count = self.groups
        return squares.sub_(total.square_().div_(count)).mul_((count - 1) / count).clamp_(min=0)

    def _own(self, at: GradientsAt, x: Tensor, y: Tensor, squares: Tensor) -> Tensor:
        """``(b,)`` mean of ⟨g_a, g_b⟩ over different parts of the draws: (P² |ḡ|² - Σ |g_a|²) / (P (P - 1))."""
        if self.own == "same":
            return squares
        count = 2 if self.own == "split_half" else self.draws
        size = self.draws // count
        parts = (at.rows(self._some(x, np.arange(part * size, (part + 1) * size)), y) for part in range(count))
        each = torch.stack([part.squares().double() for part in parts]).sum(0)
        return (count**2 * squares - each) / (count * (count - 1))

    def _without_each(self, at: GradientsAt, x: Tensor, y: Tensor) -> Iterator[Rows]:
        """Gradients without one group of draws after the other."""
        if not self.groups:
            return
        for gone in np.split(np.arange(self.draws), self.groups):
            yield at.rows(self._some(x, np.setdiff1d(np.arange(self.draws), gone)), y)

    def _some(self, x: Tensor, kept: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
        """Inputs ``(b, known + R k)`` with the ``kept`` draws alone."""
        width = x.shape[1] - self.draws * self.numbers
        drawn = x[:, width:].view(len(x), self.draws, self.numbers)[:, torch.from_numpy(kept).to(x.device)]
        return torch.cat([x[:, :width], drawn.flatten(1)], 1)


def spread_of(groups: int) -> Spread | None:
    """The standard error over draws, which are independent from checkpoint to checkpoint; None without groups."""
    return (
        dataclasses.replace(INDEPENDENT, meaning=f"latent draws (jackknife over {groups} groups)") if groups else None
    )


def _pieces(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _wide(values: Tensor) -> Tensor:
    """At least single precision."""
    return values.float() if values.itemsize < 4 else values
