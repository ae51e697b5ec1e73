"""Gaussian samples with any covariance spectrum."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from sslmanifold.data.pair_data import PairData
from sslmanifold.data.samples import Samples
from sslmanifold.errors import UserError


@dataclass(kw_only=True)
class Gaussian(PairData):
    """x ~ N(μ1, R diag(spectrum) Rᵀ), no labels.

    Args:
        n: training samples; the test split has as many.
        dim: d. With ``spectrum`` given it is the spectrum's length and may be left out.
        spectrum: variances of the d principal directions; None for the power law k^(−decay), k = 1 … d.
        decay: exponent of that power law.
        mean: μ, the same for every coordinate.
        rotate: R a Haar rotation; otherwise R = I and the variances belong to the coordinates.
    """

    name: ClassVar[str] = "gaussian"

    n: Annotated[int, Field(gt=0)] = 500
    dim: Annotated[int, Field(gt=0)] | None = None
    spectrum: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    decay: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    rotate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spectrum is not None and len(self.spectrum) == 0:
            raise UserError(
                "data.spectrum=[] is empty: give one variance for each dimension, or null and data.dim"
            )
        if self.spectrum is not None and self.dim not in (None, len(self.spectrum)):
            raise UserError(
                f"data.dim={self.dim} but data.spectrum has {len(self.spectrum)} variances: "
                f"set data.dim=null or data.dim={len(self.spectrum)}"
            )

    def variances(self) -> np.ndarray:
        """The covariance spectrum, (d,), in the order given."""
        if self.spectrum is not None:
            return np.asarray(self.spectrum, dtype=np.float64)
        return np.arange(1, (self.dim or 10) + 1, dtype=np.float64) ** -self.decay

    def read(self, seed: int) -> Samples:
        from scipy.stats import ortho_group  # half a second to import

        scale = np.sqrt(self.variances())
        train, test, rotation = (np.random.default_rng([seed, stream]) for stream in range(3))
        basis = np.eye(len(scale))
        if self.rotate and len(scale) > 1:
            basis = ortho_group.rvs(len(scale), random_state=rotation)
        splits = [
            self.mean + (g.standard_normal((self.n, len(scale))) * scale) @ basis.T for g in (train, test)
        ]
        return Samples.from_arrays(splits[0], None, splits[1], None, name=self.name)
