"""Influence functions on candidates only: the training instances nearest to a test instance by learned features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import progress
from influx.engines.features import Features
from influx.engines.gradients import GradientsAt
from influx.engines.inverses import Inverse, Repeated, solutions
from influx.engines.neighbours import Neighbours
from influx.engines.operators import Kind
from influx.engines.solved import doubts
from influx.influence import Influence
from influx.problem import Split
from influx.run import Run

HELD_BYTES = 512 << 20  # of solutions held at once: more test instances take more passes over the candidates
TOP = 50  # most influential instances, of either sign, that candidates should hold
MISSED = 0.5  # recall from which no warning is needed
NOTE = "only the candidates of test instances get values; self-influence takes a solve for each training instance"


def nearest(features: Features, train: Split, test: Split, count: int, out: Any) -> Any:
    """Fill ``out`` (n, m) with 1 for the ``count`` nearest training instances (L2) of each test instance, else 0."""
    mine, theirs = (features.penultimate(split).double().cpu().numpy() for split in (train, test))
    known = Neighbours(replace(train, x=mine), nearest=count)
    return known.fill(theirs, lambda order, rows: np.ones(order.shape), out)


class Pruned:
    """Influence on candidates, and the recall of the most influential instances for a few audited test instances."""

    def __init__(self, run: Run, inverse: Inverse, audited: NDArray[np.int64]):
        """``audited`` are columns of the test split, ascending."""
        self.run, self.inverse, self.audited = run, inverse, audited
        self.gradients: GradientsAt = run.gradients.exact
        self.values = run.zeros()
        self.spread = run.zeros() if isinstance(inverse, Repeated) else None
        self.whole = np.empty((len(run.train), len(audited)))  # influence of all instances on audited ones
        self.total, self.norm = torch.zeros(self.gradients.size, dtype=torch.float64), 0.0

    def influence(self, count: int, kind: Kind) -> Influence:
        """``count`` candidates for each test instance; NaN for the others."""
        run, n, m = self.run, len(self.run.train), len(self.run.test)
        nearest(run.features, run.train, run.test, count, self.values)
        used = np.concatenate([part.any(axis=1) for part in np.array_split(self.values, max(1, n // 1000))])
        at_once = max(1, HELD_BYTES // (8 * self.gradients.size))
        for start in range(0, m, at_once):
            self._fill(slice(start, min(start + at_once, m)), np.flatnonzero(used))
        report: dict[str, Any] = {"candidates": count, "instances_used": int(used.sum())}
        if len(self.audited):
            report |= self._recall(count) | {"gradient_norm": self._doubts()}
        return run.influence(
            self.values,
            scale="loss",
            stderr=self.spread,
            self_influence_note=NOTE,
            report={"curvature": kind} | self.inverse.report | report,
        )

    def _fill(self, columns: slice, used: NDArray[np.int64]) -> None:
        """Influence on the test instances ``columns`` in place of the marks of their candidates."""
        test, n = self.run.test.take(columns), len(self.run.train)
        rhs = torch.cat([rows.flat() for _, rows in self.gradients.blocks(test)])
        repeats = solutions(self.inverse, rhs)
        here = np.flatnonzero((self.audited >= columns.start) & (self.audited < columns.stop))
        whole = repeats[:, self.audited[here] - columns.start].mean(0)  # (audited, p)
        with progress.task("influence of candidates", n if len(here) else len(used)) as done:
            for rows, flat in self._blocks(np.arange(n) if len(here) else used, repeats[:, :, 0].numel()):
                if len(here):
                    self.whole[np.ix_(rows, here)] = (flat @ whole.T / n).cpu().numpy()
                    if here[0] == 0:
                        self.total += flat.sum(0).cpu()
                        self.norm += float(flat.norm(dim=1).sum())
                wanted = np.isin(rows, used, assume_unique=True)
                self._write(rows[wanted], columns, flat[torch.from_numpy(wanted).to(flat.device)], repeats)
                done(len(rows))
        missing = np.setdiff1d(np.arange(n), used, assume_unique=True)
        self.values[missing, columns] = np.nan
        if self.spread is not None:
            self.spread[missing, columns] = np.nan

    def _blocks(self, chosen: NDArray[np.int64], beside: int) -> Any:
        """Rows of the training split and their gradients ``(b, p)``."""
        for part, rows in self.gradients.written(self.run.train.take(chosen), beside):
            yield chosen[part], rows.flat()

    def _write(self, rows: NDArray[np.int64], columns: slice, flat: Tensor, repeats: Tensor) -> None:
        each = flat @ repeats.transpose(1, 2) / len(self.run.train)  # (r, b, columns)
        marked = self.values[rows, columns] > 0
        self.values[rows, columns] = np.where(marked, each.mean(0).cpu().numpy(), np.nan)
        if self.spread is not None:
            found = each.std(0, correction=1) / len(each) ** 0.5 if len(each) > 1 else each[0] * np.nan
            self.spread[rows, columns] = np.where(marked, found.cpu().numpy(), np.nan)

    def _recall(self, count: int) -> dict[str, float]:
        """Mean share of the most influential instances that are candidates; warns where it is low."""
        top = min(TOP, count)
        order = np.argsort(-np.abs(self.whole), axis=0, kind="stable")[:top]
        held = ~np.isnan(np.take_along_axis(np.asarray(self.values[:, self.audited]), order, axis=0))
        recall = float(held.mean())
        if recall < MISSED:
            self.run.warn(
                f"the {count} candidates hold {recall:.0%} of the {top} most influential training instances of "
                f"{len(self.audited)} audited test instances (as many drawn blindly would hold "
                f"{count / len(self.whole):.0%}); raise estimator.candidates"
            )
        return {
            "recall": recall,
            "recall_top": top,
            "recall_by_chance": count / len(self.whole),
            "audited": len(self.audited),
        }

    def _doubts(self) -> float:
        n = len(self.run.train)
        return doubts(self.run, self.total.to(self.run.curvature.decay.device) / n, self.norm / n)
