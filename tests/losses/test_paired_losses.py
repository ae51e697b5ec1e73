"""Losses against loops in NumPy, against Tr(mᵀCm), and against closed forms."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from sslmanifold.errors import UserError
from sslmanifold.losses import (
    Contrastive,
    InfoNCE,
    NonContrastive,
    SpectralContrastive,
    contrastive_loss,
    infonce_loss,
    noncontrastive_loss,
    spectral_contrastive_loss,
)
from sslmanifold.theory.moments import cross_moment

REDUCTIONS = ["sum", "mean", "pair_mean"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def loop_contrastive(u, u_pos, u_neg, reduction):
    """Eq. 1 term by term; u (n, z), u_pos (n, p, z), u_neg (n, q, z) or None."""
    n, p = u_pos.shape[:2]
    total = 0.0
    for i in range(n):
        beta = 1.0 if reduction == "sum" else 1 / p
        term = -beta * sum(float(np.dot(u[i], u_pos[i, j])) for j in range(p))
        if u_neg is not None:
            alpha = 1.0 if reduction == "sum" else 1 / u_neg.shape[1]
            term += alpha * sum(float(np.dot(u[i], u_neg[i, j])) for j in range(u_neg.shape[1]))
        total += term
    return total / n if reduction == "mean" else total


@given(
    n=st.integers(1, 7),
    d=st.integers(1, 5),
    z=st.integers(1, 4),
    p=st.integers(1, 4),
    q=st.integers(1, 4),
    replicas=st.lists(st.integers(1, 3), max_size=2),
    reduction=st.sampled_from(REDUCTIONS),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_a_linear_map_gives_the_trace_form(n, d, z, p, q, replicas, reduction, seed):
    x, m = draw(n, d, seed=seed), draw(*replicas, d, z, seed=seed + 1)
    positives, negatives = draw(n, p, d, seed=seed + 2), draw(n, q, d, seed=seed + 3)
    u, u_pos, u_neg = x @ m, positives @ m.unsqueeze(-3), negatives @ m.unsqueeze(-3)

    def trace_form(c):
        return torch.einsum("...dz,de,...ez->...", m, c, m)

    c = cross_moment(x, positives, negatives, reduction=reduction)
    loss = contrastive_loss(u, u_pos, u_neg, reduction)
    assert loss.shape == torch.Size(replicas)
    torch.testing.assert_close(loss, trace_form(c), rtol=1e-10, atol=1e-10)
    c = cross_moment(x, positives, reduction=reduction)
    loss = noncontrastive_loss(u, u_pos, reduction)
    torch.testing.assert_close(loss, trace_form(c), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_eqs_1_and_2_term_by_term(reduction):
    u, u_pos, u_neg = draw(6, 3), draw(6, 2, 3), draw(6, 4, 3)
    expected = loop_contrastive(u.numpy(), u_pos.numpy(), u_neg.numpy(), reduction)
    assert contrastive_loss(u, u_pos, u_neg, reduction).item() == pytest.approx(expected, rel=1e-12)
    expected = loop_contrastive(u.numpy(), u_pos.numpy(), None, reduction)
    assert noncontrastive_loss(u, u_pos, reduction).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [Contrastive(), NonContrastive(), InfoNCE(), SpectralContrastive()])
def test_a_single_pair_needs_no_pair_axis(loss):
    u, u_pos, u_neg = draw(2, 5, 3), draw(2, 5, 3, seed=1), draw(2, 5, 3, seed=2)
    without = loss(u, u_pos, u_neg)
    assert without.shape == (2,)
    torch.testing.assert_close(without, loss(u, u_pos.unsqueeze(-2), u_neg.unsqueeze(-2)))


@pytest.mark.parametrize("kind", [Contrastive, NonContrastive, InfoNCE, SpectralContrastive])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_replicas_are_independent(kind, reduction):
    u, u_pos, u_neg = draw(3, 5, 2), draw(3, 5, 2, 2, seed=1), draw(3, 5, 3, 2, seed=2)
    loss = kind(reduction=reduction)
    one_by_one = torch.stack([loss(u[s], u_pos[s], u_neg[s]) for s in range(3)])
    torch.testing.assert_close(loss(u, u_pos, u_neg), one_by_one)


@pytest.mark.parametrize("kind", [Contrastive, NonContrastive, InfoNCE, SpectralContrastive])
def test_time_scale_of_the_reductions(kind):
    """One pair each: pair_mean is the sum and the mean is 1/n of it, so time runs n times slower."""
    u, u_pos, u_neg = draw(8, 3), draw(8, 1, 3), draw(8, 1, 3, seed=1)
    total, mean, pair_mean = (kind(reduction=r)(u, u_pos, u_neg) for r in ("sum", "mean", "pair_mean"))
    torch.testing.assert_close(pair_mean, total)
    torch.testing.assert_close(mean, total / 8)


def test_infonce_is_a_cross_entropy():
    """−log softmax of the positive among itself and the negatives: torch's cross entropy with target 0."""
    u, u_pos, u_neg = draw(6, 3), draw(6, 2, 3), draw(6, 4, 3)
    for temperature, normalize in [(1.0, False), (0.3, True)]:
        a, b, c = (torch.nn.functional.normalize(t, dim=-1) if normalize else t for t in (u, u_pos, u_neg))
        expected = 0.0
        for j in range(2):
            logits = torch.cat([(a * b[:, j]).sum(-1, keepdim=True), torch.einsum("iz,ikz->ik", a, c)], dim=1)
            target = torch.zeros(6, dtype=torch.int64)
            expected += torch.nn.functional.cross_entropy(
                logits / temperature, target, reduction="sum"
            ).item()
        loss = infonce_loss(u, u_pos, u_neg, temperature=temperature, normalize=normalize)
        assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_infonce_of_large_embeddings_is_finite():
    u = 1e3 * draw(4, 3)
    assert torch.isfinite(infonce_loss(u, -u, u))


def test_infonce_with_identical_pairs_is_log_of_their_number():
    u = draw(5, 3)
    pairs = u.unsqueeze(1)
    loss = infonce_loss(u, pairs, pairs.expand(5, 3, 3), "mean")
    assert loss.item() == pytest.approx(np.log(4), rel=1e-12)


def test_spectral_contrastive_loss_is_a_matrix_factorisation():
    """With all samples as negatives, mean scaling is ‖UUᵀ − P‖²_F/n² up to a constant (P = n I: x⁺ = x)."""
    n = 5
    u = draw(n, 3)
    loss = spectral_contrastive_loss(u, u, u.expand(n, n, 3), "mean")
    gap = torch.linalg.matrix_norm(u @ u.T - n * torch.eye(n, dtype=u.dtype)).square() / n**2
    assert loss.item() == pytest.approx(gap.item() - n, rel=1e-12)


@pytest.mark.parametrize("function", [contrastive_loss, infonce_loss, spectral_contrastive_loss])
def test_gradients_are_correct(function):
    args = [draw(4, 2).requires_grad_(), draw(4, 3, 2).requires_grad_(), draw(4, 2, 2).requires_grad_()]
    assert torch.autograd.gradcheck(function, args)


def test_remark_2_output_dimensions_couple_in_the_spectral_loss_alone():
    """∂²L/∂u_1∂u_2 at one anchor: zero for Eq. 1, not for the spectral loss."""
    u_pos, u_neg = draw(1, 2), draw(1, 2, seed=1)

    def mixed(function):
        return torch.autograd.functional.hessian(lambda u: function(u, u_pos, u_neg), draw(1, 2, seed=2))[
            0, 0, 0, 1
        ].item()

    assert mixed(contrastive_loss) == 0
    assert mixed(spectral_contrastive_loss) == pytest.approx(2 * (u_neg[0, 0] * u_neg[0, 1]).item())


def test_classes_say_what_they_need():
    assert (Contrastive().contrastive, Contrastive().quadratic) == (True, True)
    assert (NonContrastive().contrastive, NonContrastive().quadratic) == (False, True)
    for loss in (InfoNCE(), SpectralContrastive()):
        assert (loss.contrastive, loss.quadratic, loss.evaluate) == (True, False, "samples")


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Contrastive(reduction="average"), "loss.reduction"),
        (lambda: NonContrastive(evaluate="fast"), "loss.evaluate"),
        (lambda: InfoNCE(temperature=0.0), "loss.temperature"),
        (lambda: contrastive_loss(draw(2, 1), draw(2, 1), draw(2, 1), "none"), "loss.reduction"),
        (lambda: Contrastive()(draw(2, 1), draw(2, 1)), "loss=noncontrastive"),
    ],
)
def test_mistakes_are_named(make, key):
    with pytest.raises(UserError, match=key):
        make()
