"""Games of training instances written out: every coalition trained on its own, definitions as sums over sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from math import comb
from typing import Any

import numpy as np
import torch
from torch import nn

from influx.oracles import plain
from influx.oracles.plain import Array
from influx.oracles.retraining import torch_optimizer
from influx.oracles.toys import Toy

Coalition = frozenset[int]


@dataclass
class Played:
    """v(S) = -risk of each test instance after training on S, each coalition trained when first asked for.

    ``empty`` is what to take for nobody; None is the net before training. ``members`` are players' training rows.
    """

    toy: Toy
    members: list[list[int]]
    empty: Array | None = None
    zero_one: bool = False
    known: dict[Coalition, Array] = field(default_factory=dict)

    def __call__(self, players: Iterable[int]) -> Array:
        """``(m,)`` value of a coalition."""
        coalition = frozenset(players)
        if coalition not in self.known:
            rows = sorted(row for player in coalition for row in self.members[player])
            nobody = not rows and self.empty is not None
            self.known[coalition] = self.empty if nobody and self.empty is not None else self._trained(rows)
        return self.known[coalition]

    def _trained(self, rows: list[int]) -> Array:
        module = trained_on(self.toy, rows) if rows else self.toy.module(0)
        if not self.zero_one:
            return -plain.losses(self.toy, module, self.toy.test)
        with torch.no_grad():
            right = module(self.toy.tensors(self.toy.test)[0]).argmax(1).numpy() == self.toy.test.y
        return np.asarray(right, np.float64) - 1


def trained_on(toy: Toy, rows: list[int]) -> nn.Module:
    """Trained in the recorded batches and learning rates on some rows alone, each batch averaged over those in it."""
    module, record, (x, y) = toy.module(0).train(), toy.trajectory(), toy.tensors(toy.train)
    optimizer = torch_optimizer(toy.learner.optimizer, module)
    kept_ids = set(toy.train.ids[rows].tolist())
    row_of = {int(identity): row for row, identity in enumerate(toy.train.ids)}
    for (start, stop), lr in zip(pairwise(record["batch_offsets"]), record["lr"][:, 0], strict=True):
        kept = [row_of[i] for i in record["batch_ids"][start:stop].tolist() if i in kept_ids]
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        optimizer.zero_grad()
        (plain.risks(toy.task, module(x[kept]), y[kept]).sum() / max(len(kept), 1)).backward()
        optimizer.step()
    return module.eval()


def single(toy: Toy, **fields: Any) -> Played:
    """Training instances as players."""
    return Played(toy, [[row] for row in range(len(toy.train))], **fields)


def subsets_without(n: int, *left_out: int) -> Iterator[Coalition]:
    """All sets of players but those."""
    others = [player for player in range(n) if player not in left_out]
    for size in range(len(others) + 1):
        yield from (frozenset(chosen) for chosen in combinations(others, size))


def semivalue(v: Played, weight: Callable[[int], float]) -> Array:
    """``(players, m)`` Σ_S weight(|S|) (v(S + i) - v(S))."""
    n = len(v.members)
    rows = [sum(weight(len(s)) * (v(s | {i}) - v(s)) for s in subsets_without(n, i)) for i in range(n)]
    return np.stack(rows)


def together(v: Played, s: Iterable[int], i: int, j: int) -> Array:
    """v(S + i + j) - v(S + i) - v(S + j) + v(S)."""
    s = frozenset(s)
    return v(s | {i, j}) - v(s | {i}) - v(s | {j}) + v(s)


def shapley_value(v: Played) -> Array:
    """Survey Eq. (17)."""
    n = len(v.members)
    return semivalue(v, lambda size: 1 / (n * comb(n - 1, size)))


def moebius(v: Played) -> dict[Coalition, Array]:
    """Coefficients m with v(S) = Σ_T⊆S m(T)."""
    everything = list(subsets_without(len(v.members)))
    return {t: np.asarray(sum((-1) ** len(t - s) * v(s) for s in everything if s <= t)) for t in everything}
