"""Any loss: the reference table, training extrapolated in its step on unseen inputs, laws, and mistakes."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory import loss_velocity, orthogonal_flow, solve, solve_loss
from sslmanifold.theory.velocities import frame_flow, loss_frame_flow

LOSSES = ("NT-Xent", "spectral", "Barlow", "SIGReg", "squared", "quadratic")

# loss, layers, κ, then L, m[0,0], m[0,1] at t = 0.1
TABLE = [
    ("NT-Xent", 2, 0.0, 2.364730470377, -0.276416401660, -0.620968675302),
    ("NT-Xent", 2, 1.0, 2.345261227243, -0.276103789736, -0.627142965823),
    ("NT-Xent", 2, 2.0, 2.324579966353, -0.276088572808, -0.633178583791),
    ("NT-Xent", 1, 1.0, 2.211714709013, 0.689222904232, 0.261302348833),
    ("spectral", 2, 0.0, -1.179082692505, -0.290141318181, -0.631641719053),
    ("spectral", 2, 1.0, -1.202214545881, -0.290353729845, -0.640403482807),
    ("spectral", 2, 2.0, -1.226481885011, -0.290701713305, -0.648717556341),
    ("spectral", 1, 1.0, -1.271092514679, 0.687855577676, 0.264784622006),
    ("Barlow", 2, 0.0, 0.063108736146, -0.268222394898, -0.605372491769),
    ("Barlow", 2, 1.0, 0.062206012811, -0.265673327373, -0.606386608388),
    ("Barlow", 2, 2.0, 0.061306975843, -0.263108472464, -0.607389679131),
    ("Barlow", 1, 1.0, 0.041769048580, 0.662232188937, 0.231391193504),
    ("SIGReg", 2, 0.0, 0.193903574424, -0.277704838186, -0.611516479925),
    ("SIGReg", 2, 1.0, 0.191976704247, -0.277865185575, -0.613395263814),
    ("SIGReg", 2, 2.0, 0.189994929924, -0.278048402752, -0.615229291416),
    ("SIGReg", 1, 1.0, 0.143864489459, 0.669748777263, 0.238739077259),
    ("squared", 2, 1.0, 0.064240131170, -0.270684567039, -0.605490806307),
    ("squared", 1, 1.0, 0.082073224650, 0.658731689342, 0.227963189671),
]


@pytest.mark.parametrize("method", ["auto", "lifted_rk4"])
@pytest.mark.parametrize(("name", "layers", "kappa", "loss", "m00", "m01"), TABLE)
def test_reference_table(written, name, layers, kappa, loss, m00, m01, method) -> None:
    if method == "lifted_rk4" and kappa != 1:
        pytest.skip("one κ is enough for the second method")
    a, b = written.data
    w1, w2, head = written.weights
    m0 = torch.from_numpy(head if layers == 1 else w1.T @ w2)
    solved = solve_loss(written.of_map(name, a, b), m0, [0.1], kappa=kappa, layers=layers, method=method)
    assert float(solved.loss[0]) == pytest.approx(loss, abs=1e-11)
    assert float(solved.m[0, 0, 0]) == pytest.approx(m00, abs=1e-11)
    assert float(solved.m[0, 0, 1]) == pytest.approx(m01, abs=1e-11)


def polar(w: Tensor) -> Tensor:
    u, _, vt = torch.linalg.svd(w, full_matrices=False)
    return u @ vt


def trained(loss: Callable, weights: Sequence[Tensor], time: float, steps: int, kappa: float) -> Tensor:
    """m after gradient descent on the weights by autograd: tangent step −[(I − WWᵀ)G + κ W skew(WᵀG)], then polar."""

    def chain(ws: Sequence[Tensor]) -> Tensor:
        product = ws[0].mT
        for w in ws[1:-1]:
            product = product @ w.mT
        return product @ ws[-1] if len(ws) > 1 else ws[0]

    now = [w.clone() for w in weights]
    for _ in range(steps):
        points = [w.requires_grad_() for w in now]
        grads = torch.autograd.grad(loss(chain(points)).sum(), points)
        now = []
        for w, g in zip(points, grads, strict=True):
            w, k = w.detach(), w.detach().mT @ g
            now.append(polar(w - time / steps * (g - w @ k + kappa * w @ (k - k.mT) / 2)))
    return chain(now)


def extrapolated(loss: Callable, weights: Sequence[Tensor], time: float, kappa: float) -> Tensor:
    """Training with 8, 16, …, 256 steps, its error's powers of the step taken off one by one (Romberg)."""
    row = [trained(loss, weights, time, 8 * 2**k, kappa) for k in range(6)]
    power = 1
    while len(row) > 1:
        row = [(2**power * b - a) / (2**power - 1) for a, b in itertools.pairwise(row)]
        power += 1
    return row[0]


def haar(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=generator))[0]


@pytest.mark.parametrize(
    ("name", "kappa", "h"),
    [
        ("NT-Xent", 0.0, 20), ("spectral", 1.0, 5), ("Barlow", 2.0, 6), ("SIGReg", 0.5, 20),
        ("squared", 2.0, 5), ("Barlow", 1.0, None), ("NT-Xent", 2.0, None), ("SIGReg", 0.0, None),
    ],
)  # fmt: skip
def test_it_is_training_on_other_inputs(written, name, kappa, h) -> None:
    """Other data, widths (None: the head) and weights, against training extrapolated in its step."""
    generator = torch.Generator().manual_seed(7)
    a = torch.randn(10, 5, dtype=torch.float64, generator=generator)
    b = a + 0.4 * torch.randn(10, 5, dtype=torch.float64, generator=generator)
    loss, time = written.of_map(name, a, b), 0.06
    if h is None:
        weights = [haar(5, 2, generator)]
        solved = solve_loss(loss, weights[0], [time], kappa=kappa, layers=1)
    else:
        weights = [haar(h, 5, generator), haar(h, 2, generator)]
        solved = solve_loss(loss, weights[0].mT @ weights[1], [time], kappa=kappa, hidden=h)
    torch.testing.assert_close(extrapolated(loss, weights, time, kappa), solved.m[0], rtol=0, atol=1e-8)
    torch.testing.assert_close(solved.loss[0], loss(solved.m[0]))


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
def test_deep_nets(written, kappa) -> None:
    """Four layers with square hidden ones; κ = 0 does not see the depth."""
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    loss, time = written.of_map("Barlow", a, a.roll(1, 0) * 0.5 + a), 0.05
    first, last = haar(6, 4, generator), haar(6, 2, generator)
    square = [haar(6, 6, generator) for _ in range(2)]
    m0 = first.mT @ square[0].mT @ square[1].mT @ last
    solved = solve_loss(loss, m0, [time], kappa=kappa, layers=4)
    torch.testing.assert_close(
        extrapolated(loss, [first, *square, last], time, kappa), solved.m[0], rtol=0, atol=1e-8
    )
    if kappa == 0:
        torch.testing.assert_close(solved.m, solve_loss(loss, m0, [time]).m, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kappa", [0.0, 0.7, 1.0, 2.0])
def test_a_quadratic_loss_is_eq_9(paper_case, kappa) -> None:
    lam, q0 = paper_case

    def loss(q: Tensor) -> Tensor:
        return (q * lam[:, None] * q).sum((-2, -1))

    solved, known = (
        solve_loss(loss, q0, [0.0, 0.1, 1.0, 1e6], kappa=kappa),
        solve(q0, lam, [0.0, 0.1, 1.0, 1e6], kappa=kappa),
    )
    torch.testing.assert_close(solved.m, known.q, rtol=0, atol=1e-10)
    torch.testing.assert_close(solved.loss, known.loss(lam), rtol=0, atol=1e-10)
    velocity = loss_velocity(q0, 2 * lam[:, None] * q0, kappa=kappa)
    torch.testing.assert_close(velocity, orthogonal_flow(q0, lam, kappa), rtol=0, atol=1e-14)
    r = torch.linalg.cholesky(torch.eye(2, dtype=q0.dtype) - q0.mT @ q0).mT
    for depth in (2, 3):
        ours = loss_frame_flow(q0, r, 2 * lam[:, None] * q0, kappa, depth)
        for x, y in zip(ours, frame_flow(q0, r, lam, kappa, depth), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("depth", [2, 4])
def test_the_frame_stays_a_frame(kappa, depth) -> None:
    """RᵀR = I − mᵀm along (ṁ, Ṙ) for any G at all: d/dt (mᵀm + RᵀR) = 0 on frames."""
    generator = torch.Generator().manual_seed(0)
    y = haar(8, 3, generator)
    m, r = y[:5], y[5:]
    g = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    dm, dr = loss_frame_flow(m, r, g, kappa, depth)
    change = dm.mT @ m + dr.mT @ r
    torch.testing.assert_close(change + change.mT, torch.zeros(3, 3, dtype=m.dtype), rtol=0, atol=1e-13)


@pytest.mark.parametrize("layers", [1, 2])
def test_long_runs_keep_their_structure_and_arrive(written, layers) -> None:
    """h = d, where singular values are forced to 1 and roundoff would grow on m alone; then t = 1e9 at once."""
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(12, 4, dtype=torch.float64, generator=generator)
    loss = written.of_map(
        "spectral", a, a + 0.3 * torch.randn(12, 4, dtype=torch.float64, generator=generator)
    )
    m0 = haar(4, 2, generator)
    solved = solve_loss(
        loss, m0, [20.0, 200.0, 1e9], kappa=0.0, layers=layers, hidden=4 if layers == 2 else None
    )
    eye = torch.eye(2, dtype=m0.dtype).expand(3, 2, 2)
    torch.testing.assert_close(solved.m.mT @ solved.m, eye, rtol=0, atol=1e-11)
    torch.testing.assert_close(solved.m[1], solved.m[2], rtol=0, atol=1e-8)
    velocity = loss_velocity(solved.m[2], gradient(loss, solved.m[2]))
    assert float(velocity.abs().max()) < 1e-8


def gradient(loss: Callable, m: Tensor) -> Tensor:
    point = m.clone().requires_grad_()
    return torch.autograd.grad(loss(point), point)[0]


@pytest.mark.parametrize("name", LOSSES)
def test_batches_are_independent_runs(written, name) -> None:
    a, b = written.data
    generator = torch.Generator().manual_seed(2)
    m0 = torch.stack([0.8 * haar(4, 2, generator) for _ in range(3)]).reshape(3, 1, 4, 2)
    both = solve_loss(written.of_map(name, a, b), m0, [0.05, 0.05, 0.2], kappa=1.0)
    assert both.m.shape == (3, 3, 1, 4, 2)
    assert both.loss.shape == (3, 3, 1)
    one = solve_loss(
        written.of_map(name, a, b), m0[1, 0], torch.tensor([0.2], dtype=torch.float64), kappa=1.0
    )
    torch.testing.assert_close(both.m[2, 1, 0], one.m[0], rtol=0, atol=1e-10)
    assert both.times.tolist() == [0.05, 0.05, 0.2]
    torch.testing.assert_close(both.m[0], both.m[1], rtol=0, atol=0)


def test_kappa_drops_out_of_the_head_where_the_loss_sees_no_rotation(written) -> None:
    a, b = written.data
    head = torch.from_numpy(written.weights[2])
    for name, invariant in (("NT-Xent", True), ("spectral", True), ("squared", True), ("Barlow", False)):
        ends = [solve_loss(written.of_map(name, a, b), head, [0.3], kappa=k, layers=1).m for k in (0.0, 2.0)]
        assert (float((ends[0] - ends[1]).abs().max()) < 1e-10) == invariant


def test_mistakes_are_named(written) -> None:
    a, b = written.data
    w1, w2, head = written.weights
    m0, loss = torch.from_numpy(w1.T @ w2), written.of_map("squared", a, b)
    cases: list[tuple[str, Callable]] = [
        ("one number a map", lambda: solve_loss(lambda m: (a @ m).square().sum(-1), m0, [1.0])),
        ("float64 tensors", lambda: solve_loss(lambda m: (a.float() @ m).square().sum(), m0, [1.0])),
        ("does not depend on m", lambda: solve_loss(lambda m: a.sum(), m0, [1.0])),
        ("singularity", lambda: solve_loss(lambda m: (m / torch.linalg.matrix_norm(m)).sum(), 0 * m0, [1.0])),
        ("‖q0‖", lambda: solve_loss(loss, 3 * m0, [1.0])),
        ("identity", lambda: solve_loss(loss, 0.5 * torch.from_numpy(head), [1.0], layers=1)),
        ("ascending", lambda: solve_loss(loss, m0, [1.0, 0.5])),
        ("layers=0", lambda: solve_loss(loss, m0, [1.0], layers=0)),
        ("unknown method", lambda: solve_loss(loss, m0, [1.0], method="euler")),  # type: ignore[arg-type]
        ("must be 1", lambda: solve_loss(loss, 0.5 * m0, [1.0], hidden=4)),
        ("hold|holds", lambda: solve_loss(loss, m0 * torch.nan, [1.0])),
        ("give both as", lambda: loss_velocity(m0, m0.mT)),
    ]
    for match, call in cases:
        with pytest.raises(UserError, match=match):
            call()


def test_a_metric_by_name(written) -> None:
    a, b = written.data
    w1, w2, _ = written.weights
    m0 = torch.from_numpy(np.asarray(w1.T @ w2))
    named = solve_loss(written.of_map("Barlow", a, b), m0, [0.1], kappa="canonical")
    torch.testing.assert_close(named.m, solve_loss(written.of_map("Barlow", a, b), m0, [0.1], kappa=2.0).m)
