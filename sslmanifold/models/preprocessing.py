"""The affine map a data set was prepared with, kept beside the weights so that raw inputs can be embedded."""

from torch import Tensor, nn

from sslmanifold.errors import UserError


class Affine(nn.Module):
    """x ↦ ((x − mean)/scale) · components: centring, scaling and PCA as fitted on the training split.

    Args:
        mean: (d_raw,), or None for no centring.
        components: (d_raw, d), or None for no projection.
        scale: (d_raw,), or None for no scaling.
    """

    mean: Tensor | None
    components: Tensor | None
    scale: Tensor | None

    def __init__(
        self, mean: Tensor | None = None, components: Tensor | None = None, scale: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)
        self.register_buffer("scale", scale)

    def input_dim(self, dim: int) -> int:
        """The number of raw features, given that the network itself takes ``dim``."""
        return dim if self.components is None else self.components.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """(…, n, d_raw) → (…, n, d), in the dtype of x."""
        if self.mean is not None:
            x = x - self.mean.to(x.dtype)
        if self.scale is not None:
            x = x / self.scale.to(x.dtype)
        if self.components is not None:
            x = x @ self.components.to(x.dtype)
        return x

    def check_input(self, x: Tensor, dim: int) -> None:
        """Raise UserError unless x has the features this network was trained on."""
        expected = self.input_dim(dim)
        if x.ndim < 1 or x.shape[-1] != expected:
            raise UserError(
                f"inputs have {x.shape[-1] if x.ndim else 0} features, this model was trained on {expected}: "
                f"pass an array of shape (n, {expected})"
            )
