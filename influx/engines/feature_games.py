"""Games of input features: an instance keeps those of a coalition and has the others from background instances."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.engines.coalitions import kernel_weights, log_binomial, semivalues, shapley_weights
from influx.engines.explanations import Output, worth
from influx.engines.games import Array, Coalitions, Game
from influx.engines.permutations import with_mean
from influx.errors import ConfigError, NumericalError
from influx.problem import Data, Outcomes, Split, TaskName

if TYPE_CHECKING:
    from influx.planning import Prospect
    from influx.run import Run

IMPUTED_BYTES = 16 << 20  # inputs that are made at a time
VALUED_CHUNK = 4096  # coalitions that are asked for at a time
SAMPLES = 2048
LEAST, PER_PLAYER = 64, 8  # coalitions with fewer of which intervals of two standard errors cover less than 92 %
ALONE = 1 - 1e-9  # leverage of a pair without which the others leave a value open


@dataclass(frozen=True, kw_only=True)
class FeatureGame:
    """Features that cooperate in one instance's prediction: v(S)[j] is the mean over background instances b.

    Of the output at x_j with the features outside S taken from b: of the outputs, not the output of the mean.

    Attributes:
        outcomes: of the trained model on any inputs.
        task: classification or regression.
        output: what the features divide.
        split: the instances, one column each.
        background: ``(b, ...)`` inputs that stand for an absent feature.
        members: ``(players, numbers)`` which numbers of a flattened input a player holds.
    """

    outcomes: Callable[[Split], Outcomes]
    task: TaskName
    output: Output
    split: Split
    background: NDArray[Any]
    members: Coalitions

    @property
    def players(self) -> int:
        """How many there are."""
        return len(self.members)

    def values(self, coalitions: Coalitions) -> Array:
        """``(K, m)`` values."""
        n, b, numbers = len(self.split), len(self.background), self.members.shape[1]
        together = max(IMPUTED_BYTES // (self.split.x.itemsize * numbers * b), 1)  # pairs of coalition and instance
        instances = min(together, n)
        found = np.empty((len(coalitions), n))
        for first in range(0, n, instances):
            part = slice(first, first + instances)
            for start in range(0, len(coalitions), together // instances):
                rows = slice(start, start + together // instances)
                found[rows, part] = self._imputed(coalitions[rows], self.split.take(part))
        return found

    def _imputed(self, coalitions: Coalitions, split: Split) -> Array:
        kept = coalitions @ self.members  # (K, numbers)
        x, others = split.x.reshape(len(split), -1), self.background.reshape(len(self.background), -1)
        inputs = np.where(kept[:, None, None, :], x[None, :, None, :], others[None, None, :, :])
        shape = inputs.shape[:3]
        y = np.broadcast_to(split.y[None, :, None], shape).reshape(-1)
        made = Split(x=inputs.reshape(-1, *split.x.shape[1:]), y=y, ids=np.arange(len(y)))
        return np.asarray(worth(self.outcomes(made), y, self.output, self.task).reshape(shape).mean(axis=2))


def players_of(data: Data, patch: int | None) -> tuple[Coalitions, list[str]]:
    """``(players, numbers)`` which numbers of a flattened input each holds, and their names.

    Every number alone, or squares of ``patch`` pixels with all their channels.

    Raises:
        ConfigError: the data are no images, or the patch leaves fewer than 2 players.
    """
    shape = data.train.x.shape[1:]
    size = int(np.prod(shape))
    if patch is None:
        named = len(shape) == 1 and len(data.features) == size
        names = list(data.features) if named else [",".join(map(str, index)) for index in np.ndindex(*shape)]
        members = np.eye(size, dtype=bool)
    else:
        if data.kind != "image" or len(shape) != 3:
            raise ConfigError(
                f"estimator.patch needs images (channels, height, width), dataset={data.name} has instances of shape "
                f"{shape}; use estimator.patch=null"
            )
        rows, columns = np.arange(shape[1]) // patch, np.arange(shape[2]) // patch
        cell = np.broadcast_to(rows[:, None] * (columns[-1] + 1) + columns, shape).reshape(-1)
        members = cell[None, :] == np.arange(cell.max() + 1)[:, None]
        names = [f"patch {row},{column}" for row in range(rows[-1] + 1) for column in range(columns[-1] + 1)]
    if len(names) < 2:
        raise ConfigError(f"a game needs at least 2 features, got {len(names)}; lower estimator.patch or use more data")
    return members, names


def background_of(run: Run | Prospect, background: Literal["mean"] | int) -> NDArray[Any]:
    """``(b, ...)`` inputs of drawn training instances, all where there are fewer, in the order of ids; or their mean.

    Raises:
        ConfigError: inputs have no mean.
    """
    split = run.train.take(np.argsort(run.train.ids, kind="stable"))
    if background == "mean":
        if not np.issubdtype(split.x.dtype, np.floating):
            raise ConfigError("estimator.background=mean needs numbers, inputs are tokens; use estimator.background=10")
        return np.asarray(split.x.mean(axis=0, keepdims=True, dtype=np.float64), dtype=split.x.dtype)
    drawn = subsets.fixed_size(split.ids, int(background), 1, run.rng("background"))[0]
    return np.asarray(split.x[drawn > 0])


def samples_of(players: int, n_samples: int | None) -> int:
    """How many coalitions to draw: ``n_samples``, by default 2 d + 2048 as in the paper's code.

    Raises:
        ConfigError: they are too few.
    """
    least = max(PER_PLAYER * players, LEAST)
    if n_samples is None:
        return max(2 * players + SAMPLES, least)
    if n_samples < least:
        raise ConfigError(
            f"estimator.n_samples must be at least {least} for {players} features, got {n_samples}; raise it, or make "
            "the features of images fewer by estimator.patch"
        )
    return n_samples


def drawn_pairs(players: int, pairs: int, rng: np.random.Generator) -> Coalitions:
    """``(pairs, players)`` coalitions, each standing for itself and its complement; longer draws go on.

    A coalition is as likely as its weight in KernelSHAP, so that plain least squares estimate the Shapley value.
    """
    sizes = np.arange(1, players)
    chance = kernel_weights(players, sizes) * np.exp([log_binomial(players, int(size)) for size in sizes])
    upto = np.cumsum(chance / chance.sum())
    drawn = np.zeros((pairs, players), dtype=bool)
    for row in drawn:
        size = sizes[min(int(np.searchsorted(upto, rng.random(), "right")), players - 2)]
        row[rng.permutation(players)[:size]] = True
    return drawn


class PairedKernel:
    """KernelSHAP from coalitions and their complements.

    The two equations of a pair differ in sign on the left, so that half their difference is one equation, which has
    the same least-squares solution: Σ_f (z_f - z_last) φ_f = (v(z) - v(1 - z) - (2 z_last - 1)(v(D) - v(∅))) / 2.
    The last player has what is missing to v(D) - v(∅).
    """

    def __init__(self, drawn: Coalitions) -> None:
        """``drawn`` (pairs, players).

        Raises:
            NumericalError: without some pair the others leave a value open.
        """
        z = drawn.astype(np.float64)
        self.unique, self.back = np.unique(drawn, axis=0, return_inverse=True)
        self.last = 2 * z[:, -1:] - 1
        self.others = z[:, :-1] - z[:, -1:]
        left, upper = np.linalg.qr(self.others)
        leverage = np.square(left).sum(axis=1, keepdims=True)
        if leverage.max() > ALONE or np.abs(np.diag(upper)).min() < 1 - ALONE:
            raise NumericalError(
                f"{len(z)} pairs of coalitions do not tell {len(z.T)} features apart; raise estimator.n_samples"
            )
        solve = np.linalg.solve(upper, left.T)
        self.solve = np.concatenate([solve, -solve.sum(axis=0, keepdims=True)])  # (players, pairs)
        self.deleted = 1 / (1 - leverage)

    def differences(self, game: Game) -> tuple[Array, Array]:
        """Right sides ``(pairs, m)``, and v(D) - v(∅) ``(m,)``. Equal coalitions are valued once."""
        ends = np.stack([np.ones(game.players, bool), np.zeros(game.players, bool)])
        full, empty = game.values(ends)
        halves = [
            (game.values(part) - game.values(~part)) / 2
            for part in np.split(self.unique, range(VALUED_CHUNK, len(self.unique), VALUED_CHUNK))
        ]
        gap = full - empty
        return np.concatenate(halves)[self.back.reshape(-1)] - self.last / 2 * gap, gap

    def values(self, right: Array, gap: Array) -> tuple[Array, Array]:
        """Values and their standard errors ``(players, m)``: each residual as if its pair was left out."""
        found = self.solve @ right
        residual = (right - self.others @ found[:-1]) * self.deleted
        found[-1] += gap
        return found, np.sqrt(np.square(self.solve) @ np.square(residual))


def explained(games: Iterable[FeatureGame], kernel: PairedKernel | None) -> tuple[Array, Array]:
    """Values and standard errors (players, m + 1) of games one after another, the last column those of the mean.

    Without a kernel from all coalitions, with no error.
    """
    found, errors, total = [], [], np.zeros(0)
    for game in games:
        if kernel is None:
            found.append(semivalues(game, shapley_weights(game.players)))
            errors.append(np.zeros_like(found[-1]))
            continue
        right, gap = kernel.differences(game)
        values, stderr = kernel.values(right, gap)
        found.append(values)
        errors.append(stderr)
        sums = np.append(right.sum(axis=1), gap.sum())
        total = sums if not len(total) else total + sums
    values, stderr = np.concatenate(found, axis=1), np.concatenate(errors, axis=1)
    if kernel is None:
        return with_mean(values), with_mean(stderr)
    mean = total[:, None] / values.shape[1]
    last = kernel.values(mean[:-1], mean[-1])
    return np.concatenate([values, last[0]], axis=1), np.concatenate([stderr, last[1]], axis=1)
