"""How exact a computation is: what still counts as zero, autocast kept out, and values that may be looked at."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

#: Largest accepted ``residual`` by dtype: roundoff of the dtype with a margin for accumulated products.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def feasibility_tolerance(dtype: torch.dtype) -> float:
    """Largest residual at which a point of this dtype counts as on its manifold."""
    return _TOLERANCE.get(dtype, 1e-4)


def rounded_to(x: Tensor) -> torch.dtype | None:
    """The coarsest dtype that holds every entry of x exactly, if there is one coarser than its own."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if feasibility_tolerance(x.dtype) < feasibility_tolerance(dtype) and torch.equal(
            x.to(dtype).to(x), x
        ):
            return dtype
    return None


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """A context in which autocast, if it is on, does not round matrix products on the device of x."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()  # type: ignore[return-value]


def largest(x: Tensor) -> float | None:
    """max x as a number; None under ``torch.vmap``, where nothing may be decided by a value."""
    x = x.detach() if x.requires_grad else x
    try:
        return float(x) if x.ndim == 0 else float(x.amax())
    except RuntimeError:
        return None


def decided(flags: Tensor) -> bool | None:
    """Whether any flag is set; None under ``torch.vmap``, where nothing may be decided by a value."""
    try:
        return bool(flags.any())
    except RuntimeError:
        return None
