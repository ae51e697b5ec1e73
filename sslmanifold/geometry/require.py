"""Refusing optimizers that would step off a manifold."""

from typing import Any

from torch import nn

from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt


def is_riemannian(optimizer: Any) -> bool:
    """Whether the optimizer steps manifold parameters by retractions: ours, or any of geoopt's."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # Lightning's wrapper
    return isinstance(optimizer, geoopt.optim.mixin.OptimMixin)


def require_riemannian(optimizer: Any, module: nn.Module) -> None:
    """Raise if the optimizer would silently leave the manifold of one of the module's parameters.

    Args:
        optimizer: a torch or geoopt optimizer, or Lightning's wrapper of one.
        module: whose manifold parameters are looked at.

    Raises:
        UserError: a plain optimizer holds constrained weights; names them and the line to write.
    """
    if is_riemannian(optimizer):
        return
    optimizer = getattr(optimizer, "optimizer", optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names = [
        name
        for name, p in module.named_parameters()
        if isinstance(p, geoopt.ManifoldTensor) and type(p.manifold) is not geoopt.Euclidean and id(p) in held
    ]
    if names:
        raise UserError(
            f"{type(optimizer).__name__} would leave the manifold of {', '.join(names)}: write "
            "optimizer=sgd or optimizer=adam, in Python RiemannianSGD(module.parameters(), lr=...)"
        )
