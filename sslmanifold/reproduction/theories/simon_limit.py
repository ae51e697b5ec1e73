"""Stepwise learning: what is learned in the end, in which order, and the same for kernels: kernel PCA."""

import math
from itertools import combinations

import torch
from torch import Tensor

from sslmanifold.data import HalfMoons
from sslmanifold.losses.barlow_linear import barlow_linear_loss
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import problem, streams
from sslmanifold.reproduction.theories.simon_steps import NOISE, SIGNAL, crossings, learned
from sslmanifold.reproduction.theories.training import halved, trained
from sslmanifold.reproduction.theories.views import exact_views
from sslmanifold.theory import kernel_correlation, pair_correlation, solve_stepwise
from sslmanifold.theory.kernels import rbf_kernel

Z = 2


def outside(m: Tensor, basis: Tensor) -> float:
    """Sine of the largest angle between the columns of m and the span of an orthonormal basis (d, z)."""
    q = torch.linalg.qr(m).Q
    return float(torch.linalg.matrix_norm(q - basis @ (basis.mT @ q), 2))


def kernel_training(kernel: Tensor, start: Tensor, lr: float, end: float) -> Tensor:
    """Gradient descent in the kernel's function space on its samples: u ← u − lr K ∂L/∂u; the last u (2n, z)."""
    u, n = start, len(kernel) // 2
    for _ in range(round(end / lr)):
        u = u.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(barlow_linear_loss(u[:n], u[n:]), u)
        u = u.detach() - lr * kernel @ gradient
    return u


def compute(settings: Settings) -> Result:
    """Long trainings of a linear map, and of a kernel machine on half moons."""
    (generator,) = streams(settings.seed, 1)
    n, lr = settings.choose(400, 60), settings.choose(0.005, 0.01)
    a, b = exact_views(generator, n, SIGNAL, NOISE)
    gamma = pair_correlation(a, b)
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(gamma))

    def loss(m: Tensor) -> Tensor:
        return barlow_linear_loss(a @ m, b @ m)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # mᵀΓm = I is a whole manifold of maps: what has grown of mode z + 1 until mode z is learned stays. A start s
    # grows by e^{4γ_{z+1}τ_z} until then, and e^{8γ_z τ_z} is 1/(s²γ_z)
    direction, sizes, left = normal(len(SIGNAL), Z), (1e-3, 1e-6, 1e-9), []
    for size in settings.track(sizes):
        *_, (m,) = trained(loss, [size * direction], lr, round(16 / lr))
        left.append(outside(m, vectors[:, :Z]))
    exponent = math.log(left[1] / left[2]) / math.log(sizes[1] / sizes[2])
    expected = 1 - float(values[Z] / values[Z - 1])
    whitened = float((m.mT @ gamma @ m - torch.eye(Z, dtype=torch.float64)).abs().max())
    least = float((1 / values[:Z]).sum())
    # other maps of zero loss: other eigenvectors, and random ones, scaled until mᵀΓm = I
    others = [vectors[:, list(c)] for c in combinations(range(len(values)), Z) if c != tuple(range(Z))]
    others += list(normal(50, len(values), Z))
    norms = []
    for other in others:
        root = torch.linalg.cholesky(other.mT @ gamma @ other)
        norms.append(float(torch.linalg.solve_triangular(root, other.mT, upper=False).square().sum()))

    # a start that has next to nothing of the top mode: the second is learned first
    poor = vectors[:, :Z] * torch.tensor([1e-7, 1e-2], dtype=torch.float64)
    taus = solve_stepwise(gamma, poor, [0.0]).step_times
    steps = round(1.3 * float(taus.max()) / lr)
    path = torch.stack([w for (w,) in trained(loss, [poor], lr, steps)])
    shares = (vectors[:, :Z].mT @ path).square().sum(-1) * values[:Z]  # of each mode, 1 when it is learned
    seen = crossings(shares, torch.arange(steps + 1, dtype=torch.float64) * lr)

    # free directions beyond rank: z larger than the number of modes with γ > 0
    few = exact_views(generator, n, (1.0, 0.6, 0.1, 0.1), (0.1, 0.1, 0.3, 0.4))
    *_, (wide,) = trained(
        lambda w: barlow_linear_loss(few[0] @ w, few[1] @ w), [0.001 * normal(4, 3)], lr, round(15 / lr)
    )
    kept = learned(pair_correlation(*few), wide)

    scene = problem(HalfMoons(n=settings.choose(60, 30)), settings.seed, contrastive=False)
    samples = torch.cat([scene.batch.x, scene.batch.positives.flatten(0, -2)])
    kernel = rbf_kernel(0.5)(samples, samples) / 5
    correlation, root = kernel_correlation(kernel)
    kernel_values, kernel_vectors = (part.flip(-1) for part in torch.linalg.eigh(correlation))
    start = kernel_vectors[:, :Z] * 0.05
    rate = 0.01 / float(kernel_values[0])
    end = 1.1 * float(solve_stepwise(correlation, start, [0.0]).step_times.max())
    solved = root @ solve_stepwise(correlation, start, [end]).m[0]
    ratio, rest = halved(
        lambda step: kernel_training(kernel, root @ start, step, end), solved, end / round(end / rate)
    )
    late = kernel_training(kernel, root @ start, 2 * rate, 4 * end)
    principal = torch.linalg.qr(root @ kernel_vectors[:, :Z]).Q

    command = settings.command("limit")
    evidence = (
        f"n = {n} pairs, d = {len(SIGNAL)}, z = {Z}, learning rate {lr:g}, trained on the batch by autograd"
    )
    claims = [
        Claim(
            "From a small start training ends on the top z eigenvectors of Γ, with WΓWᵀ = I",
            [
                Check("sine of the angle to the top eigenvectors, from a random start of 0.001", left[0], 1e-3),
                Check("max |mᵀΓm − I|", whitened, 1e-6),
            ],
            [
                Check("sine of the angle from 1e-9, over that from 0.001", left[2] / left[0], 0.01),
                Check("|exponent of the sine in the start − (1 − γ_{z+1}/γ_z)|", abs(exponent - expected), 0.02),
                Check("max |mᵀΓm − I|", whitened, 1e-6),
            ],
            correction="in the limit of a small start alone: the loss is 0 on a manifold of maps, and of mode z + 1 "
            "there stays a share that falls as s^{1 − γ_{z+1}/γ_z} with the start s",
            evidence=f"{evidence}, random starts of 0.001, 1e-6 and 1e-9",
            command=command,
        ),
        Claim(
            "Of all maps of zero loss this is the one of least Frobenius norm",
            [
                Check("|‖m‖²/Σ_j 1/γ_j − 1| of the trained map", abs(float(m.square().sum()) / least - 1), 1e-4),
                Check(f"least ‖m‖²/Σ_j 1/γ_j of {len(others)} others", min(norms) / least, 1.0, ">="),
            ],
            evidence=f"{evidence}; others: other sets of eigenvectors and 50 random maps, scaled to zero loss",
            command=command,
        ),
        Claim(
            "Eigenmodes are learned in the order of their eigenvalues",
            [Check("time of mode 1 less that of mode 2", float(seen[0] - seen[1]), 0.0)],
            [Check("largest |seen − τ_j|/τ_j", float(((seen - taus).abs() / taus).max()), 0.03)],
            correction="in the order of τ_j, in which the start enters too: with 1e-7 of mode 1 and 0.01 of mode 2, "
            "mode 2 comes first",
            evidence=evidence,
            command=command,
        ),
        Claim(
            "More outputs than modes with γ_j > 0 are of no use: the others stay at 0",
            [
                Check("smallest of the two learned eigenvalues", float(kept[1]), 0.999, ">="),
                Check("largest |eigenvalue| of the third output", float(kept[2].abs()), 1e-3),
            ],
            evidence=f"n = {n} pairs, Γ of spectrum 0.9, 0.5, −0.2, −0.3, z = 3: where views differ by more than they "
            "share",
            command=command,
        ),
        Claim(
            "A kernel machine learns in the same steps: its outputs are those of the flow in the root of its kernel",
            [
                Check("|ratio of the distances at lr and lr/2 − 2|", abs(ratio - 2), 0.1),
                Check("extrapolated to lr → 0, relative", rest, 1e-3),
            ],
            evidence=f"half moons, {len(samples) // 2} pairs, RBF kernel, u ← u − lr K ∂L/∂u",
            command=command,
        ),
        Claim(
            "Its limit is kernel PCA: the top eigenfunctions of the pairs' kernel correlation",
            [Check("sine of the angle to them", outside(late, principal), 1e-3)],
            evidence="the same kernel machine, trained four times as long as its last step takes",
            command=command,
        ),
    ]  # fmt: skip
    return Result(claims)


PART = Part("limit", "What is learned, and kernel PCA", compute)
