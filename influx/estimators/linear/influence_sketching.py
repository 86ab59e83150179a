"""Influence sketching: Cook's distance from inputs projected to few dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.engines.deletions import Deletions, one_step, summed
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

Sketch = Literal["gaussian", "sparse", "orthogonal"]
ROWS = 256  # training instances whose changes of test outputs are held at once


@dataclass(frozen=True, kw_only=True)
class InfluenceSketching:
    """Generalised Cook's distance of inputs that are projected to k dimensions.

    Estimates: with S = X Ω in place of X, the one-step shift c_i of a linear model on S. Values are
        L(f_j - S_j c_i) - L(f_j); positive for proponents; only their order means something. Table sketched_cooks
        holds r_i² ĥ_i / (V_i (1 - ĥ_i)²), which has no sign and survives the sketch far better than the values.
    Needs: a linear model at its optimum.
    Cost: n q k + n (k K)² + (k K)³ + n m k per sketch, K = classes - 1; memory n k.
    Source: Wojnowicz et al. 2016; survey section 4.1.3. Several classes are taken together: V_i is the matrix
        diag(p) - p pᵀ and ĥ_i a K x K block.

    Attributes:
        k: dimensions of the sketch; more than the q inputs count as q.
        sketch: gaussian, sparse (±1 with probability 1/6 each, else 0) or orthogonal (random directions at right
            angles; with k = q the result is that of all inputs).
        lam: ridge in units of the mean diagonal of Sᵀ V S, for example 0.001; None projects the model's own penalty.
        n_sketches: independent sketches to average over; two or more give a standard error.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.LINEAR_MODEL})
    parameters: ClassVar[bool] = True  # it measures how far they move
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="linear models",
        full="n q k + n k² + k³",
        incremental="n k",
        storage="n k",
        assumptions="linear model at its optimum",
        groups="no",
        paper="Wojnowicz et al. 2016",
    )

    k: int = 64
    sketch: Sketch = "orthogonal"
    lam: float | None = None
    n_sketches: int = 1

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.k < 1:
            raise ConfigError(f"estimator.k must be at least 1, got {self.k}; raise it")
        if self.sketch not in get_args(Sketch):
            raise ConfigError(f"estimator.sketch must be {', '.join(get_args(Sketch))}, got {self.sketch!r}; change it")
        if self.lam is not None and not 0 <= self.lam < np.inf:
            raise ConfigError(f"estimator.lam must be at least 0 or null, got {self.lam}; set for example 0.001")
        if self.n_sketches < 1:
            raise ConfigError(f"estimator.n_sketches must be at least 1, got {self.n_sketches}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """Products with the sketch, one factorisation, products with the test instances; for every sketch."""
        n, m, q = len(prospect.train), len(prospect.test), prospect.train.x[:1].size + 1
        outputs, k = max(1, prospect.problem.data.n_outputs - 1), min(self.k, q)
        size = k * outputs
        flops = 2.0 * (n + m) * q * k + 3.0 * n * size**2 + size**3 + 2.0 * n * m * size
        return Work(
            flops=2 * self.n_sketches * flops,
            numbers=6.0 * self.n_sketches * n * m * outputs,
            bytes=8.0 * (n * (2 * q + 2 * size) + 4 * size**2 + 3 * n * m),
            formula=f"{self.n_sketches} x (2 (n + m) q k + 3 n (k K)² + (k K)³ + 2 n m k K) with n={n}, m={m}, "
            f"q={q}, k={k}, K={outputs}",
        )

    def estimate(self, run: Run) -> Influence:
        """Average over sketches."""
        import pandas as pd

        model, draws = run.linear_model, run.rng("sketch")
        train, test = model.system(run.train), model.system(run.test)
        curvature, residual, penalty = model.curvature(train), model.residual(train), model.penalty(train)
        outputs, own_outputs = model.outputs(test), model.outputs(train)
        before, own_before = test.outcomes(outputs[None]).loss, train.outcomes(own_outputs[None]).loss[0]
        mean, squares, itself = run.zeros(), run.zeros() if self.n_sketches > 1 else None, np.zeros(len(run.train))
        scores, leverages = [], []
        for number in range(1, self.n_sketches + 1):
            omega = torch.from_numpy(directions(train.x.shape[1], self.k, self.sketch, draws))
            s, s_test = train.x @ omega, test.x @ omega
            found = self._deletions(s, curvature, residual, penalty, omega)
            for rows in torch.arange(len(s)).split(ROWS):
                part = rows.numpy()
                new = test.outcomes(outputs - found.shift[rows] @ s_test.T).loss - before
                off = new - mean[part]
                mean[part] += off / number
                if squares is not None:
                    squares[part] += off * (new - mean[part])
            own = own_outputs - torch.einsum("nkq,nq->kn", found.shift, s)
            itself += (train.outcomes(own[None]).loss[0] - own_before) / self.n_sketches
            scores.append(found.distance.numpy())
            leverages.append(found.leverage.numpy())
        sd = np.std(scores, axis=0, ddof=1) if self.n_sketches > 1 else np.full(len(run.train), np.nan)
        table = pd.DataFrame(
            {
                "train_id": run.train.ids,
                "score": np.mean(scores, axis=0),
                "sd": sd,
                "leverage": np.mean(leverages, axis=0),
            }
        )
        error = None if squares is None else np.sqrt(squares / (self.n_sketches - 1) / self.n_sketches)
        report = {"k": omega.shape[1], "inputs": omega.shape[0], "sketches": self.n_sketches, "signed": False}
        return run.influence(
            mean, stderr=error, self_influence=itself, tables={"sketched_cooks": table}, report=report, scale="rank"
        )

    def _deletions(self, s: Tensor, curvature: Tensor, residual: Tensor, penalty: Tensor, omega: Tensor) -> Deletions:
        outputs = curvature.shape[1]
        if self.lam is None:
            spread = torch.kron(torch.eye(outputs, dtype=s.dtype), omega)
            return one_step(s, curvature, residual, spread.T @ penalty @ spread)
        fisher = summed(s, curvature)
        ridge = self.lam * fisher.diagonal().mean() * torch.eye(len(fisher), dtype=s.dtype)
        return one_step(s, curvature, residual, ridge)


def directions(inputs: int, k: int, sketch: Sketch, rng: np.random.Generator) -> NDArray[np.float64]:
    """``(inputs, min(k, inputs))`` Ω with E Ω Ωᵀ = I."""
    k = min(k, inputs)
    if sketch == "sparse":
        return np.asarray(rng.choice([-1.0, 0.0, 1.0], size=(inputs, k), p=[1 / 6, 2 / 3, 1 / 6]) * np.sqrt(3 / k))
    normal = rng.normal(size=(inputs, k))
    if sketch == "gaussian":
        return np.asarray(normal / np.sqrt(k))
    return np.asarray(np.linalg.qr(normal)[0] * np.sqrt(inputs / k))
