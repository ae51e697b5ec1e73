"""The pair moment C: Eq. 7 in its variants, and its expectation (Section 4.1)."""

import torch

from sslmanifold.data import HalfMoons, Triplets
from sslmanifold.losses import contrastive_loss, noncontrastive_loss
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import problem, streams
from sslmanifold.theory import cross_moment


def compute(settings: Settings) -> Result:
    """Losses against Tr(mᵀCm) at a random map, and C averaged over draws of the triplets; half moons, float64."""
    data = HalfMoons()
    scene = problem(data, settings.seed, "sum")
    x = scene.x
    generator = streams(settings.seed, 1)[0]
    m = torch.randn(x.shape[1], 2, generator=generator, dtype=torch.float64)

    def trace(c: torch.Tensor) -> float:
        return float((m * ((c + c.mT) / 2 @ m)).sum())

    def error(c: torch.Tensor, loss: torch.Tensor) -> float:
        return abs(trace(c) - float(loss)) / abs(float(loss))

    positives, negatives = scene.batch.positives, scene.batch.negatives
    assert negatives is not None
    contrastive = contrastive_loss(x @ m, positives @ m, negatives @ m)
    pull = noncontrastive_loss(x @ m, positives @ m)

    centred = x - x.mean(0)
    multi = Triplets(centred, seed=settings.seed, positives=3, negatives=3).full()
    assert multi.negatives is not None
    multi_loss = contrastive_loss(centred @ m, multi.positives @ m, multi.negatives @ m)
    # as printed the pairs carry no anchor index: the same q negatives and p positives for every anchor
    printed = centred.sum(0)[:, None] @ (multi.negatives[0].sum(0) - multi.positives[0].sum(0))[None]
    indexed = cross_moment(centred, multi.positives, multi.negatives)

    draws = settings.choose(1500, 500)
    triplets = Triplets(x, seed=settings.seed)
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for draw in settings.track(range(draws)):
        batch = triplets.full(draw)
        total += cross_moment(batch.x, batch.positives, batch.negatives)
    mean = total / draws
    second = x.mT @ x  # n E[xxᵀ]
    covariance = centred.mT @ centred  # n Cov

    def away(expected: torch.Tensor) -> float:
        return float((mean - expected).norm() / expected.norm())

    command = settings.command("moment")
    algebra = "both sides evaluated at a random linear map, half moons, n = 200"
    claims = [
        Claim(
            "Eq. 7: the contrastive loss of a linear model is Tr(W2ᵀW1 C W1ᵀW2) with C̃ = Σ x_i (x_i⁻ − x_i⁺)ᵀ",
            [Check("|Tr(mᵀCm) − L|/|L|", error(scene.moment, contrastive), 1e-12)],
            evidence=algebra,
            command=command,
        ),
        Claim(
            "Eq. 7, non-contrastive: C̃ = Σ x_i (x_i⁺)ᵀ",
            [Check("|Tr(mᵀCm) − L|/|L|, plus as printed", error(x.mT @ positives, pull), 1e-12)],
            [Check("|Tr(mᵀCm) − L|/|L|, minus", error(-(x.mT @ positives), pull), 1e-12)],
            correction="C̃ = −Σ x_i (x_i⁺)ᵀ: the sign is that of the loss (2)",
            evidence=algebra,
            command=command,
        ),
        Claim(
            "Eq. 7 for p positives and q negatives: C̃ = Σ_i (Σ_j x_i (x_j⁻)ᵀ − Σ_j x_i (x_j⁺)ᵀ)",
            [Check("|Tr(mᵀCm) − L|/|L|, pairs without anchor index", error(printed, multi_loss), 1e-12)],
            [Check("|Tr(mᵀCm) − L|/|L|, pairs x_ij", error(indexed, multi_loss), 1e-12)],
            correction="pairs belong to their anchors, x_ij⁻ and x_ij⁺; without the index the sum vanishes on centred "
            "data",
            evidence="p = q = 3, centred half moons",
            command=command,
        ),
        Claim(
            "Section 4.1: E[C̃] = −n E[xxᵀ]",
            [Check("‖mean C + n E[xxᵀ]‖_F relative", away(-second), 2e-2)],
            [Check("‖mean C + n Cov(x)‖_F relative", away(-covariance), 2e-2)],
            correction="E[C] = −n Cov(x); the two agree for zero mean only",
            evidence=f"C averaged over {draws} draws of the triplets, half moons",
            command=command,
        ),
        Claim(
            "Section 4.1: E[C] is negative definite",
            [
                Check(
                    "λmax(mean C)/|λmin(mean C)|",
                    float(
                        torch.linalg.eigvalsh((mean + mean.mT) / 2)[-1]
                        / torch.linalg.eigvalsh((mean + mean.mT) / 2)[0].abs()
                    ),
                    -1e-2,
                )
            ],
            evidence=f"C averaged over {draws} draws of the triplets, half moons (where Cov(x) has full rank)",
            command=command,
        ),
    ]
    return Result(claims)


PART = Part("moment", "Eq. 7 and E[C]", compute)
