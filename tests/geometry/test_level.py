"""Singular values lowered to a common level: against an SVD in NumPy, by optimality, and in the large."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslmanifold.geometry import haar, lower_to_level
from sslmanifold.geometry import level as module


def by_bisection(x: np.ndarray, budget: float) -> np.ndarray:
    """The same by an SVD and bisection on Σ (σ_i − ℓ)₊ = β ℓ."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    low, high = 0.0, s[0]
    for _ in range(200):
        middle = (low + high) / 2
        if np.maximum(s - middle, 0).sum() > budget * middle:
            low = middle
        else:
            high = middle
    return (u * np.minimum(s, high)) @ vt


def drawn(rows: int, cols: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, cols, dtype=torch.float64, generator=generator)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
    budget=st.floats(0, 20),
    tied=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_against_bisection(rows: int, cols: int, budget: float, tied: bool, seed: int) -> None:
    x = drawn(rows, cols, seed)
    if tied:
        u, s, vt = torch.linalg.svd(x, full_matrices=False)
        x = (u * s.clamp(max=float(s.median()))) @ vt
    y = lower_to_level(x, torch.tensor(budget, dtype=torch.float64))
    np.testing.assert_allclose(y.numpy(), by_bisection(x.numpy(), budget), atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(budget=st.floats(0.01, 5), seed=st.integers(0, 10**6))
def test_nothing_nearby_is_better(budget: float, seed: int) -> None:
    """It minimises ½‖Y − X‖_F² + ½β‖Y‖₂², a strictly convex function: no perturbation lowers it."""
    x = drawn(7, 4, seed)

    def cost(y: torch.Tensor) -> float:
        return float(0.5 * (y - x).square().sum() + 0.5 * budget * torch.linalg.matrix_norm(y, 2) ** 2)

    y = lower_to_level(x, torch.tensor(budget, dtype=torch.float64))
    for size in (1e-3, 1e-1):
        for trial in range(5):
            assert cost(y + size * drawn(7, 4, seed + trial + 1)) >= cost(y)


def test_no_budget_changes_nothing() -> None:
    x = drawn(300, 280, 1)
    torch.testing.assert_close(lower_to_level(x, torch.zeros((), dtype=torch.float64)), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wide", [False, True])
def test_a_batch_is_its_members(wide: bool) -> None:
    x = torch.stack([drawn(6, 4, seed) for seed in range(6)]).reshape(2, 3, 6, 4)
    x = x.mT if wide else x
    budget = torch.linspace(0, 1, 6, dtype=torch.float64).reshape(2, 3)
    y = lower_to_level(x, budget)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(y[i, j], lower_to_level(x[i, j], budget[i, j]))


def spectrum(kind: str) -> torch.Tensor:
    """Haar with a step of rank 10 (what training makes), a smooth spectrum, and one with every value tied."""
    x = haar(320, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if kind == "step":
        return x + 0.02 * drawn(320, 10, 2) @ drawn(10, 300, 3) / 30
    return x if kind == "tied" else drawn(320, 300, 4) / 30


@pytest.mark.parametrize("kind", ["step", "smooth", "tied"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_matrices_as_small_ones(kind: str, dtype: torch.dtype) -> None:
    """Above the dense size: the Krylov space where it suffices, the dense solution where the certificate fails."""
    x, budget = spectrum(kind), torch.tensor([0.0, 0.2], dtype=torch.float64)
    y = lower_to_level(x.expand(2, -1, -1).to(dtype), budget.to(dtype)).double()
    # of a smooth spectrum, values less than 1e-4 above the level may stay
    rounding = 1e-12 if dtype == torch.float64 else 2e-6
    for index in range(2):
        exact = torch.from_numpy(by_bisection(x.numpy(), float(budget[index])))
        error = torch.linalg.matrix_norm(y[index] - exact, 2) / torch.linalg.matrix_norm(exact, 2)
        assert float(error) < (2e-4 if kind == "smooth" else rounding)


def test_the_krylov_space_is_used_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("a dense solution was asked for")

    monkeypatch.setattr(module, "_lower_dense", refuse)
    lower_to_level(spectrum("step"), torch.tensor(0.2, dtype=torch.float64))
    with pytest.raises(AssertionError, match="dense"):
        lower_to_level(spectrum("smooth"), torch.tensor(40.0, dtype=torch.float64))


def test_float16_comes_back_as_float16() -> None:
    y = lower_to_level(drawn(5, 3, 0).half(), torch.tensor(0.5))
    assert y.dtype == torch.float16
