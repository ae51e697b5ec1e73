"""How far from its manifold a point may be and still count as on it."""

import torch

#: Largest accepted ``residual`` by dtype: roundoff of the dtype with a margin for accumulated products.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def feasibility_tolerance(dtype: torch.dtype) -> float:
    """Largest residual at which a point of this dtype counts as on its manifold."""
    return _TOLERANCE.get(dtype, 1e-4)
