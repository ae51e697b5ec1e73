"""Dimensional collapse: the contrast matrix, what dies under strong augmentation, what two layers conserve."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.losses import infonce_distance_loss
from sslmanifold.theory import LossGradient, contrast_matrix, layer_balance
from sslmanifold.theory.flows.head import FreeHeadFlow

F64 = {"dtype": torch.float64}


def views(noise: tuple[float, ...], n: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Anchors with the spectrum 1, and positives with this noise on each coordinate."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, len(noise), generator=g, **F64)
    return x, x + torch.tensor(noise, **F64) * torch.randn(n, len(noise), generator=g, **F64)


def loss_by_loops(u: np.ndarray, v: np.ndarray) -> float:
    total = 0.0
    for i in range(len(u)):
        own = np.exp(-np.square(u[i] - v[i]).sum() / 2)
        others = sum(np.exp(-np.square(u[i] - u[j]).sum() / 2) for j in range(len(u)) if j != i)
        total -= np.log(own / (own + others))
    return total / len(u)


def test_the_loss_term_by_term() -> None:
    u, v = views((0.3, 0.5, 1.0), n=7)
    assert float(infonce_distance_loss(u, v)) == pytest.approx(loss_by_loops(u.numpy(), v.numpy()), rel=1e-12)
    two = torch.stack([v, u + 0.1], -2)
    mean = (infonce_distance_loss(u, v) + infonce_distance_loss(u, u + 0.1)) / 2
    torch.testing.assert_close(infonce_distance_loss(u, two), mean, rtol=1e-12, atol=0)
    far = 1e3 * u  # no exponential leaves the numbers
    assert torch.isfinite(infonce_distance_loss(far, 1e3 * v))


def test_the_matrix_is_the_gradient() -> None:
    x, positives = views((0.3, 0.5, 2.0, 0.1), n=9)
    m = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1), **F64).requires_grad_()
    (gradient,) = torch.autograd.grad(infonce_distance_loss(x @ m, positives @ m).sum(), m)
    s = contrast_matrix(x, positives, m.detach())
    torch.testing.assert_close(-s @ m.detach(), gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close(s, s.mT)


def test_what_augmentation_moves_most_dies() -> None:
    """Noise above the data's own differences makes S negative there: the flow shrinks that direction, and no other."""
    noise = (0.05, 0.05, 3.0)
    x, positives = views(noise)
    m = torch.eye(3, **F64) * 0.5
    top = torch.linalg.eigvalsh(contrast_matrix(x, positives, m))
    assert top[0] < 0 < top[1]
    flow = FreeHeadFlow(LossGradient(lambda m: infonce_distance_loss(x @ m, positives @ m), 3))
    state, sizes = flow.start(m), []
    for _ in range(40):
        state = flow.advance(state, 0.25)
        sizes.append(torch.linalg.svdvals(state.m))
    assert sizes[-1][2] < 0.02 * sizes[-1][1]
    assert sizes[-1][1] > 0.5
    weak = views((0.05, 0.05, 0.05))
    flow = FreeHeadFlow(LossGradient(lambda m: infonce_distance_loss(weak[0] @ m, weak[1] @ m), 3))
    assert torch.linalg.svdvals(flow.advance(flow.start(m), 10.0).m)[2] > 0.5


def test_two_layers_conserve_their_balance() -> None:
    """W1W1ᵀ − W2W2ᵀ drifts by O(lr) in training: half the step, half the drift."""
    x, positives = views((0.3, 0.5, 0.4, 0.2), n=12)
    g = torch.Generator().manual_seed(2)
    start = [0.4 * torch.randn(5, k, generator=g, **F64) for k in (4, 2)]
    drifts = []
    for steps in (100, 200, 400):
        w1, w2 = start
        for _ in range(steps):
            w1, w2 = w1.detach().requires_grad_(), w2.detach().requires_grad_()
            m = w1.mT @ w2
            grads = torch.autograd.grad(infonce_distance_loss(x @ m, positives @ m), (w1, w2))
            w1, w2 = (w.detach() - 1.0 / steps * grad for w, grad in zip((w1, w2), grads, strict=True))
        drifts.append(float((layer_balance(w1, w2) - layer_balance(*start)).norm()))
    assert 1.9 < drifts[0] / drifts[1] < 2.1
    assert 1.9 < drifts[1] / drifts[2] < 2.1


def test_small_singular_values_stay_behind() -> None:
    """Two layers from an aligned start σ: the ratio of the largest to the smallest grows, in one layer less."""
    x, positives = views((0.1, 0.1, 0.1, 0.1))
    s = contrast_matrix(x, positives, torch.eye(4, **F64) * 1e-3)
    assert torch.linalg.eigvalsh(s)[0] > 0  # no direction must die
    sizes = torch.tensor([0.5, 0.3, 0.1, 0.02], **F64)
    two, one = sizes.sqrt(), sizes
    w1, w2, m = torch.diag(two), torch.diag(two), torch.diag(one)
    for _ in range(400):
        product = w1.mT @ w2
        growth = contrast_matrix(x, positives, product) @ product
        w1, w2 = w1 + 0.005 * (w2 @ growth.mT), w2 + 0.005 * (w1 @ growth)
        m = m + 0.005 * contrast_matrix(x, positives, m) @ m
    deep, shallow = torch.linalg.svdvals(w1.mT @ w2), torch.linalg.svdvals(m)
    assert deep[0] / deep[3] > 2 * shallow[0] / shallow[3]


def test_mistakes() -> None:
    x, positives = views((0.1, 0.1))
    with pytest.raises(UserError, match="n at least 2"):
        contrast_matrix(x[:1], positives[:1], torch.eye(2))
    with pytest.raises(UserError, match="give the map as"):
        contrast_matrix(x, positives, torch.eye(3))
