"""What every data set has in common: how pairs are drawn from it, and the checks its samples pass."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import torch
from pydantic import Field, TypeAdapter, ValidationError

from sslmanifold.data.preparation import Scale, prepare
from sslmanifold.data.samples import Samples
from sslmanifold.errors import UserError

Resample = Literal["never", "epoch", "step"]


@cache
def _field_types(cls: type) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: TypeAdapter(hints[field.name]) for field in fields(cls)}


@dataclass(kw_only=True)
class PairData(ABC):
    """A data set and the triplets (x, x⁺, x⁻) of Eqs. 1–2 that are drawn from its training split.

    Args:
        positive_variance: σ² of x⁺ = x + N(0, σ² I): a variance, as in the paper's N(0, 0.1 I).
        positives: p, positives per anchor.
        negatives: q, negatives per anchor, drawn uniformly with replacement from the training split.
        scale: ``standard`` gives every feature mean 0 and variance 1, ``global`` divides all of them by one
            number, so that their variances are 1 on average; both as measured on the training split, before
            ``pca`` and before noise is added to x⁺. ``none`` leaves the values as they are.
        center: subtract the training mean from both splits.
        pca: keep this many principal components, fitted on the training split and applied to both.
            Principal components are those of the centred data, so this centres as well.
        resample: ``never`` freezes one draw, so that C (Eq. 7) is one fixed matrix; ``epoch`` draws anew
            for each pass over the data (a full batch is a pass), ``step`` for each step.
        batch_size: anchors per step, None for all of them.

    Arguments are checked at construction; a wrong one raises :class:`~sslmanifold.errors.UserError` that
    names the configuration key ``data.<argument>``.
    """

    name: ClassVar[str]

    positive_variance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    positives: Annotated[int, Field(gt=0)] = 1
    negatives: Annotated[int, Field(gt=0)] = 1
    scale: Scale = "none"
    center: bool = False
    pca: Annotated[int, Field(gt=0)] | None = None
    resample: Resample = "never"
    batch_size: Annotated[int, Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        for name, adapter in _field_types(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, (str, list, tuple)):
                value = list(value)  # Hydra hands lists over as its own sequence type
            try:
                setattr(self, name, adapter.validate_python(value))
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                place = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
                raise UserError(f"data.{name}{place}={first['input']!r}: {first['msg']}") from None

    @abstractmethod
    def read(self, seed: int) -> Samples:
        """The raw samples; ``seed`` matters to synthetic data only."""

    def load(self, seed: int = 0) -> Samples:
        """The samples after the checks, scaling, centring and PCA asked for.

        Raises:
            UserError: no samples, NaN or Inf (naming the rows), values whose products leave float64, more
                components or a larger batch than there is data.
        """
        samples = self.read(seed)
        _require_finite(samples)
        if self.batch_size is not None and self.batch_size > samples.n:
            raise UserError(
                f"data.batch_size={self.batch_size} is more than the {samples.n} training samples: "
                "set data.batch_size=null for full batches"
            )
        return prepare(samples, scale=self.scale, center=self.center, pca=self.pca)


def _require_finite(samples: Samples) -> None:
    if samples.n == 0 or samples.dim == 0:
        raise UserError(
            f"data={samples.name} is empty: {samples.n} training samples of {samples.dim} features; "
            "at least one sample with one feature is needed"
        )
    if samples.test_x.shape[1] != samples.dim:
        raise UserError(
            f"data={samples.name}: training samples have {samples.dim} features, "
            f"test samples {samples.test_x.shape[1]}"
        )
    for split, x in (("training", samples.train_x), ("test", samples.test_x)):
        bad = torch.nonzero(~torch.isfinite(x).all(dim=1)).flatten().tolist()
        if bad:
            rows = ", ".join(map(str, bad[:8])) + (f", … ({len(bad)} in all)" if len(bad) > 8 else "")
            raise UserError(
                f"data={samples.name}: NaN or Inf in {split} row{'s' if len(bad) > 1 else ''} {rows} "
                "(counted from 0): remove or impute them first"
            )
