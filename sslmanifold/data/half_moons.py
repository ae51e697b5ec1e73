"""Two interleaving half circles in the plane, the paper's running example."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from sslmanifold.data.pair_data import PairData
from sslmanifold.data.samples import Samples


@dataclass(kw_only=True)
class HalfMoons(PairData):
    """Half moons (scikit-learn's ``make_moons``), d = 2, two classes.

    Args:
        n: training samples; the test split has as many, drawn with another seed.
        noise: standard deviation of the moons' own Gaussian noise (not of x⁺).
    """

    name: ClassVar[str] = "half_moons"

    n: Annotated[int, Field(gt=0)] = 200
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05

    def read(self, seed: int) -> Samples:
        from sklearn.datasets import make_moons

        train_x, train_y = make_moons(self.n, noise=self.noise, random_state=seed)
        test_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
        test_x, test_y = make_moons(self.n, noise=self.noise, random_state=test_seed)
        return Samples.from_arrays(train_x, train_y, test_x, test_y, name=self.name, classes=[0, 1])
