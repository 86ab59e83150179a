"""Influence through a training of a few stretches: passes over the training set at every checkpoint of each.

With v_L = ∇L(z_j; θ_T) and, backwards, v_{l-1} = F_S(H_l) v_l, the influence of instance i on test instance j is
(1/n) Σ_l ⟨F_r(H_l) v_l, ḡ_i,l⟩, ḡ_i,l being the mean of ∇L(z_i; θ_c) over the stretch's checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import interrupts, progress
from influx.engines.gradients import GradientsAt
from influx.engines.segments import Shrinkage, Spectral, Stretch
from influx.engines.solver_plans import pass_work, together
from influx.planning import Prospect, Work
from influx.problem import Split

COPIES = 3  # of each: as it is, pulled back, and in the basis


def segmented_work(prospect: Prospect, points: int, own: bool) -> Work:
    """What the passes take, with ``own`` those for self-influence too."""
    n, p = len(prospect.train), prospect.net.parameters
    work = pass_work(prospect, points=points, copies=COPIES + 1)
    if not own:
        return work
    return work + Work(
        gradients=float(n * (points + 1)),
        flops=2 * (6.0 * prospect.net.macs * n * (points + 1) + 2.0 * n * points * p),
    )


@dataclass(frozen=True)
class Segment:
    """A stretch with its mean curvature and per-instance gradients (float64) at its checkpoints, or at their mean.

    ``traces`` are those of the curvature at each of the points, without weight decay.
    """

    stretch: Stretch
    matrix: Spectral
    shrinkage: Shrinkage
    points: list[GradientsAt]
    traces: list[float]

    def pulled(self, vectors: Tensor, n: int) -> Tensor:
        """``(k, p)`` what an instance's mean gradient is multiplied by."""
        return self.matrix.apply(vectors, self.shrinkage.gained) / (n * len(self.points))

    def before(self, vectors: Tensor) -> Tensor:
        """``(k, p)`` the vectors at the start of the stretch, given those at its end."""
        return self.matrix.apply(vectors, self.shrinkage.kept)


@dataclass(frozen=True)
class Segmented:
    """All segments in order, gradients at the end of training, and both splits; ``norms`` collects what passes see."""

    segments: list[Segment]
    final: GradientsAt
    train: Split
    test: Split
    norms: dict[int, float] = field(default_factory=dict)  # by step: sum of squares of training gradients' norms

    @torch.no_grad()
    def fill(self, values: NDArray[np.float64]) -> None:
        """Add the influence on all test instances to zeros ``(n, m)``."""
        at_once = together(self.final.size, COPIES)
        starts = range(0, len(self.test), at_once)
        passes = sum(len(segment.points) for segment in self.segments)
        with progress.task("influence", len(starts) * passes * len(self.train)) as done:
            for start in starts:
                columns = slice(start, min(start + at_once, len(self.test)))
                rows = [rows.flat() for _, rows in self.final.written(self.test.take(columns))]
                for segment, step, at, pulled in self._backwards(torch.cat(rows)):
                    for part, found in at.written(self.train, len(pulled)):
                        flat = found.flat()
                        values[part, columns] += (flat @ pulled.T).cpu().numpy()
                        if start == 0:
                            self._note(segment.stretch.checkpoints[step].step, flat)
                        done(len(flat))
                        interrupts.check()

    @torch.no_grad()
    def own(self) -> NDArray[np.float64]:
        """``(n,)`` influence of each training instance on itself."""
        own = np.empty(len(self.train))
        with progress.task("self-influence", len(self.train)) as done:
            for part, rows in self.final.written(self.train, COPIES * self.final.size):
                x, y = self.train.take(part), torch.zeros(part.stop - part.start, dtype=torch.float64)
                for _, _, at, pulled in self._backwards(rows.flat()):
                    y += (at.rows(*at.tensors(x)).flat() * pulled).sum(1).cpu()
                own[part] = y.numpy()
                done(len(y))
                interrupts.check()
        return own

    def table(self) -> pd.DataFrame:
        """One row per segment: steps, sum of rates, gradients' root mean square norm and the curvature's trace.

        ``variation`` and ``trace_variation`` are the range of norms and traces at its checkpoints over their mean:
        stationary stretches have little. NaN where checkpoints were averaged before anything was computed.
        """
        rows = []
        for number, segment in enumerate(self.segments, 1):
            seen = segment.stretch.checkpoints[: len(segment.points)]
            norms = np.sqrt([self.norms[c.step] / len(self.train) for c in seen])
            kept, used = len(seen), len(segment.stretch.checkpoints)
            rows.append(
                {
                    "segment": number,
                    "first_step": segment.stretch.first,
                    "last_step": segment.stretch.last,
                    "rates": float(segment.shrinkage.rates.sum()),
                    "checkpoints": used,
                    "gradient_norm": float(norms.mean()),
                    "variation": _variation(norms) if kept == used else np.nan,
                    "trace": float(np.mean(segment.traces)),
                    "trace_variation": _variation(np.array(segment.traces)) if kept == used else np.nan,
                }
            )
        return pd.DataFrame(rows)

    def _backwards(self, vectors: Tensor) -> Iterator[tuple[Segment, int, GradientsAt, Tensor]]:
        """Segments from the last, their checkpoints, and the vectors ``(k, p)`` to multiply gradients by."""
        for segment in reversed(self.segments):
            pulled = segment.pulled(vectors, len(self.train))
            for number, at in enumerate(segment.points):
                yield segment, number, at, pulled
            if segment is not self.segments[0]:
                vectors = segment.before(vectors)

    def _note(self, step: int, flat: Tensor) -> None:
        self.norms[step] = self.norms.get(step, 0.0) + float(flat.square().sum())


def _variation(values: NDArray[np.float64]) -> float:
    """Range over mean."""
    mean = float(values.mean())
    return float(np.ptp(values)) / mean if mean else 0.0
