"""An independent reference in NumPy: plain training of the two-layer linear net under each constraint."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

Array = np.ndarray
Weights = tuple[Array, Array]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def paper_case() -> tuple[torch.Tensor, torch.Tensor]:
    """Λ = diag(−3, −1.5, −.5, .4, 1.2), q0[k, j] = 0.3 sin(1 + k + 2j + 1.7kj)."""
    k, j = np.arange(5.0)[:, None], np.arange(2.0)[None, :]
    return torch.tensor([-3.0, -1.5, -0.5, 0.4, 1.2], dtype=torch.float64), torch.tensor(
        0.3 * np.sin(1 + k + 2 * j + 1.7 * k * j)
    )


def gradients(w1: Array, w2: Array, c: Array) -> Weights:
    cm = c @ (w1.T @ w2)
    return 2 * w2 @ cm.T, 2 * w1 @ cm


def polar(w: Array) -> Array:
    u, _, vt = np.linalg.svd(w, full_matrices=False)
    return u @ vt


def skew(x: Array) -> Array:
    return (x - x.T) / 2


def clip(w: Array, c: float) -> Array:
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    return (u * np.minimum(s, c)) @ vt


def rows_step(w1: Array, w2: Array, c: Array, lr: float, **_: float) -> Weights:
    g1, g2 = gradients(w1, w2, c)
    return polar((w1 - lr * (g1 - g1 @ w1.T @ w1)).T).T, polar(w2 - lr * (g2 - w2 @ w2.T @ g2))


def orthogonal_step(w1: Array, w2: Array, c: Array, lr: float, kappa: float = 0.0) -> Weights:
    """Tangent step along −[(I − WWᵀ)G + κ W skew(WᵀG)], then the polar factor."""
    new = []
    for w, g in zip((w1, w2), gradients(w1, w2, c), strict=True):
        new.append(polar(w - lr * (g - w @ (w.T @ g) + kappa * w @ skew(w.T @ g))))
    return new[0], new[1]


def projected_step(w1: Array, w2: Array, c: Array, lr: float, **_: float) -> Weights:
    """Plain step then polar projection: what the paper's experiments do (Eq. 11)."""
    g1, g2 = gradients(w1, w2, c)
    return polar(w1 - lr * g1), polar(w2 - lr * g2)


def free_step(w1: Array, w2: Array, c: Array, lr: float, **_: float) -> Weights:
    g1, g2 = gradients(w1, w2, c)
    return w1 - lr * g1, w2 - lr * g2


def frobenius_step(w1: Array, w2: Array, c: Array, lr: float, c1: float = 1.0, c2: float = 1.0) -> Weights:
    w1, w2 = free_step(w1, w2, c, lr)
    return w1 * min(1, c1 / np.linalg.norm(w1)), w2 * min(1, c2 / np.linalg.norm(w2))


def operator_norm_step(
    w1: Array, w2: Array, c: Array, lr: float, c1: float = 1.0, c2: float = 1.0
) -> Weights:
    w1, w2 = free_step(w1, w2, c, lr)
    return clip(w1, c1), clip(w2, c2)


def scaled_step(w1: Array, w2: Array, c: Array, lr: float, **_: float) -> Weights:
    """Gradient of L/(‖W1‖₂²‖W2‖₂²); at a tie, the singular pair that the SVD happens to return first."""
    (u1, s1, v1), (u2, s2, v2) = (np.linalg.svd(w, full_matrices=False) for w in (w1, w2))
    a, b = s1[0], s2[0]
    g1, g2 = gradients(w1, w2, c)
    m = w1.T @ w2
    loss = np.trace(m.T @ c @ m)
    return (
        w1 - lr * (g1 / (a * b) ** 2 - 2 * loss / (a**3 * b**2) * np.outer(u1[:, 0], v1[0])),
        w2 - lr * (g2 / (a * b) ** 2 - 2 * loss / (a**2 * b**3) * np.outer(u2[:, 0], v2[0])),
    )


def frobenius_scaled_step(w1: Array, w2: Array, c: Array, lr: float, **_: float) -> Weights:
    a, b = (w1**2).sum(), (w2**2).sum()
    g1, g2 = gradients(w1, w2, c)
    m = w1.T @ w2
    loss = np.trace(m.T @ c @ m)
    return (
        w1 - lr * (g1 / (a * b) - 2 * loss / (a**2 * b) * w1),
        w2 - lr * (g2 / (a * b) - 2 * loss / (a * b**2) * w2),
    )


def product_step(w1: Array, w2: Array, c: Array, lr: float, bound: float = 1.0) -> Weights:
    """Plain step, then the excess singular values of W1ᵀW2 taken off, half from each layer."""
    w1, w2 = free_step(w1, w2, c, lr)
    u, s, vt = np.linalg.svd(w1.T @ w2, full_matrices=False)
    root = np.sqrt(np.minimum(1.0, bound / np.maximum(s, 1e-300)))
    d, z = w1.shape[1], w2.shape[1]
    return w1 @ (np.eye(d) - (u * (1 - root)) @ u.T), w2 @ (np.eye(z) - (vt.T * (1 - root)) @ vt)


STEPS: dict[str, Callable[..., Weights]] = {
    "orthogonal": orthogonal_step,
    "projected": projected_step,
    "rows": rows_step,
    "none": free_step,
    "frobenius": frobenius_step,
    "frobenius_scaled": frobenius_scaled_step,
    "operator_norm": operator_norm_step,
    "scaled": scaled_step,
    "product": product_step,
}


@pytest.fixture(scope="session")
def train_numpy() -> Callable[..., Array]:
    """``train_numpy("frobenius", w1, w2, c, lr, steps, c1=1.0)``: the map m = W1ᵀW2 after plain training."""

    def train(
        kind: str,
        w1: Array,
        w2: Array,
        c: Array | list[Array],
        lr: float | list[float],
        steps: int,
        **options: float,
    ) -> Array:
        """c and lr may be lists, one entry per step: realised minibatches, schedules."""
        for k in range(steps):
            moment = c[k] if isinstance(c, list) else c
            w1, w2 = STEPS[kind](w1, w2, moment, lr[k] if isinstance(lr, list) else lr, **options)
        return w1.T @ w2

    return train


@pytest.fixture(scope="session")
def draw() -> Callable[..., tuple[Array, Array, Array]]:
    """``draw(h, d, z, seed)``: Haar weights (rows orthonormal where h < d) and a symmetric C with both signs."""

    def drawn(h: int, d: int, z: int, seed: int, *, gaussian: float = 0.0) -> tuple[Array, Array, Array]:
        rng = np.random.default_rng(seed)
        a = rng.standard_normal((d, d))
        c = -(a + a.T) / 4 - 0.3 * np.eye(d)
        w1, w2 = rng.standard_normal((h, d)), rng.standard_normal((h, z))
        if gaussian:
            return gaussian * w1, gaussian * w2, c
        return polar(w1), polar(w2), c

    return drawn


@pytest.fixture(scope="session")
def gaps(train_numpy: Callable[..., Array]) -> Callable[..., list[float]]:
    """``gaps(kind, w1, w2, c, m, time, steps)``: ‖m_trained − m‖_F for each number of steps over that time."""

    def measure(
        kind: str, w1: Array, w2: Array, c: Array, m: torch.Tensor, time: float, counts: tuple[int, ...],
        **options: float,
    ) -> list[float]:  # fmt: skip
        return [
            float(np.linalg.norm(train_numpy(kind, w1, w2, c, time / n, n, **options) - m.numpy()))
            for n in counts
        ]

    return measure


@pytest.fixture(scope="session")
def follow() -> Callable[..., torch.Tensor]:
    """``follow(flow, w1, w2, time, pieces)``: the flow's m after that time, advanced in so many pieces."""

    def advanced(flow: object, w1: Array, w2: Array, time: float, pieces: int = 1) -> torch.Tensor:
        state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))  # type: ignore[attr-defined]
        for _ in range(pieces):
            state = flow.advance(state, time / pieces)  # type: ignore[attr-defined]
        return state.m

    return advanced
