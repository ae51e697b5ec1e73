"""NT-Xent, the loss of SimCLR: the other samples of the batch are the negatives."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from sslmanifold.losses.crowd import log_sum_exp_of_others
from sslmanifold.losses.pairs import Evaluate, require_number, views
from sslmanifold.theory.moments import Reduction


def ntxent_loss(u: Tensor, u_pos: Tensor, *, temperature: float = 0.5, normalize: bool = True) -> Tensor:
    """NT-Xent: the mean over ordered positive pairs (a, b) of −log( e^{s_ab} / Σ_{c ≠ a} e^{s_ac} ), s = uᵀu′/τ.

    An anchor and its p positives are V = p + 1 views of one thing; each of its V(V − 1) ordered pairs of views is one
    positive pair, and c runs over the V n − 1 other samples of the batch, a's other views among them. For V = 2 that
    is SimCLR's loss, for more views the supervised contrastive loss L_out with the anchor as the label.

    u (…, n, z); u_pos (…, n, z) or (…, n, p, z); (…,) is returned. Of a linear map it sees all inner products
    xᵀ m mᵀ x′ of the batch, so m mᵀ alone: it is invariant under rotations of the output, and with ``normalize``
    (cosine similarity; 0 has the direction 0) under a positive factor on each u too. No negatives are drawn: time is
    that of a mean over anchors. One anchor of two views gives 0.

    Source: Chen, Kornblith, Norouzi and Hinton, ICML 2020, Eq. 1; Khosla et al., NeurIPS 2020, Eq. 2 (V > 2).
    """
    samples = views(u, u_pos)  # (…, V, n, z)
    if normalize:
        samples = unit_length(samples, dim=-1)
    v, n = samples.shape[-3:-1]
    others = samples.sum(dim=-3, keepdim=True) - samples
    positive = (samples * others).sum((-3, -2, -1)) / (temperature * n * v * (v - 1))
    return log_sum_exp_of_others(samples.flatten(-3, -2), 1 / temperature).mean(dim=-1) - positive


@dataclass(kw_only=True)
class NTXent:
    """NT-Xent as a loss object (:func:`ntxent_loss`); its negatives are in the batch, so no x⁻ are drawn."""

    name: ClassVar[str] = "ntxent"
    contrastive: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    evaluate: ClassVar[Evaluate] = "samples"
    reduction: ClassVar[Reduction] = "mean"

    temperature: Annotated[float, Field(gt=0)] = 0.5
    normalize: bool = True

    def __post_init__(self) -> None:
        require_number(self.temperature, "loss.temperature", above=0, suggested="0.5")

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return ntxent_loss(u, u_pos, temperature=self.temperature, normalize=self.normalize)
