"""Deep linear nets under orthogonality, in the cases where the map alone determines its flow."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.flows.orthogonal import OrthogonalFlow
from sslmanifold.theory.frame import FrameState, check_feasible, check_orthonormal, frame_from_weights
from sslmanifold.theory.moment_product import Moment


class DeepLinearFlow(OrthogonalFlow):
    """q̇ = (κ-flow of Eq. 9) − (L − 2) κ (I − qqᵀ) C q: L orthogonal layers, square hidden ones.

    The model is u(x) = W_Lᵀ W_{L−1} ⋯ W_2 W_1 x with W_1 (h, d), hidden W_l (h, h), W_L (h, z), all with
    orthonormal columns. Canonical (κ = 2): q̇ = −2L(I − qqᵀ)Cq; κ = 0 does not see the depth, and holds for
    tall hidden layers too.

    Args:
        moment: C, see `Flow`.
        depth: number of layers L ≥ 2.
        kappa: κ, or a metric's name.

    Raises:
        UserError: depth < 2; hidden layers that are not square with κ ≠ 0 (the flow does not close on q).
    """

    name = "deep_linear"

    def __init__(self, moment: Moment, depth: int, kappa: float | str = 0.0) -> None:
        super().__init__(moment, kappa)
        if depth < 2:
            raise UserError(f"depth={depth} must be at least 2 (two layers): set depth=2")
        self.depth = depth

    def start(self, *weights: Tensor) -> FrameState:
        """State of L weights W_1 (…, h_1, d), W_l (…, h_l, h_{l−1}), W_L (…, h_{L−1}, z), all orthonormal."""
        if len(weights) != self.depth:
            raise UserError(f"{len(weights)} weights for depth={self.depth}: give one per layer")
        layers = [w.detach().double() for w in weights]
        *hidden, last = layers
        for index, (before, after) in enumerate(pairwise(hidden), start=2):
            if after.shape[-1] != before.shape[-2]:
                raise UserError(
                    f"W_{index} of shape {tuple(after.shape)} does not take {before.shape[-2]} units"
                )
            if self.kappa != 0 and after.shape[-1] != after.shape[-2]:
                raise UserError(
                    f"W_{index} is {after.shape[-2]}×{after.shape[-1]}: with κ = {self.kappa:g} the flow closes for "
                    "square hidden layers only; use equal widths, or metric=grassmann"
                )
            check_orthonormal(after, f"W_{index}")
        check_feasible(hidden[-1].shape[-2], hidden[0].shape[-1], last.shape[-1])
        check_orthonormal(hidden[0], "W_1")
        check_orthonormal(last, f"W_{self.depth}")
        first = reduce(lambda product, w: w @ product, hidden)  # W_{L−1} ⋯ W_1, (…, h, d)
        return frame_from_weights(first, last)
