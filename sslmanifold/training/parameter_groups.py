"""Parameter groups of an encoder: weights on manifolds, free weights, and what decay does not reach."""

import inspect
from typing import Any, Literal

from torch import nn

from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt

ManifoldRate = Literal["match", "same"] | float


def manifold_rate(value: Any) -> ManifoldRate:
    """``optimizer.manifold_lr`` checked: match, same, or the factor on ``optimizer.lr``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value in ("match", "same") or (number and 0 < value < float("inf")):
        return value
    raise UserError(
        f"optimizer.manifold_lr={value} is not valid: set match, same, or a positive factor on optimizer.lr"
    )


def parameter_groups(
    module: nn.Module, optimizer: type, *, lr: float, weight_decay: float, manifold: ManifoldRate = "match"
) -> list[dict[str, Any]]:
    """Groups for a Riemannian optimizer: one number of steps, learning rates that mean the same.

    A step of RiemannianAdam on a manifold has Frobenius length lr whatever the shape, AdamW's has about lr·√numel.
    With ``match`` a weight on a manifold has lr·√numel, so that the root mean square of its first step's entries is
    that of a free weight of the same shape; on balls, where Adam is per entry, and under SGD, whose steps are lr times
    the gradient on both, it has lr. ``same`` is lr everywhere, a number the factor on lr.

    Weight decay reaches free matrices and kernels, not the biases and the scales of normalisations (vectors).

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and ``name``, none of them empty.
    """
    per_matrix = "betas" in inspect.signature(optimizer).parameters
    curved: dict[float, list[nn.Parameter]] = {}
    decayed, plain = [], []
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        if isinstance(parameter, geoopt.ManifoldTensor):
            factor = 1.0
            if manifold == "match":
                if per_matrix and not _per_entry(parameter):
                    factor = float(_matrix_size(parameter)) ** 0.5
            elif manifold != "same":
                factor = float(manifold)
            curved.setdefault(factor, []).append(parameter)
        elif parameter.ndim > 1:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"name": f"manifold ×{factor:.4g}", "params": found, "lr": lr * factor, "weight_decay": 0.0}
        for factor, found in sorted(curved.items())
    ]
    groups.append({"name": "free", "params": decayed, "lr": lr, "weight_decay": weight_decay})
    groups.append({"name": "vectors", "params": plain, "lr": lr, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def _base(parameter: Any) -> Any:
    return getattr(parameter.manifold, "base", parameter.manifold)


def _per_entry(parameter: Any) -> bool:
    """Whether Adam keeps its second moment per entry: in balls, whose tangent space is everything."""
    return isinstance(_base(parameter), geoopt.Euclidean)


def _matrix_size(parameter: Any) -> int:
    """Entries of one of the matrices that a weight is read as."""
    return parameter.numel() // getattr(parameter.manifold, "blocks", 1)
