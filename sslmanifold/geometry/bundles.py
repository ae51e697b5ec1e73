"""Sorting an optimizer's parameters: plain ones for torch, manifold ones stacked where that pays."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.balls import FrobeniusBall, SpectralBall
from sslmanifold.geometry.stiefel import Stiefel

# Up to this many entries a matrix is so small that call overhead, not arithmetic, sets the time on a CPU.
_SMALL = 1 << 14


def is_manifold_parameter(p: Tensor) -> bool:
    """Whether p carries a manifold."""
    return isinstance(p, geoopt.ManifoldParameter | geoopt.ManifoldTensor)


def below(manifold: Any) -> Any:
    """The manifold of matrices for which a flattening reads kernels; any other manifold itself."""
    return getattr(manifold, "base", manifold)


def split(params: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """(plain, on a manifold), of the parameters that have a gradient."""
    plain: list[Tensor] = []
    curved: list[Tensor] = []
    for p in params:
        if p.grad is not None:
            (curved if is_manifold_parameter(p) else plain).append(p)
    return plain, curved


def bundle(
    params: Sequence[Tensor], foreach: bool | None, keys: Sequence[Hashable] | None = None
) -> list[list[int]]:
    """Indices of parameters that can be stepped as one stacked batch.

    Args:
        params: parameters on manifolds.
        foreach: True stacks every equal (manifold, shape, dtype, device), False nothing; None stacks small
            matrices on a CPU and everything elsewhere.
        keys: extra conditions of equality, one per parameter.
    """
    if len(params) == 1:
        return [[0]]
    groups: dict[Hashable, list[int]] = {}
    for i, p in enumerate(params):
        manifold = p.manifold  # type: ignore[attr-defined]
        ours = isinstance(below(manifold), Stiefel | FrobeniusBall | SpectralBall)
        wanted = foreach if foreach is not None else (p.device.type != "cpu" or p.numel() <= _SMALL)
        key: Hashable = i
        if ours and wanted:
            key = (
                type(manifold),
                manifold.extra_repr(),
                p.shape,
                p.dtype,
                p.device,
                keys[i] if keys else None,
            )
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def gather(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor as it is, or several stacked along a new leading dimension."""
    return tensors[0] if len(tensors) == 1 else torch.stack(tuple(tensors))


def scatter(stacked: Tensor, targets: Sequence[Tensor]) -> None:
    """Write the result of a stacked computation back."""
    if len(targets) == 1:
        Tensor.copy_(targets[0], stacked)
    else:
        for target, value in zip(targets, stacked.unbind(0), strict=True):
            Tensor.copy_(target, value)


def clip(manifold: Any, x: Tensor, grad: Tensor, max_norm: float) -> Tensor:
    """grad·min(1, max_norm/‖grad‖_x), each matrix by itself in the manifold's norm.

    A Euclidean tensor without matrix dimensions is clipped as a whole.
    """
    norm = torch.linalg.vector_norm(grad) if manifold.ndim == 0 else manifold.norm(x, grad, keepdim=True)
    return grad * (max_norm / (norm + 1e-6)).clamp(max=1.0)


def decays(manifold: Any, decoupled: bool) -> bool:
    """Whether weight decay reaches a weight on this manifold: a free one or, shrunk within it, one in a ball.

    The L2 term of SGD reaches every manifold but Stiefel, where its tangent part vanishes.
    """
    base = below(manifold)
    if isinstance(base, Stiefel | geoopt.Stiefel):
        return False
    return not decoupled or isinstance(base, geoopt.Euclidean)


def refuse_weight_decay(params: Iterable[Tensor], weight_decay: float, decoupled: bool) -> None:
    """Raise where weight decay is asked for and would reach none of these parameters.

    Raises:
        UserError: all of them are on Stiefel manifolds, or decoupled decay on others than Euclidean space and balls.
    """
    manifolds = [p.manifold if is_manifold_parameter(p) else None for p in params]  # type: ignore[attr-defined]
    if not weight_decay or not manifolds or any(m is None or decays(m, decoupled) for m in manifolds):
        return
    if isinstance(below(manifolds[0]), Stiefel | geoopt.Stiefel):
        reason = "shrinking orthonormal columns has no tangent part, so it would do nothing"
    else:
        reason = "multiplying a point by a number leaves the manifold"
    raise UserError(
        f"weight_decay={weight_decay} on {manifolds[0]}: {reason}; write weight_decay=0, or give these "
        'parameters a group of their own: {"params": constrained, "weight_decay": 0}'
    )
