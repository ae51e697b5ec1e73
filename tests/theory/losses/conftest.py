"""Losses of the embeddings u = Am, v = Bm as functions of m, written out, with the data of the reference table."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

N, D, Z, H = 12, 4, 2, 6


def polar(w: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(w, full_matrices=False)
    return u @ vt


def reference_data() -> tuple[Tensor, Tensor]:
    """A_ij = sin(1.3 i j + i) s_j and B_ij = A_ij + .3 cos(2i + .7 i j)."""
    i, j = np.arange(1.0, N + 1)[:, None], np.arange(1.0, D + 1)[None, :]
    a = np.sin(1.3 * i * j + i) * np.array([1.2, 1.0, 0.8, 0.6])
    return torch.from_numpy(a), torch.from_numpy(a + 0.3 * np.cos(2 * i + 0.7 * i * j))


def reference_weights() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W1 = polar(sin(.9 a j + a)), W2 = polar(cos(1.1 a b)), and the head's W = polar(sin(1.4 j b))."""
    a, j = np.arange(1.0, H + 1)[:, None], np.arange(1.0, D + 1)
    b = np.arange(1.0, Z + 1)[None, :]
    w1, w2 = polar(np.sin(0.9 * a * j + a)), polar(np.cos(1.1 * a * b))
    return w1, w2, polar(np.sin(1.4 * j[:, None] * b))


def nt_xent(u: Tensor, v: Tensor, temperature: float = 0.5) -> Tensor:
    """Mean cross-entropy over the 2n rows of [u; v][u; v]ᵀ/τ, diagonal excluded, the partner as the class."""
    both = torch.cat([u, v], -2)
    similarities = both @ both.mT / temperature
    n = u.shape[-2]
    away = torch.full((2 * n,), -torch.inf, dtype=u.dtype)
    logits = similarities + torch.diag(away).nan_to_num(nan=0.0)
    partner = torch.arange(2 * n).roll(n)
    positive = similarities[..., torch.arange(2 * n), partner]
    return (torch.logsumexp(logits, -1) - positive).mean(-1)


def spectral(u: Tensor, v: Tensor) -> Tensor:
    return -2 * (u * v).sum(-1).mean(-1) + (u @ v.mT).square().mean((-2, -1))


def barlow(u: Tensor, v: Tensor, weight: float = 0.05) -> Tensor:
    n, z = u.shape[-2:]
    a, b = ((x - x.mean(-2, keepdim=True)) / x.std(-2, keepdim=True) for x in (u, v))
    c = a.mT @ b / n
    eye = torch.eye(z, dtype=u.dtype)
    return ((c - eye).square() * (eye + weight * (1 - eye))).sum((-2, -1))


def squared(u: Tensor, v: Tensor) -> Tensor:
    return (u - v).square().sum(-1).mean(-1)


def sigreg(u: Tensor, v: Tensor) -> Tensor:
    """LeJEPA with four fixed slices (two outputs)."""
    n = u.shape[-2]
    views = torch.stack([u, v])
    prediction = (views - views.mean(0)).square().mean((0, -2, -1))
    theta = np.pi * (torch.arange(1, 5, dtype=u.dtype) - 0.5) / 4
    projected = views @ torch.stack([theta.cos(), theta.sin()])  # (2, …, n, 4)
    t = torch.linspace(0, 3, 17, dtype=u.dtype)
    weights = torch.full((17,), 2 * 3 / 16, dtype=u.dtype)
    weights[0] = weights[-1] = 3 / 16
    gauss = torch.exp(-t.square() / 2)
    x = projected[..., None] * t  # (2, …, n, 4, 17)
    error = (x.cos().mean(-3) - gauss).square() + x.sin().mean(-3).square()
    statistic = n * (error * weights * gauss).sum(-1)  # (2, …, 4)
    return 0.9 * prediction + 0.1 * statistic.mean((0, -1))


def quadratic(u: Tensor, v: Tensor) -> Tensor:
    """A contrastive loss with the anchors' own order reversed as negatives."""
    return (u * (u.flip(-2) - v)).sum(-1).mean(-1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "NT-Xent": nt_xent,
    "spectral": spectral,
    "Barlow": barlow,
    "SIGReg": sigreg,
    "squared": squared,
    "quadratic": quadratic,
}


def of_map(name: str, a: Tensor, b: Tensor) -> Callable[[Tensor], Tensor]:
    """m (…, d, z) -> L (…,)."""
    loss = LOSSES[name]
    return lambda m: loss(a @ m, b @ m)


@pytest.fixture(scope="session")
def written() -> SimpleNamespace:
    """``written.of_map("NT-Xent", a, b)``: the loss as a function of m; and the data of the reference table."""
    return SimpleNamespace(of_map=of_map, data=reference_data(), weights=reference_weights())
