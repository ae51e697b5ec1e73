"""C's spectrum is found once a matrix, and never that of another or of former contents."""

import gc

import pytest
import torch

from sslmanifold.theory import eigenbasis, eigenvalues
from sslmanifold.theory import moment_spectrum as module


def matrix(seed: int = 0, d: int = 6) -> torch.Tensor:
    a = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return a + a.mT


def test_it_is_numpys_and_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    c = matrix()
    values, (lam, v) = eigenvalues(c), eigenbasis(c)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(c.numpy()), atol=1e-13)
    torch.testing.assert_close(v * lam @ v.mT, c, rtol=0, atol=1e-13)
    monkeypatch.setattr(torch.linalg, "eigvalsh", None)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    assert eigenvalues(c) is values
    assert eigenbasis(c)[1] is v


def test_a_write_is_noticed_and_a_twin_is_another() -> None:
    c = matrix()
    before, basis = eigenvalues(c), eigenbasis(c)
    c.mul_(2)
    torch.testing.assert_close(eigenvalues(c), 2 * before)
    torch.testing.assert_close(eigenbasis(c)[0], 2 * basis[0])
    twin = c.clone().neg_()
    torch.testing.assert_close(eigenvalues(twin), -2 * before.flip(-1))
    with torch.inference_mode():
        inferred = c.clone()
        first = eigenvalues(inferred)
        inferred.mul_(3)
        torch.testing.assert_close(eigenvalues(inferred), 3 * first)


def test_it_goes_with_the_matrix() -> None:
    c = matrix()
    kept = len(module._found)
    eigenvalues(c)
    assert len(module._found) == kept + 1
    del c
    gc.collect()
    assert len(module._found) <= kept


def test_it_stays_differentiable() -> None:
    c = matrix().requires_grad_()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(eigenvalues(c)[0], c)
        v = eigenbasis(c)[1][:, 0].detach()
        torch.testing.assert_close(gradient, torch.outer(v, v))


def test_one_run_asks_for_two(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its learning rate, optimum, predictions, limit and flow: the eigenvalues once, the eigenvectors once."""
    from sslmanifold import train

    asked: list[str] = []
    train(
        data="half_moons", trainer={"max_steps": 1}, run_dir=tmp_path / "imports"
    )  # torchvision compiles functions
    for name in ("eigvalsh", "eigh"):
        of = getattr(torch.linalg, name)

        def counted(a, *rest, of=of, name=name, **options):
            if a.shape[-1] == 64:
                asked.append(name)
            return of(a, *rest, **options)

        monkeypatch.setattr(torch.linalg, name, counted)
    train(data="digits", trainer={"max_steps": 30}, run_dir=tmp_path / "run")
    assert sorted(asked) == ["eigh", "eigvalsh"]
