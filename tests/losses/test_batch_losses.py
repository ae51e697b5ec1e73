"""NT-Xent, VICReg, Barlow Twins, alignment + uniformity and LeJEPA against lightly, loops, and what they promise."""

import itertools
import math
from collections.abc import Callable

import hypothesis.strategies as st
import lightly.loss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from lightly.loss.lejepa_loss import SIGReg
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.losses import (
    AlignUniform,
    BarlowTwins,
    LeJEPA,
    NTXent,
    VICReg,
    align_uniform_loss,
    barlow_linear_loss,
    barlow_loss,
    crowd,
    lejepa_loss,
    ntxent_loss,
    sigreg,
    vicreg_loss,
)
from sslmanifold.losses.lejepa import slices
from sslmanifold.theory import pair_correlation
from sslmanifold.theory.stepwise import stepwise_loss

LOSSES = [NTXent(), NTXent(normalize=False), VICReg(), BarlowTwins(), AlignUniform(), LeJEPA(slices=5)]
LOSSES += [AlignUniform(alpha=3.0, t=1.0, weight=0.5, normalize=False)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def views_of(seed: int = 0, n: int = 8, z: int = 3, p: int = 1) -> tuple[Tensor, Tensor]:
    """Anchors (n, z), and their positives near them."""
    u = draw(n, z, seed=seed)
    return u, (u[:, None] + 0.3 * draw(n, p, z, seed=seed + 1)).squeeze(1)


# -- against lightly ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_ntxent_is_lightlys(seed: int, temperature: float) -> None:
    u, v = views_of(seed, n=12)
    expected = lightly.loss.NTXentLoss(temperature=temperature)(u, v)
    torch.testing.assert_close(ntxent_loss(u, v, temperature=temperature), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 2.0, 3.0)])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_vicreg_is_lightlys(weights: tuple[float, float, float], scale: float) -> None:
    u, v = (scale * t for t in views_of(1, n=12))
    expected = lightly.loss.VICRegLoss(*weights)(u, v)
    found = vicreg_loss(u, v, **dict(zip(("invariance", "variance", "covariance"), weights, strict=True)))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("redundancy", [5e-3, 0.5])
def test_barlow_is_lightlys(redundancy: float) -> None:
    u, v = views_of(2, n=12)
    expected = lightly.loss.BarlowTwinsLoss(lambda_param=redundancy)(u, v)
    torch.testing.assert_close(barlow_loss(u, v, redundancy=redundancy), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("p", [1, 3])
def test_lejepa_is_lightlys(p: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same directions; to float32, in which lightly holds its nodes."""
    u, v = views_of(3, n=12, p=p)
    directions = slices(3, 7, seed=5, step=2)
    monkeypatch.setattr(SIGReg, "_generate_unit_vectors", lambda *_: directions)
    reference = lightly.loss.LeJEPALoss(lambda_param=0.1)
    everything = torch.cat([u[None], v[None] if v.ndim == 2 else v.movedim(1, 0)])
    expected = reference(local_proj=everything[:1], global_proj=everything)  # all views global, one twice
    own = everything[[*range(p + 1), 0]]
    term = 0.9 * (everything - everything.mean(0)).square().sum() / everything[0].numel() / (p + 1)
    doubled = 0.9 * (own - everything.mean(0)).square().mean()
    sig = sigreg(everything, directions)
    torch.testing.assert_close(doubled + 0.1 * sig[[*range(p + 1), 0]].mean(), expected, rtol=1e-6, atol=0)
    found = lejepa_loss(u, v, directions, weight=0.1)
    torch.testing.assert_close(found, term + 0.1 * sig.mean(), rtol=1e-12, atol=0)


# -- against loops --------------------------------------------------------------------------------------


def stacked(u: Tensor, v: Tensor) -> np.ndarray:
    return torch.cat([u[:, None], v.reshape(len(u), -1, u.shape[-1])], 1).movedim(1, 0).numpy()  # (V, n, z)


def test_ntxent_of_many_views_term_by_term() -> None:
    u, v = views_of(4, n=5, p=3)
    points = stacked(u, v)
    points = points / np.linalg.norm(points, axis=-1, keepdims=True)
    names = list(itertools.product(range(4), range(5)))
    terms = []
    for w, i in names:
        denominator = sum(math.exp(points[w, i] @ points[other] / 0.2) for other in names if other != (w, i))
        terms += [
            -math.log(math.exp(points[w, i] @ points[k, i] / 0.2) / denominator) for k in range(4) if k != w
        ]
    assert ntxent_loss(u, v, temperature=0.2).item() == pytest.approx(np.mean(terms), rel=1e-12)


@pytest.mark.parametrize("kind", [vicreg_loss, barlow_loss])
def test_many_views_are_the_mean_over_pairs_of_views(kind: Callable[..., Tensor]) -> None:
    u, v = views_of(5, n=6, p=2)
    each = torch.from_numpy(stacked(u, v))
    pairs = [kind(each[i], each[j]) for i, j in itertools.combinations(range(3), 2)]
    torch.testing.assert_close(kind(u, v), torch.stack(pairs).mean(), rtol=1e-12, atol=0)


def test_linear_barlow_is_the_loss_of_stepwise_learning() -> None:
    """Of a linear map ‖mᵀΓm − I‖², Γ by NumPy; of many views with the mean of their Γ; with replicas."""
    x, x_pos = views_of(9, n=7, p=2)
    each = stacked(x, x_pos)
    gammas = [
        (each[i].T @ each[j] + each[j].T @ each[i]) / 14 for i, j in itertools.combinations(range(3), 2)
    ]
    m = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 2)))
    for chosen, positives in ((gammas[:1], x_pos[:, 0]), (gammas, x_pos)):
        gamma = np.mean(chosen, axis=0)
        expected = [np.square(one.T @ gamma @ one - np.eye(2)).sum() for one in m.numpy()]
        v = (positives.flatten(0, -2) @ m).unflatten(-2, positives.shape[:-1])
        np.testing.assert_allclose(barlow_linear_loss(x @ m, v), expected, rtol=1e-12)
    torch.testing.assert_close(
        stepwise_loss(pair_correlation(x, x_pos[:, 0]), m), barlow_linear_loss(x @ m, x_pos[:, 0] @ m)
    )


@pytest.mark.parametrize(("alpha", "t", "weight", "normalize"), [(2, 2, 1, True), (1.5, 0.7, 0.3, False)])
def test_align_uniform_term_by_term(alpha: float, t: float, weight: float, normalize: bool) -> None:
    """With torch.pdist, as the authors print it."""
    u, v = views_of(6, n=7, p=2)
    each = torch.from_numpy(stacked(u, v))
    if normalize:
        each = each / each.norm(dim=-1, keepdim=True)
    align = [
        (each[i] - each[j]).norm(dim=1).pow(alpha).mean() for i, j in itertools.combinations(range(3), 2)
    ]
    uniform = [torch.pdist(x).pow(2).mul(-t).exp().mean().log() for x in each]
    expected = torch.stack(align).mean() + weight * torch.stack(uniform).mean()
    found = align_uniform_loss(u, v, alpha=alpha, t=t, weight=weight, normalize=normalize)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_sigreg_at_the_nodes() -> None:
    """17 nodes t = 0…3, trapezoid weights of −3…3, Gaussian window; a cosine and a sine at each."""
    u, directions = draw(9, 3), slices(3, 4, 0, 0)
    statistic = 0.0
    for k in range(17):
        t = 3 * k / 16
        phase = torch.exp(1j * t * (u @ directions)).mean(0) - math.exp(-(t**2) / 2)
        statistic += (3 / 16 if k in (0, 16) else 6 / 16) * math.exp(-(t**2) / 2) * phase.abs().square()
    torch.testing.assert_close(sigreg(u, directions), 9 * statistic.mean(), rtol=1e-12, atol=0)  # type: ignore[union-attr]


# -- what all of them promise ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_replicas_are_runs_of_their_own(loss: Callable[..., Tensor]) -> None:
    u, v = draw(2, 3, 6, 2), draw(2, 3, 6, 2, 2, seed=1)
    one_by_one = torch.stack([torch.stack([loss(u[a, b], v[a, b]) for b in range(3)]) for a in range(2)])
    torch.testing.assert_close(loss(u, v), one_by_one, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss(u, v[..., 0, :]), loss(u, v[..., :1, :]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [2**20, 24])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradients_and_curvatures_are_correct(
    loss: Callable[..., Tensor], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "_BLOCK", block)
    u, v = draw(2, 4, 2).requires_grad_(), draw(2, 4, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(loss, (u, v))
    assert torch.autograd.gradgradcheck(loss, (u, v))


def test_blocks_of_the_table_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points, shift = draw(2, 11, 3).requires_grad_(), draw(2, 11, seed=1).requires_grad_()
    results = []
    for block in (2**20, 50):
        monkeypatch.setattr(crowd, "_BLOCK", block)
        value = crowd.log_sum_exp_of_others(points, 1.7, shift)
        results.append((value, *torch.autograd.grad(value.square().sum(), (points, shift))))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def rotation(z: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw(z, z, seed=seed)).Q


Change = Callable[[Tensor, int], Tensor]
CHANGES: dict[str, Change] = {
    "rotation": lambda x, seed: x @ rotation(x.shape[-1], seed),
    "signs": lambda x, seed: x * draw(x.shape[-1], seed=seed).sign(),
    "permutation": lambda x, seed: x.roll(1 + seed % 2, dims=-1),
    "shift": lambda x, seed: x + draw(x.shape[-1], seed=seed),
    "scale": lambda x, seed: x * draw(x.shape[-1], seed=seed).exp(),
    "lengths": lambda x, seed: x * draw(*x.shape[:-1], 1, seed=seed).exp(),
    "minus": lambda x, seed: -x,
}
INVARIANT = {
    NTXent: {"rotation", "signs", "permutation", "lengths", "minus"},
    VICReg: {"signs", "permutation", "shift", "minus"},
    BarlowTwins: {"signs", "permutation", "shift", "scale", "minus"},
    AlignUniform: {"rotation", "signs", "permutation", "lengths", "minus"},
    LeJEPA: {"minus"},
}


@given(seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", INVARIANT, ids=lambda kind: kind.name)
def test_what_a_loss_does_not_see(kind: type, change: str, seed: int) -> None:
    loss = kind(eps=1e-12) if kind is BarlowTwins else kind()
    u, v = views_of(seed)
    before, after = loss(u, v), loss(CHANGES[change](u, seed), CHANGES[change](v, seed))
    if change in INVARIANT[kind]:
        torch.testing.assert_close(after, before, rtol=1e-7, atol=1e-9)
    elif change != "signs":  # drawn alike, they are a minus
        assert (after - before).abs() > 1e-9


def test_without_the_sphere_distances_are_all_that_is_seen() -> None:
    u, v = views_of()
    loss, shift, turn = AlignUniform(normalize=False), draw(3), rotation(3, 0)
    torch.testing.assert_close(loss(u @ turn + shift, v @ turn + shift), loss(u, v))
    inner = NTXent(normalize=False)
    torch.testing.assert_close(inner(u @ turn, v @ turn), inner(u, v))
    assert (inner(2 * u, 2 * v) - inner(u, v)).abs() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_collapsed_embeddings_give_finite_numbers(
    loss: Callable[..., Tensor], value: float, dtype: torch.dtype
) -> None:
    u = torch.full((2, 6, 3), value, dtype=dtype, requires_grad=True)
    found = loss(u, u)
    (gradient,) = torch.autograd.grad(found.sum(), u)
    assert found.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_one_anchor_is_served_or_refused(loss: Callable[..., Tensor]) -> None:
    u, v = draw(2, 1, 3).requires_grad_(), draw(2, 1, 3, seed=1)
    if isinstance(loss, NTXent | LeJEPA):
        assert loss(u, v).isfinite().all()
        if isinstance(loss, NTXent):
            torch.testing.assert_close(loss(u, v), torch.zeros(2, dtype=u.dtype))
    else:
        with pytest.raises(UserError, match="data.batch_size"):
            loss(u, v)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: NTXent(temperature=0.0), "loss.temperature"),
        (lambda: VICReg(eps=0.0), "loss.eps"),
        (lambda: VICReg(variance=-1.0), "loss.variance"),
        (lambda: BarlowTwins(redundancy=float("nan")), "loss.redundancy"),
        (lambda: AlignUniform(alpha=0.5), "loss.alpha"),
        (lambda: LeJEPA(weight=1.5), "loss.weight"),
        (lambda: LeJEPA(slices=0), "loss.slices"),
        (lambda: LeJEPA(draw="never"), "loss.draw"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_named(make: Callable[[], object], key: str) -> None:
    with pytest.raises(UserError, match=key):
        make()


# -- slices ---------------------------------------------------------------------------------------------


def test_slices_are_a_function_of_seed_and_step() -> None:
    u, v = views_of()
    loss = LeJEPA(seed=3)
    assert loss.at(4)(u, v) == LeJEPA(seed=3).at(4)(u, v)
    assert loss.at(4)(u, v) != loss.at(5)(u, v)
    assert loss.at(4)(u, v) != LeJEPA(seed=4).at(4)(u, v)
    assert loss(u, v) == loss.at(0)(u, v)
    fixed = LeJEPA(seed=3, draw="fixed")
    assert fixed.at(4)(u, v) == fixed.at(5)(u, v) == loss.at(0)(u, v)


def test_slices_are_uniform_on_the_sphere() -> None:
    drawn = slices(3, 20_000, 0, 0)
    torch.testing.assert_close(drawn.norm(dim=0), torch.ones(20_000, dtype=torch.float64))
    assert drawn.mean(1).abs().max() < 0.02
    assert (drawn @ drawn.T / 20_000 - torch.eye(3, dtype=torch.float64) / 3).abs().max() < 0.02


def test_sigreg_is_small_for_a_gaussian_and_large_for_a_collapsed_one() -> None:
    """For a standard Gaussian the statistic's mean is Σ w (1 − e^{−t²}), whatever n."""
    directions = slices(2, 16, 0, 0)
    nodes = torch.arange(1, 17, dtype=torch.float64) * 3 / 16
    weights = torch.full((16,), 6 / 16, dtype=torch.float64) * torch.exp(-nodes.square() / 2)
    weights[-1] /= 2
    expected = (weights * (1 - torch.exp(-nodes.square()))).sum()
    found = sigreg(draw(400, 500, 2), directions)
    assert found.mean().item() == pytest.approx(expected.item(), rel=0.1)
    flat = draw(400, 500, 2) * torch.tensor([1.0, 0.0])
    assert sigreg(flat, directions).mean() > 20 * expected
