"""Probabilistic principal component analysis in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from influx.errors import IncompatibleError
from influx.learners.densities.learner import DensityLearner
from influx.learners.densities.normals import Moments, Normals
from influx.models.inputs import flat_size
from influx.models.settings import check_count
from influx.problem import Data

EIGEN = 9  # d³ operations of all eigenvalues and vectors, about


@dataclass(frozen=True, kw_only=True)
class PPCA(DensityLearner):
    """x = W z + mean + noise, with z ~ N(0, I) of few dimensions and noise of one variance; the likelihood's optimum.

    The covariance W Wᵀ + σ² I keeps the ``latent`` largest eigenvalues of the data's and replaces the others by their
    mean σ². Source: Tipping & Bishop 1999, Eq. (7) and (8). Optimizer and training settings are unused.

    Attributes:
        penalty: added to every variance, in squared units of the features; 0 needs more instances in general position
            than ``latent``.
        latent: dimensions of z, fewer than features.
    """

    name: ClassVar[str] = "ppca"

    latent: int = 8

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_count("latent", self.latent)

    def check(self, data: Data) -> None:
        """Refuse token ids, and as few features as latent dimensions.

        Raises:
            IncompatibleError: naming model and dataset.
        """
        super().check(data)
        d = flat_size(data, self.name)
        if self.latent >= d:
            raise IncompatibleError(
                f"model.latent must be below the {d} features of dataset={data.name}, got {self.latent}; lower it or "
                "choose model=gaussian"
            )

    def densities(self, moments: Moments, shares: Tensor, added: Tensor) -> Normals:
        """Eigenvalues and vectors of the weighted covariances; see ``DensityLearner``."""
        values, vectors = torch.linalg.eigh(moments.covariances(shares))  # ascending
        variances = values.clamp(min=0) + added[:, None]
        few = variances.shape[1] - self.latent
        noise = variances[:, :few].mean(1, keepdim=True)
        variances = torch.cat([noise.expand(-1, few), variances[:, few:]], 1)
        self.check_variances(variances, variances.amax(1, keepdim=True))
        deviations = variances.sqrt()
        return Normals(
            mean=moments.means(shares),
            root=vectors * deviations[:, None],
            inverse=vectors.mT / deviations[:, :, None],
            log_determinant=variances.log().sum(1),
        )

    def _flops(self, data: Data) -> tuple[float, str]:
        n, every, d = len(data.train), len(data.train) + len(data.test), flat_size(data, self.name)
        return 1.0 * n * d * (d + 1) + EIGEN * d**3 + 2.0 * every * d * d, f"n d² + {EIGEN} d³ + 2 (n + m) d²"
