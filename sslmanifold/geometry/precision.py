"""Keeping autocast out of computations that decide feasibility."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """A context in which autocast, if it is on, does not round matrix products on the device of x."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()  # type: ignore[return-value]
