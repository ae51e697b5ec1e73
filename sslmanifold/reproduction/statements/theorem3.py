"""Theorem 3: where the dynamics (9) go for z = 1."""

import torch
from torch import Tensor

from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.theory import rates, solve


def random_unit(d: int, generator: torch.Generator) -> Tensor:
    """A uniform unit vector (d, 1)."""
    v = torch.randn(d, 1, generator=generator, dtype=torch.float64)
    return v / v.norm()


def compute(settings: Settings) -> Result:
    """The closed form for z = 1, κ = 0, from random starts and spectra, at a time long after convergence."""
    generator = streams(settings.seed, 1)[0]
    runs, d = settings.choose(200, 40), 6
    misses, unsigned, zero, forced = [], [], [], []
    for index in settings.track(range(runs)):
        magnitude = 0.1 + torch.rand(d, generator=generator, dtype=torch.float64) * 3
        signs = torch.where(torch.rand(d, generator=generator) < 0.5, -1.0, 1.0).double()
        signs[index % d] = -1.0
        eigvals = (magnitude * signs).sort().values
        # at least a gap of 0.05 between the two lowest, so that the time below is long enough
        eigvals[0] = torch.minimum(eigvals[0], eigvals[1] - 0.05)
        q0 = random_unit(d, generator) * float(torch.rand(1, generator=generator)) ** 0.5
        time = 40 / rates(eigvals, 1).slowest
        q = solve(q0, eigvals, [time]).q[-1][:, 0]
        first = torch.eye(d, dtype=torch.float64)[0]
        unsigned.append(float((q - first).norm()))
        misses.append(float((q - torch.sign(q0[0, 0]) * first).norm()))
        positive = magnitude.sort().values
        late = [40 / rates(positive, 1).slowest]
        zero.append(float(solve(q0, positive, late, hidden=d + 1).q[-1].norm()))
        forced.append(float(solve(random_unit(d, generator), positive, late, hidden=d).q[-1].norm()))
    command = settings.command("theorem3")
    evidence = f"{runs} random spectra and starts, d = {d}, closed form of Eq. 9 for z = 1"
    claims = [
        Claim(
            "Theorem 3: with a negative eigenvalue q becomes the smallest eigenvector v1",
            [Check("largest ‖q(∞) − v1‖", max(unsigned), 1e-6)],
            [Check("largest ‖q(∞) − sign(v1ᵀq0) v1‖", max(misses), 1e-6)],
            correction="the limit is sign(v1ᵀq0) v1, one of two points (as the paper's own Figure 3 shows)",
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Theorem 3: with all eigenvalues positive q converges to 0",
            [Check("largest ‖q(∞)‖, h = d and h = d + 1", max(zero + forced), 1e-6)],
            [
                Check("largest ‖q(∞)‖, h = d + 1", max(zero), 1e-6),
                Check("smallest ‖q(∞)‖, h = d", min(forced), 1 - 1e-6, ">="),
            ],
            correction="needs h ≥ d + 1; at h = d the norm of q is 1 for all time",
            evidence=evidence,
            command=command,
        ),
    ]
    return Result(claims)


PART = Part("theorem3", "Theorem 3", compute)
