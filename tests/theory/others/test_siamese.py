"""Siamese networks with a predictor: reference numbers, balance law, decoupled modes, training, collapse."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory import direct_predictor, solve_siamese, solve_siamese_modes, view_moments
from sslmanifold.theory.siamese import SiameseState, siamese_loss, siamese_velocity

F64 = {"dtype": torch.float64}


def views() -> tuple[Tensor, Tensor]:
    i = torch.arange(1, 13, **F64)[:, None]
    j = torch.arange(1, 5, **F64)[None]
    a = torch.sin(1.3 * i * j) * torch.tensor([1.2, 1, 0.8, 0.6], **F64)
    return a, a + 0.3 * torch.cos(2 * i + 0.7 * i * j)


def polar(a: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(a, full_matrices=False)
    return u @ vh


ROWS = torch.arange(1, 3, **F64)[:, None]
W0 = polar(torch.sin(1.4 * torch.arange(1, 5, **F64)[:, None] * ROWS.mT)).mT  # (z, d), orthonormal rows
P0 = 0.5 * torch.eye(2, **F64) + 0.1 * torch.cos(ROWS @ ROWS.mT)
MOMENTS = view_moments(*views())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"weight_decay": 0.05}, (0.572028931813, -0.321598776109, 0.032306012292, 1.020982082165)),
        (
            {"predictor_rate": 2.0, "ema_rate": 0.3, "weight_decay": 0.05},
            (0.480268595680, -0.300159371219, 0.015747976820, 0.933105381683),
        ),
        ({}, (0.636067618210, -0.370210181361, 0.029501381574, 1.159065337198)),
    ],
    ids=["SimSiam", "BYOL", "SimSiam without decay"],
)
def test_the_reference_numbers(options: dict, expected: tuple[float, ...]) -> None:
    solved = solve_siamese(*MOMENTS, 0.6 * W0, P0, [3.0], **options)
    w, p = solved.weight[0], solved.predictor[0]
    found = (float(w[0, 0]), float(w[1, 1]), float(p[0, 1]), float(w.norm()))
    assert found == pytest.approx(expected, abs=1e-11)


def test_a_second_method() -> None:
    """Classical RK4 in fixed steps, on the weights, written here."""
    state = SiameseState(0.6 * W0, P0, 0.6 * W0)
    options = {"predictor_rate": 2.0, "ema_rate": 0.3, "weight_decay": 0.05}
    steps, dt = 600, 3.0 / 600

    def moved(by: SiameseState, length: float) -> SiameseState:
        return SiameseState(*(a + length * b for a, b in zip(state, by, strict=True)))

    for _ in range(steps):
        k1 = siamese_velocity(state, *MOMENTS, **options)
        k2 = siamese_velocity(moved(k1, dt / 2), *MOMENTS, **options)
        k3 = siamese_velocity(moved(k2, dt / 2), *MOMENTS, **options)
        k4 = siamese_velocity(moved(k3, dt), *MOMENTS, **options)
        state = SiameseState(
            *(
                s + dt / 6 * (a + 2 * b + 2 * c + d)
                for s, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True)
            )
        )
    solved = solve_siamese(*MOMENTS, 0.6 * W0, P0, [3.0], **options)
    for ours, theirs in zip(solved[1:4], state, strict=True):
        torch.testing.assert_close(ours[0], theirs, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.floats(0.2, 4.0), st.floats(0.0, 0.5), st.booleans())
def test_the_balance_law(seed: int, alpha: float, eta: float, slow: bool) -> None:
    """WWᵀ − PᵀP/α = e^{−2ηt} its value at 0, for any data, predictor rate and target."""
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(9, 3, generator=g, **F64), torch.randn(9, 3, generator=g, **F64)
    w, p = (0.5 * torch.randn(2, k, generator=g, **F64) for k in (3, 2))
    times = torch.tensor([0.0, 0.4, 1.5], **F64)
    solved = solve_siamese(
        *view_moments(a, b),
        w,
        p,
        times,
        predictor_rate=alpha,
        ema_rate=0.7 if slow else None,
        weight_decay=eta,
    )
    balance = solved.balance(alpha)
    torch.testing.assert_close(
        balance, torch.exp(-2 * eta * times)[:, None, None] * balance[0], rtol=0, atol=1e-10
    )


def train(steps: int, time: float, *, alpha: float, beta: float | None, eta: float) -> SiameseState:
    """Gradient descent by autograd on the mean over the four ordered pairs of two equally likely views."""
    a, b = views()
    w, p, target = 0.6 * W0, P0, 0.6 * W0
    lr = time / steps
    for _ in range(steps):
        w, p = w.detach().requires_grad_(), p.detach().requires_grad_()
        fixed = (w if beta is None else target).detach()
        loss = torch.zeros((), **F64)
        for x1 in (a, b):
            for x2 in (a, b):
                loss = loss + (x1 @ w.mT @ p.mT - x2 @ fixed.mT).square().sum(-1).mean() / 8
        gw, gp = torch.autograd.grad(loss, (w, p))
        before = w.detach()
        w, p = w.detach() - lr * (gw + eta * before), p.detach() - lr * (alpha * gp + eta * p.detach())
        if beta is not None:
            target = target + lr * beta * (before - target)
    return SiameseState(w, p, w if beta is None else target)


@pytest.mark.parametrize(
    ("alpha", "beta", "eta"), [(1.0, None, 0.05), (2.0, 0.3, 0.05), (1.0, None, 0.0), (0.5, 1.0, 0.1)]
)
def test_training_is_first_order(alpha: float, beta: float | None, eta: float) -> None:
    exact = solve_siamese(
        *MOMENTS, 0.6 * W0, P0, [1.0], predictor_rate=alpha, ema_rate=beta, weight_decay=eta
    )
    gaps, laws = [], []
    for steps in (100, 200, 400):
        done = train(steps, 1.0, alpha=alpha, beta=beta, eta=eta)
        gaps.append(sum(float((x - y[0]).norm()) for x, y in zip(done, exact[1:4], strict=True)))
        law = done.weight @ done.weight.mT - done.predictor.mT @ done.predictor / alpha
        laws.append(float((law - exact.balance(alpha)[0]).norm()))
    for values in (gaps, laws):
        assert 1.9 < values[0] / values[1] < 2.1
        assert 1.9 < values[1] / values[2] < 2.1


def test_the_loss_is_that_of_the_views() -> None:
    a, b = views()
    state = SiameseState(W0, P0, 0.7 * W0)
    mean = sum(
        (
            (x1 @ W0.mT @ P0.mT - 0.7 * x2 @ W0.mT).square().sum(-1).mean() / 2
            for x1 in (a, b)
            for x2 in (a, b)
        ),
        start=torch.zeros((), **F64),
    )
    torch.testing.assert_close(siamese_loss(state, *MOMENTS), mean / 4)


@pytest.mark.parametrize("ema_rate", [None, 0.4])
def test_aligned_modes_decouple(ema_rate: float | None) -> None:
    sigma2, p, s, tau = 0.3, torch.tensor([0.4, 0.9], **F64), torch.tensor([0.5, 0.2], **F64), 0.8
    tau = 1.0 if ema_rate is None else tau
    u = torch.linalg.qr(torch.tensor([[1.0, 2.0], [0.5, -1.0]], **F64)).Q
    weight = u * s.sqrt() @ torch.eye(2, 3, **F64)
    options = {"predictor_rate": 1.5, "ema_rate": ema_rate, "weight_decay": 0.1}
    times = [0.0, 0.7, 2.0]
    eye = torch.eye(3, **F64)
    target = None if ema_rate is None else tau * weight
    full = solve_siamese(eye, sigma2 * eye, weight, u * p @ u.mT, times, target0=target, **options)
    modes = solve_siamese_modes(p, s, times, augmentation=sigma2, tau0=tau, **options)
    torch.testing.assert_close(u.mT @ full.predictor @ u, torch.diag_embed(modes.p), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        u.mT @ full.weight @ full.weight.mT @ u, torch.diag_embed(modes.s), rtol=0, atol=1e-10
    )
    torch.testing.assert_close(
        u.mT @ full.target @ full.weight.mT @ u, torch.diag_embed(modes.tau * modes.s), rtol=0, atol=1e-10
    )


def test_collapse_without_predictor_and_without_its_gain() -> None:
    """A predictor that stays at 1 lets every mode die as e^{−2(σ² + η)t}; one that learns keeps it."""
    times, sigma2, eta = [0.0, 5.0], 0.4, 0.02
    still = solve_siamese_modes(
        1.0, 0.8, times, augmentation=sigma2, predictor_rate=1e-300
    )  # p never moves without decay
    assert float(still.s[1]) == pytest.approx(0.8 * math.exp(-2 * sigma2 * 5), rel=1e-9)
    kept = solve_siamese_modes(0.5, 0.5, [200.0], augmentation=sigma2, predictor_rate=1.0, weight_decay=eta)
    assert kept.s[0] > 0.1
    lost = solve_siamese_modes(0.5, 0.5, [200.0], augmentation=sigma2, predictor_rate=1.0, weight_decay=0.5)
    assert lost.s[0] < 1e-12


def test_an_orthonormal_weight_needs_neither() -> None:
    """W on the Stiefel manifold, P = I held: W goes to where views differ least, and keeps its rank."""
    x, x_aug = MOMENTS
    solved = solve_siamese(x, x_aug, W0, P0, [0.5, 3.0, 40.0], orthonormal=True)
    gram = solved.weight @ solved.weight.mT
    torch.testing.assert_close(gram, torch.eye(2, **F64).expand_as(gram), rtol=0, atol=1e-11)
    gaps = []
    for steps in (200, 400):
        w, p = W0, P0
        for _ in range(steps):
            rate = siamese_velocity(SiameseState(w, p, w), x, x_aug)
            w, p = polar(w + 0.5 / steps * rate.weight), p + 0.5 / steps * rate.predictor
        gaps.append(float((w - solved.weight[0]).norm() + (p - solved.predictor[0]).norm()))
    assert 1.9 < gaps[0] / gaps[1] < 2.1


def test_an_orthonormal_weight_without_predictor_and_stop_gradient() -> None:
    """Both views differentiated, the loss is Tr(W X′ Wᵀ): free weights die, orthonormal rows find X′'s lowest modes."""
    x_aug = MOMENTS[1]
    a, b = views()
    w, free = W0, W0
    for _ in range(600):
        w = w.detach().requires_grad_()
        loss = sum(
            ((x1 @ w.mT - x2 @ w.mT).square().sum(-1).mean() for x1 in (a, b) for x2 in (a, b)),
            start=torch.zeros((), **F64),
        )
        loss = loss / 8
        (gradient,) = torch.autograd.grad(loss, w)
        torch.testing.assert_close(loss, torch.trace(w @ x_aug @ w.mT))
        w = polar(w.detach() - 20.0 * gradient)
        free = free - 20.0 * 2 * free @ x_aug
    lowest = torch.linalg.eigh(x_aug)[1][:, :2]
    torch.testing.assert_close(torch.linalg.svdvals(w @ lowest), torch.ones(2, **F64), rtol=0, atol=1e-6)
    assert torch.linalg.svdvals(free)[0] < 1e-6


def test_leading_dimensions() -> None:
    weights = torch.stack([0.6 * W0, 0.3 * W0.flip(0)])
    both = solve_siamese(*MOMENTS, weights, P0, [0.3, 1.0], ema_rate=0.3)
    assert both.weight.shape == both.target.shape == (2, 2, 2, 4)
    for index in range(2):
        one = solve_siamese(*MOMENTS, weights[index], P0, [0.3, 1.0], ema_rate=0.3)
        for ours, alone in zip(both[1:], one[1:], strict=True):
            torch.testing.assert_close(ours[:, index], alone, rtol=0, atol=1e-11)


def test_the_direct_predictor_is_the_balanced_one() -> None:
    f = torch.tensor([[0.5, 0.1], [0.1, 0.3]], **F64)
    p = direct_predictor(f, epsilon=0.0)
    torch.testing.assert_close(p @ p, f)
    top = torch.linalg.eigvalsh(f)[-1]
    torch.testing.assert_close(direct_predictor(f, epsilon=0.2), p + 0.2 * top * torch.eye(2, **F64))
    with pytest.raises(UserError, match="give E"):
        direct_predictor(-f)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target0": 0.5 * W0}, "target0 beside stop-gradient"),
        ({"predictor_rate": 0.0}, "predictor_rate=0.0 must be above 0"),
        ({"weight_decay": -1.0}, "must not be negative"),
        ({"ema_rate": 0.3, "target0": W0.mT}, "target0 of shape"),
        ({"orthonormal": True}, "qr"),
    ],
)
def test_mistakes(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        solve_siamese(*MOMENTS, 0.6 * W0, P0, [1.0], **options)
