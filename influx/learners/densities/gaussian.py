"""A normal density in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from influx.learners.densities.learner import DensityLearner
from influx.learners.densities.normals import Moments, Normals
from influx.models.inputs import flat_size
from influx.models.settings import check_choice
from influx.problem import Data

Covariance = Literal["full", "diagonal", "spherical", "unit"]


@dataclass(frozen=True, kw_only=True)
class Gaussian(DensityLearner):
    """The normal density of largest likelihood; optimizer and training settings are unused.

    Attributes:
        penalty: added to every variance, in squared units of the features; 0 needs more instances in general position
            than features.
        covariance: full, diagonal (features are independent), spherical (and of one variance) or unit (of variance 1,
            which nothing changes, ``penalty`` included).
    """

    name: ClassVar[str] = "gaussian"

    covariance: str = "full"

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_choice("covariance", self.covariance, get_args(Covariance))

    def densities(self, moments: Moments, shares: Tensor, added: Tensor) -> Normals:
        """Weighted means, and weighted covariances plus ``added`` to the variances; see ``DensityLearner``."""
        mean = moments.means(shares)
        if self.covariance == "full":
            return self._full(mean, moments.covariances(shares), added, moments.scales)
        if self.covariance == "unit":
            variances = torch.ones_like(mean)
        else:
            variances = moments.variances(shares) + added[:, None]
            if self.covariance == "spherical":
                variances = variances.mean(1, keepdim=True).expand_as(variances)
            self.check_variances(variances, moments.scales)
        root = variances.sqrt()
        return Normals(mean=mean, root=root, inverse=1 / root, log_determinant=variances.log().sum(1))

    def _full(self, mean: Tensor, covariance: Tensor, added: Tensor, scales: Tensor) -> Normals:
        covariance.diagonal(dim1=1, dim2=2).add_(added[:, None])
        factor, info = torch.linalg.cholesky_ex(covariance)
        diagonal = factor.diagonal(dim1=1, dim2=2)
        # what is left of a feature's variance when those before it are known, whatever the units
        self.check_variances(torch.where(info[:, None] == 0, diagonal.square(), 0.0), scales)
        eye = torch.eye(mean.shape[1], dtype=mean.dtype).expand_as(factor)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
        return Normals(mean=mean, root=factor, inverse=inverse, log_determinant=2 * diagonal.log().sum(1))

    def _flops(self, data: Data) -> tuple[float, str]:
        n, every, d = len(data.train), len(data.train) + len(data.test), flat_size(data, self.name)
        if self.covariance == "full":
            return 1.0 * n * d * (d + 1) + 4 * d**3 / 3 + 2.0 * every * d * d, "n d² + 4 d³ / 3 + 2 (n + m) d²"
        return 4.0 * n * d + 3.0 * every * d, "4 n d + 3 (n + m) d"
