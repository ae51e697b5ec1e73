"""Losses on embeddings: Eq. 1 and Eq. 2 of the paper, and those of the field, each with its leading replicas.

Shapes, for all of them: anchors ``u`` (…, n, z); positives ``u_pos`` (…, n, z) or (…, n, p, z); negatives
``u_neg`` (…, n, z) or (…, n, q, z). Leading dimensions are replicas and stay: the result is (…,).

Two kinds. Of pairs: contrastive, noncontrastive, infonce, spectral, a sum over anchors of what their own x⁺ and x⁻ say.
Of a batch: ntxent, infonce_distance, vicreg, barlow, barlow_linear, align_uniform, lejepa compare its anchors with each
other, take x and its x⁺ as V = p + 1 views, and draw no x⁻.

Reductions of losses of pairs, and the time scale that follows. Gradient steps of rate η on a loss advance the time
of *its* gradient flow by η, so a loss multiplied by c runs c times as fast:

========== ======================================== ================ ===========================
reduction  over anchors                             over pairs       time against ``sum``
========== ======================================== ================ ===========================
sum        sum, as Eqs. 1–2 print it                sum: α = β = 1   1
pair_mean  sum                                      α = 1/q, β = 1/p 1 for p = q = 1
mean       mean                                     α = 1/q, β = 1/p 1/n for p = q = 1
========== ======================================== ================ ===========================

``sum`` with p ≠ q weighs positives and negatives differently, which adds n(q − p) μμᵀ to C: prefer a mean
there.

A loss object is called as ``loss(u, u_pos, u_neg)``; one that differs from step to step has ``loss.at(step)``, a
function of its own seed and the step, which gives the loss to call. What the program asks of it besides:

=============== =========================================================================================
name            what tables and tags call it
contrastive     whether it wants x⁻
quadratic       whether it is Tr(mᵀCm) for a linear map, with the C of ``cross_moment`` and its reduction
evaluate        ``samples``; of a quadratic loss also ``moment`` and ``auto``
reduction       ``mean`` where it stays as it is for more anchors alike, ``sum`` where it grows with them
``hinges``      of a loss with kinks: (u, u⁺, u⁻) → what is 0 at one, for the flow to notice when it is met
``normalize``   whether embeddings are put on the unit sphere first, which is singular where one of them is 0
=============== =========================================================================================

A loss of one's own may leave them out: :mod:`sslmanifold.losses.own`.
"""

from sslmanifold.losses.align_uniform import AlignUniform, align_uniform_loss
from sslmanifold.losses.barlow import BarlowTwins, barlow_loss
from sslmanifold.losses.barlow_linear import BarlowLinear, barlow_linear_loss
from sslmanifold.losses.contrastive import Contrastive, contrastive_loss
from sslmanifold.losses.infonce import InfoNCE, infonce_loss
from sslmanifold.losses.infonce_distance import InfoNCEDistance, infonce_distance_loss
from sslmanifold.losses.lejepa import LeJEPA, lejepa_loss, sigreg
from sslmanifold.losses.noncontrastive import NonContrastive, noncontrastive_loss
from sslmanifold.losses.ntxent import NTXent, ntxent_loss
from sslmanifold.losses.pairs import Evaluate
from sslmanifold.losses.spectral import SpectralContrastive, spectral_contrastive_loss
from sslmanifold.losses.vicreg import VICReg, vicreg_loss
from sslmanifold.theory.moments import Reduction

__all__ = [
    "AlignUniform",
    "BarlowLinear",
    "BarlowTwins",
    "Contrastive",
    "Evaluate",
    "InfoNCE",
    "InfoNCEDistance",
    "LeJEPA",
    "NTXent",
    "NonContrastive",
    "Reduction",
    "SpectralContrastive",
    "VICReg",
    "align_uniform_loss",
    "barlow_linear_loss",
    "barlow_loss",
    "contrastive_loss",
    "infonce_distance_loss",
    "infonce_loss",
    "lejepa_loss",
    "noncontrastive_loss",
    "ntxent_loss",
    "sigreg",
    "spectral_contrastive_loss",
    "vicreg_loss",
]
