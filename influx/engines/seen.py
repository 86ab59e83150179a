"""What the first pass over the training set learns of each instance, whatever multiplies its gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from influx.engines.operators import definite_kind
from influx.errors import NumericalError
from influx.run import Run

Relative = Literal["none", "theta", "loss", "gradient"]


class Seen:
    """Sums and norms of gradients, what their influence is divided by, and their influence on themselves.

    Attributes:
        relative: what influence is divided by.
        with_own: influence of instances on themselves is asked for.
        total: ``(p,)`` sum of the gradients.
        norms: ``(n,)`` of each.
        divisors: ``(n,)``.
        own: ``(n,)`` influence on itself.
        without: instances with a zero gradient.
    """

    def __init__(self, run: Run, size: int, relative: Relative, own: bool):
        """``size`` is the number of parameters p."""
        self.run, self.relative, self.with_own = run, relative, own
        n = len(run.train)
        self.own, self.norms = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        self.divisors = torch.ones(n, dtype=torch.float64)
        self.total = torch.zeros(size, dtype=torch.float64, device=run.curvature.decay.device)
        self.without = 0

    @property
    def with_quadratic(self) -> bool:
        """Whether somebody asks for quadratic forms with the inverse."""
        return self.with_own or self.relative == "loss"

    def note(self, part: slice, total: Tensor, norms: Tensor, quadratic: Tensor, solved: Tensor) -> None:
        """Of the instances ``part``: ``quadratic`` gᵀ (H_r + δI)⁻¹ g and norms ``solved`` of solutions, where needed.

        Raises:
            NumericalError: a quadratic form to divide by is not positive.
        """
        self.total += total
        divisors = self._divisors(norms, quadratic, solved)
        if self.relative != "none":
            zero = norms == 0
            self.without += int(zero.sum())
            if bool((divisors[~zero] <= 0).any()):
                raise NumericalError(
                    "an instance's own quadratic form must be positive to divide by; set a larger estimator.damping or "
                    f"estimator.curvature={definite_kind(self.run.curvature.fitted.task)}"
                )
            divisors = torch.where(zero, torch.ones_like(divisors), divisors)
        self.norms[part], self.divisors[part] = norms.cpu(), divisors.cpu()
        if self.with_own:
            self.own[part] = (quadratic / len(self.run.train) / divisors).cpu()

    def _divisors(self, norms: Tensor, quadratic: Tensor, solved: Tensor) -> Tensor:
        if self.relative == "none":
            return torch.ones_like(norms)
        if self.relative == "loss":  # negative ones must not hide behind a root that is not a number
            return quadratic.sign() * quadratic.abs().sqrt()
        return norms if self.relative == "gradient" else solved
