"""Variational autoencoders as modules that return the risk of each instance, whatever their encoder and decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influx.errors import ConfigError, IncompatibleError
from influx.models.layers import ACTIVATIONS, unrounded
from influx.models.settings import check_choice, check_count, check_flag, check_positive
from influx.problem import Data, TaskName

Likelihood = Literal["gaussian", "gaussian_learned", "bernoulli"]
Bound = Literal["elbo", "importance"]
LEAST_SCALE = 0.05  # of a learned deviation: a density would grow without bound around what is constant
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Observed(Protocol):
    """What an instance looks like, given what the decoder says: numbers (..., d) of d features."""

    def risk(self, rows: Tensor, decoded: Tensor) -> Tensor:
        """Minus the logarithm of the density (..., ) of ``rows``, which broadcast against ``decoded`` (..., d)."""
        ...

    def mean(self, decoded: Tensor) -> Tensor:
        """Expected features."""
        ...


class Gaussian(nn.Module):
    """Independent normal features of one deviation, given or learned."""

    def __init__(self, scale: float, learned: bool) -> None:
        super().__init__()
        self.scale = scale
        above = scale - LEAST_SCALE
        # the inverse of softplus, without overflow
        self.start = above + math.log(-math.expm1(-above)) if learned else 0.0
        self.moved = nn.Parameter(torch.zeros(1)) if learned else None

    def risk(self, rows: Tensor, decoded: Tensor) -> Tensor:
        """|x - f|² / (2 s²) + d log s + d/2 log 2π."""
        squares = (rows - decoded).square().sum(-1)
        if self.moved is None:
            return squares / (2 * self.scale**2) + rows.shape[-1] * (math.log(self.scale) + HALF_LOG_TAU)
        # d features decide on one number: its steps are divided by d, or those of SGD would be too long
        scale = LEAST_SCALE + F.softplus(self.start + self.moved / math.sqrt(rows.shape[-1]))
        return squares / (2 * scale.square()) + rows.shape[-1] * (scale.log() + HALF_LOG_TAU)

    def mean(self, decoded: Tensor) -> Tensor:
        """What is decoded."""
        return decoded


class Bernoulli(nn.Module):
    """Independent features in [0, 1] from logits; in between, the cross-entropy (no density that sums to 1)."""

    def risk(self, rows: Tensor, decoded: Tensor) -> Tensor:
        """Cross-entropy."""
        return (F.softplus(decoded) - rows * decoded).sum(-1)

    def mean(self, decoded: Tensor) -> Tensor:
        """Probabilities."""
        return torch.sigmoid(decoded)


class Coder(Protocol):
    """One half of an autoencoder."""

    def __call__(self, given: Tensor, labels: Tensor) -> Tensor:
        """Encoder: rows (n, d) -> means and log-variances (n, 2 k); decoder: latents (n, R, k) -> (n, R, d)."""
        ...


class LatentDensity(nn.Module):
    """z ~ N(0, I) in k dimensions, x given z by the decoder; the encoder makes q(z | x), a diagonal normal.

    The output is the risk ``(n, 1)`` in nats. With bound elbo (Kingma & Welling 2014; Higgins et al. 2017 for beta)

        (1/R) Σ_r -log p(x | z_r) + beta · KL(q(z | x) | N(0, I)),    z_r = mean + deviation · ε_r,

    the divergence in closed form; with bound importance (Burda et al. 2016) -log (1/R) Σ_r p(x | z_r) p(z_r) / q(z_r),
    which falls to -log p(x) as R grows. The input is flat: an instance's d features, its label one-hot if the model is
    conditional, and R · k standard normal numbers ε. The module draws nothing itself.
    """

    def __init__(self, model: Latent, encoder: Coder, decoder: Coder, data: Data) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        learned = model.likelihood == "gaussian_learned"
        self.observed: Observed = Bernoulli() if model.likelihood == "bernoulli" else Gaussian(model.scale, learned)
        self.latent, self.beta, self.bound = model.latent, model.beta, model.bound
        self.shape = tuple(data.train.x.shape[1:])
        self.labels = len(data.classes) if model.conditional else 0

    @property
    def sample_width(self) -> int:
        """Standard normal numbers that a sample takes."""
        return self.latent

    def forward(self, x: Tensor) -> Tensor:
        """``(n, d + labels + R k) -> (n, 1)``.

        Raises:
            ValueError: there is no draw, or a part of one.
        """
        rows, labels, rest = self._parts(x)
        if not rest.shape[1] or rest.shape[1] % self.latent:
            raise ValueError(
                f"the input must hold latent draws of {self.latent} numbers behind the {x.shape[1] - rest.shape[1]} of "
                f"the instance, got {rest.shape[1]}; use the inputs that the fitted model makes"
            )
        mean, log_variance = unrounded(self.encoder(rows, labels)).chunk(2, 1)
        noise = rest.reshape(len(x), -1, self.latent)  # (n, R, k)
        z = mean[:, None] + torch.exp(0.5 * log_variance)[:, None] * noise
        risk = self.observed.risk(rows[:, None], unrounded(self.decoder(z, labels)))  # (n, R)
        if self.bound == "importance":
            # log q - log p of z: the squares' constants cancel
            apart = 0.5 * (z.square().sum(-1) - noise.square().sum(-1) - log_variance.sum(1)[:, None])
            return math.log(risk.shape[1]) - torch.logsumexp(-risk - apart, 1, keepdim=True)
        divergence = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(1, keepdim=True)
        return risk.mean(1, keepdim=True) + self.beta * divergence

    def reconstruct(self, x: Tensor) -> Tensor:
        """Expected features ``(n, *shape)`` at the mean of q; draws in the flat input ``x`` are not read."""
        rows, labels, _ = self._parts(x)
        mean = self.encoder(rows, labels)[:, : self.latent]
        return self._seen(mean, labels)

    def sample(self, normals: Tensor, labels: Tensor | None = None) -> Tensor:
        """Expected features ``(n, *shape)`` of the latents ``normals`` (n, k), which are standard normal numbers.

        ``labels`` (n,) are class indices, for conditional models.

        Raises:
            ValueError: a conditional model was given no labels.
        """
        if self.labels and labels is None:
            raise ValueError("a conditional model samples for given labels; pass class indices (n,)")
        known = normals[:, :0] if labels is None or not self.labels else F.one_hot(labels, self.labels).to(normals)
        return self._seen(normals, known)

    def _seen(self, latents: Tensor, labels: Tensor) -> Tensor:
        decoded = self.decoder(latents[:, None], labels)[:, 0]
        return self.observed.mean(decoded).reshape(len(latents), *self.shape)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Instances, labels and draws."""
        flat, size = x.flatten(1), math.prod(self.shape)
        return flat[:, :size], flat[:, size : size + self.labels], flat[:, size + self.labels :]


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Settings that all variational autoencoders share.

    Attributes:
        latent: k, dimensions of the latent space.
        beta: factor of the divergence; 1 gives a bound of the density.
        bound: elbo, or importance: the importance-weighted bound, which is the density itself for many draws.
        likelihood: of the features given the latents: gaussian (of deviation ``scale``), gaussian_learned (``scale`` is
            where it starts) or bernoulli (features in [0, 1]).
        scale: deviation of the features; above 0.05, the least one, where it is learned.
        activation: of the hidden layers; smooth ones, see ``MLP``.
        draws: latent draws of an instance's risk in each training step.
        evaluation_draws: in every other risk, always the same ones.
        conditional: encoder and decoder read the label.
    """

    task: ClassVar[TaskName] = "density"
    name: ClassVar[str]

    latent: int = 8
    beta: float = 1.0
    bound: str = "elbo"
    likelihood: str = "gaussian"
    scale: float = 1.0
    activation: str = "tanh"
    draws: int = 1
    evaluation_draws: int = 16
    conditional: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("latent", "draws", "evaluation_draws"):
            check_count(name, getattr(self, name))
        check_choice("bound", self.bound, ("elbo", "importance"))
        check_choice("likelihood", self.likelihood, ("gaussian", "gaussian_learned", "bernoulli"))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_positive("scale", self.scale)
        if self.likelihood == "gaussian_learned" and self.scale <= LEAST_SCALE:
            raise ConfigError(
                f"model.scale must be above {LEAST_SCALE}, the least deviation that model.likelihood=gaussian_learned "
                f"learns, got {self.scale}; raise it or set model.likelihood=gaussian"
            )
        check_positive("beta", self.beta, zero=True)
        check_flag("conditional", self.conditional)
        if self.bound == "importance" and self.beta != 1:
            raise ConfigError(
                f"model.bound=importance is a bound of the density with model.beta=1 only, got {self.beta}; set "
                "model.beta=1 or model.bound=elbo"
            )

    @property
    def squared_errors(self) -> bool:
        """Whether the risk is made of them, beside the divergence."""
        return self.likelihood != "bernoulli"

    @property
    def log_density(self) -> str:
        """What minus the risk is of the logarithm of the density."""
        if self.bound == "importance":
            return f"importance ({self.evaluation_draws} draws)"
        return "elbo" if self.beta == 1 else f"elbo with beta={self.beta:g}, no bound of a density"

    def noise(self, data: Data) -> int:
        """Standard normal numbers of one latent draw."""
        return self.latent

    def check_range(self, data: Data) -> None:
        """Refuse features outside [0, 1] for the Bernoulli likelihood.

        Raises:
            IncompatibleError: naming the settings.
        """
        if self.likelihood != "bernoulli" or data.described:
            return
        low = min(float(split.x.min()) for split in (data.train, data.test))
        high = max(float(split.x.max()) for split in (data.train, data.test))
        if low < 0 or high > 1:
            raise IncompatibleError(
                f"model.likelihood=bernoulli expects features from 0 to 1, dataset={data.name} has {low:.3g} to "
                f"{high:.3g}; set dataset.standardize=false where they are so before, or model.likelihood=gaussian"
            )
