"""Losses on embeddings of triplets: Eq. 1 and Eq. 2 of the paper, InfoNCE and the spectral contrastive loss.

Shapes, for all of them: anchors ``u`` (…, n, z); positives ``u_pos`` (…, n, z) or (…, n, p, z); negatives
``u_neg`` (…, n, z) or (…, n, q, z). Leading dimensions are replicas and stay: the result is (…,).

Reductions and the time scale that follows. Gradient steps of rate η on a loss advance the time of *its*
gradient flow by η, so a loss multiplied by c runs c times as fast:

========== ======================================== ================ ===========================
reduction  over anchors                             over pairs       time against ``sum``
========== ======================================== ================ ===========================
sum        sum, as Eqs. 1–2 print it                sum: α = β = 1   1
pair_mean  sum                                      α = 1/q, β = 1/p 1 for p = q = 1
mean       mean                                     α = 1/q, β = 1/p 1/n for p = q = 1
========== ======================================== ================ ===========================

``sum`` with p ≠ q weighs positives and negatives differently, which adds n(q − p) μμᵀ to C: prefer a mean
there.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from sslmanifold.errors import UserError
from sslmanifold.theory.moments import Reduction

Evaluate = Literal["auto", "samples", "moment"]


def contrastive_loss(u: Tensor, u_pos: Tensor, u_neg: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Contrastive loss, Eq. 1: Σ_i u(x_i)ᵀ (α Σ_j u(x⁻_ij) − β Σ_j u(x⁺_ij)).

    For a linear map u(x) = mᵀx it equals Tr(mᵀ C m) (Eq. 8), C = ``cross_moment(x, positives, negatives,
    reduction=reduction)``. Shapes, reductions and time scales: see the module. (…,) is returned.
    """
    pull = _over_pairs(u, u_pos, reduction)
    push = _over_pairs(u, u_neg, reduction)
    return _over_anchors((u * (push - pull)).sum(dim=-1), reduction)


def noncontrastive_loss(u: Tensor, u_pos: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Non-contrastive loss, Eq. 2: −β Σ_i Σ_j u(x_i)ᵀ u(x⁺_ij).

    For a linear map it equals Tr(mᵀ C m) with the C of ``cross_moment(x, positives,
    reduction=reduction)``, whose sign is minus (the paper prints plus). Shapes, reductions and time
    scales: see the module. (…,) is returned.
    """
    return -_over_anchors((u * _over_pairs(u, u_pos, reduction)).sum(dim=-1), reduction)


def infonce_loss(
    u: Tensor,
    u_pos: Tensor,
    u_neg: Tensor,
    reduction: Reduction = "sum",
    *,
    temperature: float = 1.0,
    normalize: bool = False,
) -> Tensor:
    """InfoNCE: −Σ_i Σ_j log( e^{s⁺_ij} / (e^{s⁺_ij} + Σ_k e^{s⁻_ik}) ), s = uᵀu′/τ.

    ``normalize`` puts embeddings on the unit sphere first (cosine similarity, as in SimCLR). Negatives
    are the explicit x⁻, not the other anchors. Reductions act on the sums over anchors i and positives j;
    the sum over negatives k is part of the definition. Source: van den Oord, Li and Vinyals, arXiv
    1807.03748.
    """
    if normalize:
        u, u_pos, u_neg = (unit_length(each, dim=-1) for each in (u, u_pos, u_neg))
    positive = _similarities(u, u_pos) / temperature  # (…, n, p)
    negative = _similarities(u, u_neg) / temperature  # (…, n, q)
    against = torch.logsumexp(negative, dim=-1, keepdim=True)
    terms = torch.nn.functional.softplus(against - positive)  # −log(e^s⁺ / (e^s⁺ + Σ e^s⁻))
    return _over_anchors(_reduce_pairs(terms, reduction), reduction)


def spectral_contrastive_loss(
    u: Tensor, u_pos: Tensor, u_neg: Tensor, reduction: Reduction = "sum"
) -> Tensor:
    """Spectral contrastive loss: Σ_i ( −2 β Σ_j u(x_i)ᵀu(x⁺_ij) + α Σ_j (u(x_i)ᵀu(x⁻_ij))² ).

    Quartic in a linear map, and the output dimensions stay coupled (Remark 2).
    Source: HaoChen, Wei, Gaidon and Ma, NeurIPS 2021.
    """
    pull = _reduce_pairs(_similarities(u, u_pos), reduction)
    push = _reduce_pairs(_similarities(u, u_neg).square(), reduction)
    return _over_anchors(push - 2 * pull, reduction)


@dataclass(kw_only=True)
class Contrastive:
    """Eq. 1 as a loss object: ``loss(u, u_pos, u_neg)``.

    Args:
        reduction: see the module.
        evaluate: how a linear model's full-batch step is computed: ``moment`` through C, O(h d z),
            ``samples`` through the data, O(n h d), ``auto`` the cheaper; the trajectory is the same to
            rounding.
    """

    name: ClassVar[str] = "contrastive"
    contrastive: ClassVar[bool] = True
    quadratic: ClassVar[bool] = True  # Tr(mᵀCm) for a linear map

    reduction: Reduction = "sum"
    evaluate: Evaluate = "auto"

    def __post_init__(self) -> None:
        _require(self.reduction, Reduction, "loss.reduction")
        _require(self.evaluate, Evaluate, "loss.evaluate")

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return contrastive_loss(u, u_pos, _given(u_neg), self.reduction)


@dataclass(kw_only=True)
class NonContrastive:
    """Eq. 2 as a loss object: ``loss(u, u_pos)``; arguments as in :class:`Contrastive`."""

    name: ClassVar[str] = "noncontrastive"
    contrastive: ClassVar[bool] = False
    quadratic: ClassVar[bool] = True

    reduction: Reduction = "sum"
    evaluate: Evaluate = "auto"

    def __post_init__(self) -> None:
        _require(self.reduction, Reduction, "loss.reduction")
        _require(self.evaluate, Evaluate, "loss.evaluate")

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return noncontrastive_loss(u, u_pos, self.reduction)


@dataclass(kw_only=True)
class InfoNCE:
    """InfoNCE as a loss object (:func:`infonce_loss`); no C, so steps go through the samples."""

    name: ClassVar[str] = "infonce"
    contrastive: ClassVar[bool] = True
    quadratic: ClassVar[bool] = False
    evaluate: ClassVar[Evaluate] = "samples"

    reduction: Reduction = "sum"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    normalize: bool = False

    def __post_init__(self) -> None:
        _require(self.reduction, Reduction, "loss.reduction")
        if not self.temperature > 0:
            raise UserError(f"loss.temperature={self.temperature} must be positive: set loss.temperature=1.0")

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return infonce_loss(
            u, u_pos, _given(u_neg), self.reduction, temperature=self.temperature, normalize=self.normalize
        )


@dataclass(kw_only=True)
class SpectralContrastive:
    """The spectral contrastive loss as an object (:func:`spectral_contrastive_loss`); it has no C either."""

    name: ClassVar[str] = "spectral"
    contrastive: ClassVar[bool] = True
    quadratic: ClassVar[bool] = False
    evaluate: ClassVar[Evaluate] = "samples"

    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        _require(self.reduction, Reduction, "loss.reduction")

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return spectral_contrastive_loss(u, u_pos, _given(u_neg), self.reduction)


def _pairs(u: Tensor, other: Tensor) -> Tensor:
    """Embeddings of pairs with their pair axis: (…, n, p, z)."""
    return other.unsqueeze(-2) if other.ndim == u.ndim else other


def _over_pairs(u: Tensor, other: Tensor, reduction: Reduction) -> Tensor:
    pairs = _pairs(u, other)
    return pairs.sum(dim=-2) if reduction == "sum" else pairs.mean(dim=-2)  # (…, n, p, z) -> (…, n, z)


def _similarities(u: Tensor, other: Tensor) -> Tensor:
    return (_pairs(u, other) * u.unsqueeze(-2)).sum(dim=-1)  # (…, n, p)


def _reduce_pairs(terms: Tensor, reduction: Reduction) -> Tensor:
    return terms.sum(dim=-1) if reduction == "sum" else terms.mean(dim=-1)  # (…, n, p) -> (…, n)


def _over_anchors(terms: Tensor, reduction: Reduction) -> Tensor:
    _require(reduction, Reduction, "loss.reduction")
    return terms.mean(dim=-1) if reduction == "mean" else terms.sum(dim=-1)  # (…, n) -> (…,)


def _given(u_neg: Tensor | None) -> Tensor:
    if u_neg is None:
        raise UserError("a contrastive loss needs negatives: pass u_neg, or use loss=noncontrastive")
    return u_neg


def _require(value: object, choices: object, key: str) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise UserError(f"{key}={value!r} is unknown: choose from {', '.join(allowed)}")
