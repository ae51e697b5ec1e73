"""Remark 2 (which losses couple the output dimensions) and Remark 3 (fixed projectors)."""

from collections.abc import Callable

import torch
from torch import Tensor

from sslmanifold.data import HalfMoons, TripletBatch
from sslmanifold.losses import contrastive_loss, infonce_loss, spectral_contrastive_loss
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import problem, streams
from sslmanifold.theory import linear_dynamics

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def velocity_of(loss: Loss, batch: TripletBatch) -> Callable[[Tensor], Tensor]:
    """Θ (z, d) → Θ̇ = −∇L of u(x) = Θx."""

    def value(theta: Tensor) -> Tensor:
        assert batch.negatives is not None
        return loss(batch.x @ theta.mT, batch.positives @ theta.mT, batch.negatives @ theta.mT)

    return lambda theta: -torch.func.grad(value)(theta)


def coupling(velocity: Callable[[Tensor], Tensor], theta: Tensor) -> float:
    """Share of ∂Θ̇_l/∂Θ_j that lies in l ≠ j, ‖off-diagonal‖_F/‖all‖_F: 0 where outputs evolve on their own."""
    jacobian = torch.func.jacrev(velocity)(theta)  # (z, d, z, d)
    blocks = jacobian.square().sum((1, 3))  # (z, z)
    return float(((blocks.sum() - blocks.diagonal().sum()) / blocks.sum()).sqrt())


def compute(settings: Settings) -> Result:
    """Jacobians of the dynamics of u(x) = Θx on half moons, float64; collapse under a projector in closed form."""
    z, r = 4, 2
    scene = problem(HalfMoons(n=settings.choose(200, 60)), settings.seed)
    generator = streams(settings.seed, 1)[0]
    theta = torch.randn(z, scene.x.shape[1], generator=generator, dtype=torch.float64)
    sizes = torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)

    def infonce(u: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        return infonce_loss(u, pos, neg, "mean")

    info = [coupling(velocity_of(infonce, scene.batch), size * theta) for size in sizes]
    spectral = coupling(
        velocity_of(lambda u, p, n: spectral_contrastive_loss(u, p, n, "mean"), scene.batch), theta
    )
    plain_velocity = velocity_of(lambda u, p, n: contrastive_loss(u, p, n, "mean"), scene.batch)
    plain = coupling(plain_velocity, theta)
    # to first order in the similarities −log(e^s⁺/(e^s⁺ + e^s⁻)) = log 2 + (s⁻ − s⁺)/2: half of Eq. 1
    small = sizes[-1] * theta
    half = plain_velocity(small) / 2
    first_order = float((velocity_of(infonce, scene.batch)(small) - half).norm() / half.norm())

    a = torch.randn(r, z, generator=generator, dtype=torch.float64)

    def projected(u: Tensor) -> Tensor:
        """u = AΘx from M = AΘ: Ṁ = AAᵀ(−∇_M L)."""
        return a @ a.mT @ plain_velocity(u)

    m = a @ theta
    mixing = coupling(projected, m)
    # Θ̇ = −2 AᵀAΘC has the solution Σ_k with rates of AᵀA ⊗ C; in the eigenbasis of AAᵀ each row is Eq. 5's
    # linear model with C scaled by that eigenvalue
    scales, basis = torch.linalg.eigh(a @ a.mT)
    rate = 2 * float(scales[-1]) * float(-scene.eigvals[0])
    gaps = [float(scales[-1] - scales[-2]) * float(-scene.eigvals[0]) * 2]
    gaps.append(float(scene.eigvals[1] - scene.eigvals[0]) * 2 * float(scales[-1]))
    horizon = 30 / min(gaps)
    rows = []
    for scale, row in zip(scales, basis.mT @ m, strict=True):
        # the common growth is divided out so that nothing overflows
        shifted = float(scale) * scene.moment + 0.5 * rate * torch.eye(
            scene.moment.shape[0], dtype=torch.float64
        )
        rows.append(linear_dynamics(row[None], shifted, [horizon])[0, 0])
    u = scene.x @ (basis @ torch.stack(rows)).mT  # (n, d) @ (d, r)
    sigma = torch.linalg.svdvals(u)

    command = settings.command("remarks")
    evidence = f"Jacobian of Θ̇ for u(x) = Θx, z = {z}, half moons"
    claims = [
        Claim(
            "Remark 2: InfoNCE decouples the output dimensions",
            [Check("‖∂Θ̇_l/∂Θ_j, l ≠ j‖/‖all‖ of InfoNCE at ‖Θ‖ ~ 1", info[0], 1e-10)],
            [
                Check("‖∂Θ̇_l/∂Θ_j, l ≠ j‖/‖all‖ of the simplified loss, Eq. 1", plain, 1e-10),
                Check("‖InfoNCE velocity − half of Eq. 1's‖ relative, Θ scaled by 0.01", first_order, 1e-2),
                Check("InfoNCE coupling at Θ scaled by 0.1 over that at 0.01", info[1] / info[2], 30.0, ">="),
            ],
            correction="only the simplified loss, InfoNCE to first order in its similarities; the softmax weights of "
            "InfoNCE itself couple outputs, by a share that vanishes like ‖Θ‖²",
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Remark 2: under the spectral contrastive loss the output dimensions stay coupled",
            [Check("‖∂Θ̇_l/∂Θ_j, l ≠ j‖/‖all‖", spectral, 1e-2, ">=")],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Remark 3: under a fixed projector u(x) = AΘx all components have identical, separate dynamics "
            "and collapse",
            [Check("‖∂u̇_l/∂u_j, l ≠ j‖/‖all‖", mixing, 1e-10)],
            [Check("σ2/σ1 of the embedding, late", float(sigma[1] / sigma[0]), 1e-6)],
            correction="components are coupled through AAᵀ; the normalised embedding still collapses to one dimension",
            evidence=f"{evidence}; A Gaussian, {r}×{z}; exact solution at a late time",
            command=command,
        ),
    ]
    return Result(claims)


PART = Part("remarks", "Remarks 2 and 3", compute)
