"""A task from a person's own loss function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import grad

from influx.errors import IncompatibleError

LossFunction = Callable[[Tensor, Tensor], Tensor]
NO_CURVED = (
    "the curvature of a loss function of your own depends on the targets, which products with the Gauss-Newton matrix "
    "do not see; use estimator.curvature=hessian or empirical_fisher, or estimator=if_ekfac"
)


def per_instance(loss: LossFunction, outputs: Tensor, y: Tensor) -> Tensor:
    """``(n,)`` losses of a person's function, which is given both in float32 where it takes nothing else.

    Raises:
        IncompatibleError: it does not return one number per instance.
    """
    try:
        found = loss(outputs, y)
    except RuntimeError:  # tensors of its own, class weights for example, have one precision
        if outputs.dtype != torch.float64:
            raise
        found = loss(outputs.float(), y.float() if y.is_floating_point() else y).to(outputs.dtype)
    if not isinstance(found, Tensor) or found.shape != (len(y),):
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise IncompatibleError(
            f"loss(outputs, y) must return one number per instance, shape ({len(y)},), got {got}; "
            "use reduction='none' and average over everything but the instances"
        )
    return found


@dataclass(frozen=True)
class AsGiven:
    """A person's function, called with the shapes and the type that their module and their targets have.

    ``flat`` where the module returns (n,), ``column`` where targets are (n, 1), ``whole`` where they are whole numbers.
    """

    function: LossFunction
    flat: bool
    column: bool
    whole: bool

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The function's value for outputs (n, k) and targets (n,)."""
        y = y.long() if self.whole else y
        return self.function(outputs.squeeze(-1) if self.flat else outputs, y.unsqueeze(-1) if self.column else y)


def check_loss(loss: LossFunction, outputs: Tensor, y: Tensor) -> None:
    """Try a person's function on a few instances, together and each alone.

    Raises:
        IncompatibleError: it fails, or does not return one number per instance, which the others do not change.
    """
    try:
        together = per_instance(loss, outputs, y)
        alone = torch.cat([per_instance(loss, outputs[i : i + 1], y[i : i + 1]) for i in range(len(y))])
    except IncompatibleError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise IncompatibleError(
            f"loss(outputs, y) fails on outputs of shape {tuple(outputs.shape)} and y of shape {tuple(y.shape)} "
            f"({type(error).__name__}: {first}); correct the function"
        ) from error
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise IncompatibleError(
            "loss(outputs, y) must give an instance the same loss alone as among others, got "
            f"{alone[0].item():.4g} and {together[0].item():.4g}; let it mix no instances, and mind that outputs of "
            f"shape {tuple(outputs.shape)} and y of shape {tuple(y.shape)} may broadcast"
        )


class OwnLoss:
    """Risk by a function ``(outputs (n, k), y (n,)) -> (n,)``; its derivatives by autograd.

    Gauss-Newton and Fisher matrices take the loss to be convex in the outputs: negative curvature is left out.
    """

    by_target: ClassVar[bool] = True  # second derivatives depend on the target

    def __init__(self, function: LossFunction) -> None:
        """``function`` sees every instance apart from the others."""
        self.function = function

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The function's value."""
        if outputs.ndim > 2:
            return torch.stack([self.loss(one, y) for one in outputs])
        return per_instance(self.function, outputs, y)

    def encode(self, y: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        """The targets; ``residual`` has no closed form.

        Raises:
            IncompatibleError: always.
        """
        raise IncompatibleError("closed forms need loss='cross_entropy' or 'mse', got a function; choose one of them")

    def residual(self, outputs: Tensor, encoded: Tensor, dim: int = -1, out: Tensor | None = None) -> Tensor:
        """Refused: see ``encode``."""
        return self.encode(encoded, outputs.shape[dim], outputs.dtype)

    def output_gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Of each instance's loss, like ``outputs``."""
        found: Tensor = grad(lambda z: self.loss(z, y).sum())(outputs)
        return found

    def curvature_factor(self, outputs: Tensor, y: Tensor, k: int) -> Tensor:
        """√λ_k v_k by the eigenvalues λ ≥ 0 and eigenvectors v of the Hessian, since Λ = Σ_k λ_k v_k v_kᵀ."""
        columns = [
            grad(lambda z, a=a: self.output_gradient(z, y)[:, a].sum())(outputs) for a in range(outputs.shape[1])
        ]
        values, vectors = torch.linalg.eigh(torch.stack(columns, 1))
        factor: Tensor = vectors[..., k] * values[:, k : k + 1].clamp_min(0).sqrt()
        return factor

    def curved(self, outputs: Tensor, directions: Tensor, dim: int = -1) -> Tensor:
        """Refused.

        Raises:
            IncompatibleError: always.
        """
        raise IncompatibleError(NO_CURVED)

    def margin(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Minus the loss."""
        return -self.loss(outputs, y)

    def predict(self, outputs: Tensor) -> Tensor:
        """Index of the largest output; of a single one the output itself."""
        return outputs.argmax(-1) if outputs.shape[-1] > 1 else outputs.squeeze(-1)
