"""Lemma 1 (tangent kernels of linear and kernel models do not couple outputs) and Remark 1 (so regressions split)."""

import torch
from torch import Tensor, nn

from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.models.network import ConstrainedNetwork
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.theory import empirical_ntk


class KernelMachine(nn.Module):
    """u(x) = Θ ψ(x), ψ the 1 + d + d² features of k(x, x') = (1 + xᵀx')²; ``quadratic=False`` for ψ(x) = x."""

    def __init__(self, theta: Tensor, *, quadratic: bool) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)
        self.quadratic = quadratic

    def features(self, x: Tensor) -> Tensor:
        """(n, d) → (n, features)."""
        if not self.quadratic:
            return x
        squares = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)  # (n, d²)
        return torch.cat([torch.ones_like(x[..., :1]), 2**0.5 * x, squares], -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) @ self.theta.mT  # (n, features) @ (features, z)


class OneReplica(nn.Module):
    """A two-layer linear network without its replica dimension, as ``empirical_ntk`` takes models."""

    def __init__(self, network: ConstrainedNetwork) -> None:
        super().__init__()
        self.w1 = nn.Parameter(network.weights[0].detach()[0].clone())
        self.w2 = nn.Parameter(network.weights[1].detach()[0].clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w1.mT) @ self.w2


def kernel_error(model: nn.Module, kernel: Tensor, x: Tensor, y: Tensor) -> float:
    """max |⟨∇u_l(x), ∇u_j(y)⟩ − δ_lj k(x, y)| / max |k|."""
    ntk = empirical_ntk(model, x, y)  # (n, k, z, z)
    expected = kernel[..., None, None] * torch.eye(ntk.shape[-1], dtype=ntk.dtype)
    return float((ntk - expected).abs().max() / kernel.abs().max())


def regression_gap(model: KernelMachine, x: Tensor, y: Tensor, steps: int = 200) -> float:
    """Largest difference between z-variate training and z univariate trainings of the squared loss, relative."""
    features = model.features(x).detach()
    lr = 0.5 / float(torch.linalg.matrix_norm(features.mT @ features, 2))

    def fitted(theta: Tensor, target: Tensor) -> Tensor:
        weight = theta.clone().requires_grad_(True)
        for _ in range(steps):
            loss = 0.5 * (features @ weight.mT - target).square().sum()
            (gradient,) = torch.autograd.grad(loss, weight)
            weight = (weight - lr * gradient).detach().requires_grad_(True)
        return weight.detach()

    theta = model.theta.detach()
    together = fitted(theta, y)
    apart = torch.cat([fitted(theta[i : i + 1], y[:, i : i + 1]) for i in range(theta.shape[0])])
    return float((together - apart).abs().max() / together.abs().max())


def compute(settings: Settings) -> Result:
    """Kernels by automatic differentiation at random points and weights, float64."""
    (generator,) = streams(settings.seed, 1)
    d, z, n = 5, 3, settings.choose(30, 12)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, y = normal(n, d), normal(n, d)
    linear = KernelMachine(normal(z, d), quadratic=False)
    machine = KernelMachine(normal(z, 1 + d + d * d), quadratic=True)
    gram = x @ y.mT
    direct = [
        Check("linear: max |NTK − δ xᵀx'| / max |xᵀx'|", kernel_error(linear, gram, x, y), 1e-12),
        Check(
            "kernel machine: max |NTK − δ k| / max |k|", kernel_error(machine, (1 + gram) ** 2, x, y), 1e-12
        ),
    ]
    constraint = make_constraint("orthogonal")
    single, double = [], []
    for h in settings.choose((8, 100, 2000), (8, 500)):
        shape = NetworkShape(d, h, z)
        network = ConstrainedNetwork(shape, constraint, constraint.initial(shape, [generator]))
        model = OneReplica(network)
        single.append(kernel_error(model, gram, x, y))
        double.append(kernel_error(model, 2 * gram, x, y))
    split = [
        Check("linear: joint against separate training", regression_gap(linear, x, normal(n, z)), 1e-10),
        Check(
            "kernel machine: joint against separate training",
            regression_gap(machine, x, normal(n, z)),
            1e-10,
        ),
    ]
    command = settings.command("lemma1")
    claims = [
        Claim(
            "Lemma 1: for a linear model and for a kernel machine the gradients' inner products are δ_lj xᵀx' and δ_lj "
            "k(x, x')",
            direct,
            evidence=f"Jacobians at {n}×{n} pairs of points, z = {z}; exact at any size, no limit needed",
            command=command,
        ),
        Claim(
            "Lemma 1, proof: for the two-layer linear net the same inner products tend to δ_lj xᵀx'",
            [Check("max |NTK − δ xᵀx'| / max |xᵀx'|, all widths", max(single), 1e-2)],
            [Check("max |NTK − 2 δ xᵀx'| / max |xᵀx'|, all widths", max(double), 1e-12)],
            correction="2 δ_lj xᵀx' at orthonormal weights, exactly, at any width: both layers contribute; xᵀx' is the "
            "last layer's share",
            evidence="Jacobians of all weights at Haar weights, several widths h",
            command=command,
        ),
        Claim(
            "Remark 1: multivariate regression with a linear model or kernel machine is independent univariate "
            "regressions",
            split,
            evidence="200 gradient steps on Eq. 3's squared loss, jointly and per output",
            command=command,
        ),
    ]
    return Result(claims)


PART = Part("lemma1", "Lemma 1, Remark 1", compute)
