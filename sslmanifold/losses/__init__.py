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

from sslmanifold.losses.contrastive import Contrastive, contrastive_loss
from sslmanifold.losses.infonce import InfoNCE, infonce_loss
from sslmanifold.losses.noncontrastive import NonContrastive, noncontrastive_loss
from sslmanifold.losses.pairs import Evaluate
from sslmanifold.losses.spectral import SpectralContrastive, spectral_contrastive_loss
from sslmanifold.theory.moments import Reduction

__all__ = [
    "Contrastive",
    "Evaluate",
    "InfoNCE",
    "NonContrastive",
    "Reduction",
    "SpectralContrastive",
    "contrastive_loss",
    "infonce_loss",
    "noncontrastive_loss",
    "spectral_contrastive_loss",
]
