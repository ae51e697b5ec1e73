"""LeJEPA and NT-Xent through their exact flows, against independent reference values at t = 0.1."""

import numpy as np
import pytest
import torch

from sslmanifold.losses import lejepa_loss, ntxent_loss
from sslmanifold.theory import solve_loss

N, D, Z, H = 12, 4, 2, 6


def polar(w: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(w, full_matrices=False)
    return u @ vt


# L, m[0, 0], m[0, 1]: by DOP853 at rtol 1e-12 and by training extrapolated in the step, of losses written elsewhere
TABLE = [
    ("lejepa", 0.0, (0.193903574424, -0.277704838186, -0.611516479925)),
    ("lejepa", 1.0, (0.191976704247, -0.277865185575, -0.613395263814)),
    ("lejepa", 2.0, (0.189994929924, -0.278048402752, -0.615229291416)),
    ("ntxent", 0.0, (2.364730470377, -0.276416401660, -0.620968675302)),
    ("ntxent", 2.0, (2.324579966353, -0.276088572808, -0.633178583791)),
]


@pytest.mark.parametrize(("name", "kappa", "expected"), TABLE)
def test_reference_values(name: str, kappa: float, expected: tuple[float, ...]) -> None:
    i, j = np.arange(1.0, N + 1)[:, None], np.arange(1.0, D + 1)[None, :]
    x = np.sin(1.3 * i * j + i) * np.array([1.2, 1.0, 0.8, 0.6])
    u, v = torch.from_numpy(x), torch.from_numpy(x + 0.3 * np.cos(2 * i + 0.7 * i * j))
    a, b = np.arange(1.0, H + 1)[:, None], np.arange(1.0, Z + 1)[None, :]
    start = torch.from_numpy(polar(np.sin(0.9 * a * j + a)).T @ polar(np.cos(1.1 * a * b)))
    angle = np.pi * (np.arange(1, 5) - 0.5) / 4
    directions = torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)]))

    def loss(m: torch.Tensor) -> torch.Tensor:
        if name == "lejepa":
            return lejepa_loss(u @ m, v @ m, directions, weight=0.1)
        return ntxent_loss(u @ m, v @ m, normalize=False)

    end = solve_loss(loss, start, torch.tensor([0.1], dtype=torch.float64), kappa=kappa)
    found = (end.loss[-1].item(), end.m[-1][0, 0].item(), end.m[-1][0, 1].item())
    assert found == pytest.approx(expected, abs=1e-9)
