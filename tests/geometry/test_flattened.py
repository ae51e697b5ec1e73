"""A kernel read as a matrix: the base manifold's own numbers, whatever the shape, the blocks and the layout."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import geoopt
import pytest
import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.geometry import (
    Flattened,
    FrobeniusBall,
    ManifoldParameter,
    RiemannianAdam,
    RiemannianSGD,
    SpectralBall,
    Stiefel,
    residual,
)

BASES = {
    "stiefel": lambda: Stiefel("euclidean"),
    "canonical": lambda: Stiefel("canonical", retraction="cayley"),
    "grassmann": lambda: Stiefel("grassmann"),
    "spectral": lambda: SpectralBall(1.2),
    "frobenius": lambda: FrobeniusBall(1.2),
    "geoopt canonical": lambda: geoopt.CanonicalStiefel(),
    "geoopt euclidean": lambda: geoopt.EuclideanStiefel(),
    "rows": lambda: geoopt.Sphere(),
}
#: Tall, wide and, by blocks, both: conv in the plane, on a line, in space; a stack of matrices.
SHAPES = [(20, 3, 2, 2), (8, 3, 2, 2), (12, 2, 5), (4, 2, 2, 2, 2), (6, 5)]


def by_hand(x: Tensor, base: Any, shape: tuple[int, ...], blocks: int) -> Tensor:
    """What the base is to see, by reshapes alone: (batch·g, n, p), n ≥ p for manifolds of matrices."""
    m = x.reshape(-1, shape[0] // blocks, torch.Size(shape[1:]).numel())
    return m.mT if base.ndim == 2 and m.shape[-2] < m.shape[-1] else m


def back(m: Tensor, base: Any, shape: tuple[int, ...], blocks: int) -> Tensor:
    wide = base.ndim == 2 and shape[0] // blocks < torch.Size(shape[1:]).numel()
    return (m.mT if wide else m).reshape(-1, *shape)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", BASES)
def test_every_method_is_the_bases(name: str, shape: tuple[int, ...], blocks: int) -> None:
    base = BASES[name]()
    manifold = Flattened(base, ndim=len(shape), blocks=blocks)
    generator = torch.Generator().manual_seed(0)
    raw, g, h = (torch.randn(3, *shape, generator=generator, dtype=torch.float64) for _ in range(3))

    def expected(method: Callable[..., Any], *tensors: Tensor) -> Any:
        out = method(*(by_hand(t, base, shape, blocks) for t in tensors))
        if isinstance(out, tuple):
            return tuple(back(t, base, shape, blocks) for t in out)
        return back(out, base, shape, blocks)

    x = manifold.projx(raw)
    torch.testing.assert_close(x, expected(base.projx, raw))
    assert float(manifold.residual(x).amax()) < 1e-10
    assert manifold.residual(raw).shape == (3,)
    torch.testing.assert_close(
        manifold.residual(raw), residual(by_hand(raw, base, shape, blocks), base).reshape(3, -1).amax(-1)
    )
    u, v = manifold.egrad2rgrad(x, g), manifold.proju(x, h)
    torch.testing.assert_close(u, expected(base.egrad2rgrad, x, g))
    torch.testing.assert_close(v, expected(base.proju, x, h))
    step = -0.1 * u
    y = manifold.retr(x, step)
    for method, tensors in (
        ("retr", (x, step)), ("transp", (x, y, v)), ("retr_transp", (x, step, v)), ("expmap", (x, step)),
        ("expmap_transp", (x, step, v)), ("transp_follow_retr", (x, step, v)), ("transp_follow_expmap", (x, step, v)),
    ):  # fmt: skip
        try:
            wanted = expected(getattr(base, method), *tensors)
        except NotImplementedError:  # geoopt's canonical manifold has no free transport
            with pytest.raises(NotImplementedError):
                getattr(manifold, method)(*tensors)
            continue
        torch.testing.assert_close(getattr(manifold, method)(*tensors), wanted)
    # inner products: one number a kernel, and one a point of the base that broadcasts with the kernel
    parts = base.inner(*(by_hand(t, base, shape, blocks) for t in (x, u, v))).reshape(3, -1)
    torch.testing.assert_close(manifold.inner(x, u, v), parts.sum(-1))
    assert manifold.inner(x, u, v, keepdim=True).shape == (3, *(1 for _ in shape))
    torch.testing.assert_close(manifold.norm(x, u), manifold.inner(x, u).clamp_min(0).sqrt())
    assert manifold.norm(x, u, keepdim=True).shape == (3, *(1 for _ in shape))
    component = manifold.component_inner(x, u, v)
    if isinstance(base, geoopt.Euclidean):
        torch.testing.assert_close(component, u * v)
    else:
        rows_each = shape[0] // parts.shape[-1]
        each = parts.repeat_interleave(rows_each, -1).reshape(3, -1, *(1 for _ in shape[1:]))
        torch.testing.assert_close(component.expand(3, shape[0], *(1 for _ in shape[1:])), each)
    assert manifold.check_point_on_manifold(x)
    assert not manifold.check_point_on_manifold(3 * raw + 3)
    assert manifold.check_vector_on_tangent(x, v)


def channels_last(x: Tensor) -> Tensor:
    """The same kernels (…, out, in, h, w), in memory (…, out, h, w, in)."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


@pytest.mark.parametrize("name", ["stiefel", "grassmann", "canonical", "spectral", "frobenius"])
@pytest.mark.parametrize("shape", [(20, 3, 2, 2), (8, 3, 2, 2)], ids=str)
def test_channels_last_kernels_take_the_same_step(name: str, shape: tuple[int, ...]) -> None:
    manifold = Flattened(BASES[name](), ndim=4)
    x = manifold.projx(torch.randn(shape, dtype=torch.float64)).contiguous()
    g = torch.randn(shape, dtype=torch.float64)
    turned = channels_last(x)
    assert not turned.is_contiguous()
    u = manifold.egrad2rgrad(turned, channels_last(g))
    torch.testing.assert_close(u, manifold.egrad2rgrad(x, g))
    torch.testing.assert_close(manifold.egrad2rgrad(turned, g), u)
    torch.testing.assert_close(manifold.retr(turned, -0.1 * u), manifold.retr(x, -0.1 * u))


def test_reading_and_writing_are_views() -> None:
    manifold = Flattened(Stiefel("euclidean"))
    for kernel in (torch.randn(8, 3, 2, 2), channels_last(torch.randn(8, 3, 2, 2)), torch.randn(30, 3, 2, 2)):
        matrix = manifold.matrices(kernel)
        assert matrix.shape[-2] >= matrix.shape[-1]
        assert matrix.data_ptr() == kernel.data_ptr()
        point = manifold.projx(kernel).clone(memory_format=torch.preserve_format)
        new = manifold.gradient_step(point, torch.randn_like(point), 0.1)
        out = kernel.copy_(point)
        assert manifold.gradient_step(out, torch.zeros_like(out), 0.1, out=out) is out
        torch.testing.assert_close(out, point)
        assert float(residual(new, manifold)) < 1e-5


def test_a_step_written_in_place_is_the_step() -> None:
    manifold = Flattened(Stiefel("euclidean"))
    x = manifold.projx(torch.randn(8, 3, 2, 2, dtype=torch.float64)).contiguous()
    g = torch.randn_like(x)
    wanted = manifold.retr(x, -0.1 * manifold.egrad2rgrad(x, g))
    torch.testing.assert_close(manifold.gradient_step(x, g, 0.1), wanted)
    odd = x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)  # no view of it is a matrix
    for start in (x, channels_last(x), odd):
        out = start.clone(memory_format=torch.preserve_format)
        manifold.gradient_step(out, g, 0.1, out=out)
        torch.testing.assert_close(out, wanted)


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": lambda p: RiemannianSGD(p, lr=0.05),
    "momentum": lambda p: RiemannianSGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "clipped": lambda p: RiemannianSGD(p, lr=0.05, max_norm=0.3),
    "adam": lambda p: RiemannianAdam(p, lr=0.05),
    "amsgrad": lambda p: RiemannianAdam(p, lr=0.05, amsgrad=True),
    "geoopt sgd": lambda p: geoopt.optim.RiemannianSGD(p, lr=0.05, momentum=0.9),
    "geoopt adam": lambda p: geoopt.optim.RiemannianAdam(p, lr=0.05),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["stiefel", "canonical", "spectral", "frobenius"])
def test_optimizers_step_a_kernel_as_its_matrix(name: str, optimizer: str) -> None:
    """The trajectory of a wide kernel and of a tall one is that of the matrices, in one optimizer."""
    generator = torch.Generator().manual_seed(1)
    for shape in ((8, 3, 2, 2), (20, 3, 2, 2)):
        base = BASES[name]()
        goal = torch.randn(shape, generator=generator, dtype=torch.float64)
        kernel = ManifoldParameter(goal.roll(1), Flattened(base), project=True)
        matrix = ManifoldParameter(kernel.detach().flatten(1).clone(), base)
        for point in (kernel, matrix):
            stepping = OPTIMIZERS[optimizer]([point])
            for _ in range(12):
                stepping.zero_grad()
                ((point - goal.reshape(point.shape)) ** 2).sum().backward()
                stepping.step()
        torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach(), rtol=1e-9, atol=1e-11)


def test_blocks_learn_each_by_itself() -> None:
    """The v of Adam is one number a block: the blocks take the steps that they would take alone."""
    base = Stiefel("euclidean")
    goal = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    goal[:4] *= 100
    stack = ManifoldParameter(goal.roll(1, 0), Flattened(base, ndim=2, blocks=3), project=True)
    single = [ManifoldParameter(part.clone(), base) for part in stack.detach().split(4)]
    for points, goals in (([stack], [goal]), (single, goal.split(4))):
        optimizer = RiemannianAdam(points, lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            sum(((p - t) ** 2).sum() for p, t in zip(points, goals, strict=True)).backward()
            optimizer.step()
    torch.testing.assert_close(stack.detach(), torch.cat([p.detach() for p in single]))


def test_draws_are_points() -> None:
    for manifold, shape in (
        (Flattened(Stiefel()), (8, 3, 2, 2)),
        (Flattened(Stiefel(), blocks=2), (8, 3, 2, 2)),
        (Flattened(SpectralBall(0.5), ndim=3), (4, 6, 3)),
    ):
        drawn = manifold.random(*shape)
        assert drawn.shape == shape
        assert drawn.is_contiguous()
        assert float(residual(drawn, manifold)) < 1e-6
    first = Flattened(Stiefel()).origin(4, 3, 2, 2)
    torch.testing.assert_close(first.flatten(1), torch.eye(4, 12))


def test_copies_and_pickles_keep_the_manifold() -> None:
    point = ManifoldParameter(
        torch.randn(8, 3, 2, 2), Flattened(Stiefel("canonical"), blocks=2), project=True
    )
    for again in (copy.deepcopy(point), pickle.loads(pickle.dumps(point))):
        assert torch.equal(again, point)
        assert repr(again.manifold) == repr(point.manifold)
        assert again.manifold.blocks == 2


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(UserError, match=r"no manifold of matrices or rows: write Flattened\(Stiefel\(\)"):
        Flattened(geoopt.Euclidean())
    with pytest.raises(UserError, match="no manifold of matrices"):
        Flattened(Flattened(Stiefel()))
    with pytest.raises(UserError, match="at least one block"):
        Flattened(Stiefel(), blocks=0)
    with pytest.raises(UserError, match="its 8 rows are not 3 blocks"):
        ManifoldParameter(torch.randn(8, 3, 2, 2), Flattened(Stiefel(), blocks=3), project=True)
    with pytest.raises(UserError, match="requires more than 4 dim"):
        ManifoldParameter(torch.randn(8, 3), Flattened(Stiefel()), project=True)
