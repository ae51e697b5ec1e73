"""Deep linear nets with orthogonal layers: where the map's flow closes, and where it does not."""

import itertools

import numpy as np
import pytest
import torch

from sslmanifold.errors import UserError
from sslmanifold.theory import DeepLinearFlow, OrthogonalFlow


def polar(w: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(w, full_matrices=False)
    return u @ vt


def layers(widths: list[int], seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Orthonormal W_1 … W_L for widths (d, h_1, …, h_{L−1}, z), and C."""
    rng = np.random.default_rng(seed)
    *hidden, z = widths
    d = hidden[0]
    weights = [polar(rng.standard_normal((b, a))) for a, b in itertools.pairwise(hidden)]
    weights.append(polar(rng.standard_normal((hidden[-1], z))))
    a = rng.standard_normal((d, d))
    return weights, -(a + a.T) / 4 - 0.3 * np.eye(d)


def map_of(weights: list[np.ndarray]) -> np.ndarray:
    product = weights[0]
    for w in weights[1:-1]:
        product = w @ product
    return product.T @ weights[-1]


def trained(weights: list[np.ndarray], c: np.ndarray, lr: float, steps: int, kappa: float) -> np.ndarray:
    """Tangent steps with gradients by the chain rule, written out layer by layer."""
    weights = [w.copy() for w in weights]
    for _ in range(steps):
        below = [np.eye(weights[0].shape[1])]  # products W_{l−1} ⋯ W_1
        for w in weights[:-1]:
            below.append(w @ below[-1])
        m = below[-1].T @ weights[-1]
        cm2 = 2 * c @ m  # ∂L/∂m
        above = [weights[-1]]  # (W_{l+1})ᵀ ⋯ W_L, from the top
        for w in reversed(weights[1:-1]):
            above.append(w.T @ above[-1])
        above.reverse()
        gradients = [above[i] @ (below[i] @ cm2).T for i in range(len(weights) - 1)] + [below[-1] @ cm2]
        for i, g in enumerate(gradients):
            w = weights[i]
            wg = w.T @ g
            weights[i] = polar(w - lr * (g - w @ wg + kappa * w @ (wg - wg.T) / 2))
    return map_of(weights)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("widths", [[5, 9, 9, 2], [5, 7, 7, 7, 3], [5, 5, 5, 2]])
def test_training_converges_at_first_order(widths, kappa) -> None:
    weights, c = layers(widths, seed=sum(widths))
    flow = DeepLinearFlow(torch.from_numpy(c), len(weights), kappa)
    state = flow.start(*(torch.from_numpy(w) for w in weights))
    torch.testing.assert_close(state.m, torch.from_numpy(map_of(weights)), rtol=0, atol=1e-12)
    for _ in range(20):
        state = flow.advance(state, 0.3 / 20)
    errors = [
        np.linalg.norm(trained(weights, c, 0.3 / n, n, kappa) - state.m.numpy()) for n in (100, 200, 400)
    ]
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


def test_grassmann_does_not_see_depth_and_allows_tall_layers() -> None:
    weights, c = layers([5, 7, 9, 12, 2], seed=3)
    flow = DeepLinearFlow(torch.from_numpy(c), 4, 0.0)
    state = flow.start(*(torch.from_numpy(w) for w in weights))
    shallow = OrthogonalFlow(torch.from_numpy(c), 0.0)
    other = shallow.advance(state, 0.3)
    state = flow.advance(state, 0.3)
    torch.testing.assert_close(state.m, other.m, rtol=0, atol=1e-14)
    errors = [np.linalg.norm(trained(weights, c, 0.3 / n, n, 0.0) - state.m.numpy()) for n in (100, 200)]
    assert 1.9 < errors[0] / errors[1] < 2.1


def test_tall_layers_do_not_close_for_other_metrics() -> None:
    """Two nets with the same map and different hidden factors part ways: no flow of m alone exists."""
    weights, c = layers([4, 5, 9, 2], seed=5)
    rng = np.random.default_rng(0)
    # another factorisation of the same map: turn W_2's range while keeping W_2 W_1 and W_3
    first, second, last = weights
    o = polar(rng.standard_normal((5, 5)))
    free = second @ (np.eye(5) - first @ first.T)  # the part of W_2 that the map never uses
    basis = np.linalg.svd(np.eye(9) - second @ second.T)[0][:, :1]
    direction = np.linalg.svd(free)[2][:1]
    other = [first, second @ first @ first.T + basis @ direction, last]
    np.testing.assert_allclose(map_of(other), map_of(weights), atol=1e-12)
    assert o.shape == (5, 5)
    gap = np.linalg.norm(trained(weights, c, 1e-3, 200, 2.0) - trained(other, c, 1e-3, 200, 2.0))
    same = np.linalg.norm(trained(weights, c, 1e-4, 2000, 0.0) - trained(other, c, 1e-4, 2000, 0.0))
    assert gap > 20 * same
    with pytest.raises(UserError, match="square"):
        DeepLinearFlow(torch.from_numpy(c), 3, 2.0).start(*(torch.from_numpy(w) for w in weights))


def test_two_layers_are_the_shallow_flow_and_limits_agree() -> None:
    weights, c = layers([5, 9, 2], seed=7)
    tensors = [torch.from_numpy(w) for w in weights]
    a, b = DeepLinearFlow(torch.from_numpy(c), 2, 1.0), OrthogonalFlow(torch.from_numpy(c), 1.0)
    torch.testing.assert_close(
        a.advance(a.start(*tensors), 0.5).m, b.advance(b.start(*tensors), 0.5).m, rtol=0, atol=1e-14
    )
    deep, c = layers([5, 9, 9, 9, 2], seed=8)
    flow = DeepLinearFlow(torch.from_numpy(c), 4, 2.0)
    end = flow.advance(flow.start(*(torch.from_numpy(w) for w in deep)), 30.0)
    assert float(flow.loss(end)) == pytest.approx(float(flow.optimum(2, hidden=9)), abs=1e-8)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="depth=1"):
        DeepLinearFlow(torch.ones(3), 1)
    with pytest.raises(UserError, match="one per layer"):
        DeepLinearFlow(torch.ones(3), 3).start(torch.eye(3), torch.eye(3))
