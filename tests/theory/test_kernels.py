"""Naive SSL dynamics (Eqs. 3–5): linear and kernel machines solved exactly, and the collapse as a number."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from sslmanifold.errors import UserError
from sslmanifold.theory import MomentOperator, cross_moment, empirical_ntk, kernel_dynamics, linear_dynamics
from sslmanifold.theory.kernels import interaction, linear_dynamics_operator, linear_kernel, rbf_kernel


def triplets(n: int = 12, d: int = 4, seed: int = 0) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * np.linspace(1.5, 0.4, d)
    return [torch.from_numpy(a) for a in (x, x + 0.3 * rng.standard_normal((n, d)), x[rng.permutation(n)])]


@pytest.mark.parametrize("contrastive", [True, False])
def test_generator_is_eqs_4_and_5_term_by_term(contrastive) -> None:
    x, pos, neg = triplets(5)
    kernel = rbf_kernel(1.3)
    queries = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dynamics = kernel_dynamics(x, pos, neg if contrastive else None, kernel=kernel, queries=queries)
    points = dynamics.points
    u = torch.randn(len(points), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def k(a, b) -> float:
        return float(torch.exp(-(a - b).square().sum() / (2 * 1.3**2)))

    expected = torch.zeros_like(u)
    for row, point in enumerate(points):
        for i in range(5):
            expected[row] += k(point, x[i]) * u[5 + i] + k(point, pos[i]) * u[i]
            if contrastive:
                expected[row] -= k(point, x[i]) * u[10 + i] + k(point, neg[i]) * u[i]
    torch.testing.assert_close(dynamics.velocity(u), expected, rtol=1e-10, atol=1e-12)


def test_linear_kernel_is_the_linear_model() -> None:
    """u(t) on the points is Θ(t) x, Θ(t) = Θ0 e^{−2Ct}: two routes, both against SciPy's expm."""
    x, pos, neg = triplets()
    theta0 = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    c = cross_moment(x, pos, neg)
    times = [0.0, 0.01, 0.05]
    theta = linear_dynamics(theta0, c, times)
    for t, value in zip(times, theta, strict=True):
        np.testing.assert_allclose(
            value.numpy(), theta0.numpy() @ scipy.linalg.expm(-2 * t * c.numpy()), rtol=1e-10
        )
    dynamics = kernel_dynamics(x, pos, neg)
    u = dynamics.solve(dynamics.points @ theta0.T, times)
    torch.testing.assert_close(u, dynamics.points @ theta.mT, rtol=1e-8, atol=1e-8)
    operator = MomentOperator(x, pos, neg).linear_operator()
    other = linear_dynamics_operator(theta0, operator, times, trace=float(c.trace()))
    torch.testing.assert_close(other, theta, rtol=1e-8, atol=1e-8)


def test_linear_model_against_gradient_descent() -> None:
    """Plain gradient descent on Σ u(x)ᵀ(u(x⁻) − u(x⁺)) by autograd converges to Θ0 e^{−2Ct} at first order."""
    x, pos, neg = triplets()
    theta0 = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    exact = linear_dynamics(theta0, cross_moment(x, pos, neg), [0.05])[0]
    errors = []
    for steps in (100, 200):
        theta = theta0.clone().requires_grad_()
        for _ in range(steps):
            loss = ((x @ theta.T) * ((neg - pos) @ theta.T)).sum()
            (gradient,) = torch.autograd.grad(loss, theta)
            theta = (theta - 0.05 / steps * gradient).detach().requires_grad_()
        errors.append(float((theta.detach() - exact).norm()))
    assert 1.9 < errors[0] / errors[1] < 2.1


@pytest.mark.parametrize("kernel", [linear_kernel, rbf_kernel(2.0)])
def test_every_output_follows_the_same_dynamics_and_collapses(kernel) -> None:
    """Prop. 1: one matrix for all l; σ2/σ1 → 0 of the normalised outputs, to times where u itself overflows."""
    dynamics = kernel_dynamics(*triplets(10), kernel=kernel)
    u0 = torch.randn(len(dynamics.points), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    together = dynamics.solve(u0, [0.02])[0]
    for component in range(3):
        alone = dynamics.solve(u0[:, component : component + 1], [0.02])[0]
        torch.testing.assert_close(together[:, component : component + 1], alone, rtol=1e-9, atol=1e-9)
    ratio = dynamics.collapse(u0, [0.0, 0.2, 2.0, 200.0])
    assert torch.isfinite(ratio).all()
    assert float(ratio[-1]) < 1e-8 < float(ratio[0])
    with pytest.raises(UserError, match="two components"):
        dynamics.collapse(u0[:, :1], [1.0])


def test_remark_3_is_wrong_but_the_collapse_holds() -> None:
    """u = AΘx: u̇ = −2 A Aᵀ u C-ish couples components through AAᵀ; the normalised output still collapses."""
    x, pos, neg = triplets()
    c = cross_moment(x, pos, neg).numpy()
    rng = np.random.default_rng(0)
    a, theta = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))
    velocity = a @ (-2 * a.T @ a @ theta @ c)  # AΘ̇ from Θ̇ = −∂/∂Θ Tr((AΘ) C (AΘ)ᵀ)
    coupled = -2 * (a @ a.T) @ (a @ theta) @ c
    np.testing.assert_allclose(velocity, coupled, atol=1e-12)
    independent = -2 * (a @ theta) @ c
    assert np.abs(velocity - independent).max() > 0.1
    u, ratios = a @ theta, []
    for t in (0.0, 0.2, 1.0):
        # vec form of U̇ = −2 (AAᵀ) U C
        flat = scipy.linalg.expm(t * np.kron(-2 * a @ a.T, c)) @ u.ravel()
        sigma = np.linalg.svd(flat.reshape(2, 4), compute_uv=False)
        ratios.append(sigma[1] / sigma[0])
    assert ratios[2] < ratios[1] < ratios[0]
    assert ratios[2] < 1e-3


class TwoLayer(nn.Module):
    def __init__(self, w1: torch.Tensor, w2: torch.Tensor, activation: nn.Module) -> None:
        super().__init__()
        self.w1, self.w2, self.activation = nn.Parameter(w1), nn.Parameter(w2), activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(x @ self.w1.T) @ self.w2


def haar(h: int, k: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(
        torch.randn(h, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )[0]


@pytest.mark.parametrize("h", [4, 7, 50])
def test_tangent_kernel_of_the_linear_net_at_orthonormal_weights(h) -> None:
    """2 xᵀx' δ_lj exactly at any h ≥ d (Lemma 1's print is the last layer's half, in the infinite-width limit)."""
    model = TwoLayer(haar(h, 4, 0), haar(h, 3, 1), nn.Identity())
    x, y = triplets(5)[0], triplets(6, seed=1)[0]
    ntk = empirical_ntk(model, x, y)
    expected = 2 * (x @ y.T)[:, :, None, None] * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(ntk, expected, rtol=0, atol=1e-12)
    assert interaction(ntk) < 1e-14


def test_one_layer_models_obey_lemma_1_exactly_and_nonlinear_ones_do_not() -> None:
    linear = nn.Linear(4, 3, bias=False).double()
    x = triplets(5)[0]
    expected = (x @ x.T)[:, :, None, None] * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(empirical_ntk(linear, x), expected, rtol=0, atol=1e-12)
    narrow = interaction(empirical_ntk(TwoLayer(haar(6, 4, 2), haar(6, 3, 3), nn.Tanh()), x))
    wide = interaction(empirical_ntk(TwoLayer(haar(600, 4, 2), haar(600, 3, 3), nn.Tanh()), x))
    assert narrow > 1e-3
    assert wide < narrow / 10


def test_mistakes_are_named() -> None:
    x, pos, neg = triplets()
    with pytest.raises(UserError, match="must all be"):
        kernel_dynamics(x, pos[:3], neg)
    with pytest.raises(UserError, match="one row for each"):
        kernel_dynamics(x, pos, neg).solve(torch.ones(3, 2), [1.0])
    with pytest.raises(UserError, match="bandwidth"):
        rbf_kernel(0.0)
