"""Stepwise learning: reference numbers, the closed form against integration, step times, kernels, training."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory import kernel_correlation, pair_correlation, solve_stepwise
from sslmanifold.theory.stepwise import stepwise_loss, stepwise_velocity


def views() -> tuple[Tensor, Tensor]:
    i = torch.arange(1, 13, dtype=torch.float64)[:, None]
    j = torch.arange(1, 5, dtype=torch.float64)[None]
    a = torch.sin(1.3 * i * j) * torch.tensor([1.2, 1, 0.8, 0.6], dtype=torch.float64)
    return a, a + 0.3 * torch.cos(2 * i + 0.7 * i * j)


def polar(a: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(a, full_matrices=False)
    return u @ vh


W0 = polar(
    torch.sin(
        1.4 * torch.arange(1, 5, dtype=torch.float64)[:, None] * torch.arange(1, 3, dtype=torch.float64)
    )
)
GAMMA = pair_correlation(*views())
VALUES, VECTORS = (part.flip(-1) for part in torch.linalg.eigh(GAMMA))


def test_the_reference_numbers() -> None:
    """DOP853 at rtol 1e-13, found independently of this code."""
    general = solve_stepwise(GAMMA, 0.1 * W0, [0.9])
    assert general.method == "adaptive"
    assert float(general.loss[0]) == pytest.approx(1.141027509751, abs=1e-11)
    np.testing.assert_allclose(general.m[0, 0], [0.685017762572, 0.387382979637], rtol=0, atol=1e-11)
    aligned = solve_stepwise(GAMMA, VECTORS[:, :2] * torch.tensor([0.1, 0.2], dtype=torch.float64), [0.9])
    assert aligned.method == "closed_form"
    assert float(aligned.loss[0]) == pytest.approx(0.744216382094, abs=1e-11)
    np.testing.assert_allclose(
        torch.linalg.svdvals(aligned.m[0]), [0.908712748909, 0.753247000709], atol=1e-11
    )
    np.testing.assert_allclose(aligned.step_times, [0.822793548726, 1.284000678520], atol=1e-11)


def rotation(z: int, seed: int) -> Tensor:
    return torch.linalg.qr(
        torch.randn(z, z, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ).Q


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000),
    st.lists(st.floats(-1.5, 2.0), min_size=4, max_size=4),
    st.lists(st.floats(0.01, 1.2), min_size=3, max_size=3),
)
def test_the_closed_form_solves_the_equation(seed: int, eigvals: list[float], sizes: list[float]) -> None:
    """For eigenvalues of either sign and 0, any three of the eigenvectors, any rotation."""
    assume(np.diff(sorted(eigvals)).min() > 1e-3)  # tied ones have no basis of their own: integrated
    v = rotation(4, seed)
    gamma = v * torch.tensor(eigvals, dtype=torch.float64) @ v.mT
    gamma = (gamma + gamma.mT) / 2
    start = v[:, [0, 2, 3]] * torch.tensor(sizes, dtype=torch.float64) @ rotation(3, seed + 1)
    solved = solve_stepwise(gamma, start, [0.0, 0.3])
    assert solved.method == "closed_form"

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        return stepwise_velocity(gamma, torch.from_numpy(flat).reshape(4, 3)).flatten().numpy()

    found = solve_ivp(velocity, (0, 0.3), start.flatten().numpy(), "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    np.testing.assert_allclose(solved.m[1].flatten(), found, rtol=0, atol=1e-9)
    torch.testing.assert_close(solved.m[0], start, rtol=0, atol=1e-13)


def test_the_velocity_is_the_gradient() -> None:
    m = W0.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(stepwise_loss(GAMMA, m), m)
    torch.testing.assert_close(stepwise_velocity(GAMMA, W0), -gradient, rtol=0, atol=1e-13)


def test_late_times_arrive() -> None:
    """mᵀΓm = I: the loss is 0, and no time overflows."""
    for start in (0.1 * W0, VECTORS[:, :2] * 0.1):
        solved = solve_stepwise(GAMMA, start, [1e3, 1e9])
        assert solved.loss.abs().max() < 1e-18
    never = solve_stepwise(torch.diag(torch.tensor([1.0, -1.0])), torch.eye(2) * 0.5, [1e9])
    torch.testing.assert_close(
        torch.linalg.svdvals(never.m[0]), torch.tensor([1.0, 0.0], dtype=torch.float64)
    )
    assert never.step_times[1] == torch.inf


def test_a_step_is_where_half_is_learned() -> None:
    """γ_j s_j(τ_j)² = ½ up to the start's own share, in order of the eigenvalues."""
    sizes = torch.tensor([0.01, 0.02], dtype=torch.float64)
    start = VECTORS[:, :2] * sizes
    times = solve_stepwise(GAMMA, start, [0.0]).step_times
    assert times[0] < times[1]
    at = solve_stepwise(GAMMA, start, times)
    for index in range(2):
        share = VALUES[index] * (VECTORS[:, index] @ at.m[index]).square().sum()
        assert float(share) == pytest.approx(0.5, abs=1e-3)


def test_step_times_of_any_small_start() -> None:
    """The QR rule: the time at which a mode is half learned tends to τ as the start shrinks."""
    gaps = []
    for size in (1e-2, 1e-4):
        solved = solve_stepwise(GAMMA, size * W0, [0.0])
        at = solve_stepwise(GAMMA, size * W0, solved.step_times)
        shares = [VALUES[k] * (VECTORS[:, k] @ at.m[k]).square().sum() for k in range(2)]
        gaps.append(max(abs(float(share) - 0.5) for share in shares))
    assert gaps[1] < gaps[0]
    assert gaps[1] < 0.02


def test_training_is_first_order() -> None:
    """Gradient steps on the loss of embeddings, by autograd, against the flow."""
    a, b = views()
    n, gaps = len(a), []
    for steps in (100, 200, 400):
        m = (0.3 * W0).clone()
        for _ in range(steps):
            m.requires_grad_()
            u, v = a @ m, b @ m
            loss = ((u.mT @ v + v.mT @ u) / (2 * n) - torch.eye(2, dtype=torch.float64)).square().sum()
            (gradient,) = torch.autograd.grad(loss, m)
            m = (m - 0.5 / steps * gradient).detach()
        gaps.append(float(torch.linalg.matrix_norm(m - solve_stepwise(GAMMA, 0.3 * W0, [0.5]).m[0])))
    assert 1.9 < gaps[0] / gaps[1] < 2.1
    assert 1.9 < gaps[1] / gaps[2] < 2.1


def test_a_linear_kernel_is_the_linear_model() -> None:
    """K̃ = ZZᵀ of the 2n samples Z: the same embedding for the same function at the start."""
    a, b = views()
    samples = torch.cat([a, b])
    gamma, root = kernel_correlation(samples @ samples.mT)
    start = 0.2 * W0
    lifted = torch.linalg.pinv(root, rtol=1e-10) @ samples @ start  # root @ lifted = samples @ start
    ours = root @ solve_stepwise(gamma, lifted, [0.7]).m[0]
    torch.testing.assert_close(ours, samples @ solve_stepwise(GAMMA, start, [0.7]).m[0], rtol=0, atol=1e-9)


def test_leading_dimensions() -> None:
    starts = torch.stack([0.1 * W0, 0.3 * W0.flip(0)])
    both = solve_stepwise(GAMMA, starts, [0.2, 0.5])
    assert both.m.shape == (2, 2, 4, 2)
    for index in range(2):
        one = solve_stepwise(GAMMA, starts[index], [0.2, 0.5])
        torch.testing.assert_close(both.m[:, index], one.m, rtol=0, atol=1e-10)
        torch.testing.assert_close(both.step_times[index], one.step_times)
    wide = solve_stepwise(
        GAMMA[:2, :2], torch.eye(2, 3) * 0.1, [1.0]
    )  # z > d: one output has nothing to learn
    assert wide.step_times[2] == torch.inf


@pytest.mark.parametrize(
    ("gamma", "m0", "words"),
    [
        (GAMMA[:3], W0, "give Γ as"),
        (GAMMA, W0[:3], "give the map as"),
        (GAMMA + torch.triu(torch.ones(4, 4), 1), W0, "not symmetric"),
        (GAMMA, W0 * torch.nan, "m0 holds NaN"),
    ],
)
def test_mistakes(gamma: Tensor, m0: Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        solve_stepwise(gamma, m0, [1.0])


def test_kernel_mistakes() -> None:
    with pytest.raises(UserError, match="first views then second"):
        kernel_correlation(torch.eye(3))
    with pytest.raises(UserError, match="so is none"):
        kernel_correlation(-torch.eye(4))
    with pytest.raises(UserError, match="give two of"):
        pair_correlation(torch.ones(3, 2), torch.ones(4, 2))
