"""Does a band of minibatch noise about the flow hold what it promises? Coverage at 2σ over seeds, on digits.

    python scripts/minibatch_band.py [--seeds 200] [--batch 64] [--steps 1000]

To first order in the step η the map of SGD is m_flow + δ with covariance P,

    P ← (1 + ηJ) P (1 + ηJ)ᵀ + η² Σ,   J = ∂v/∂m,   Σ = Cov over batches of v(m; C_b),

v the flow's velocity (`sslmanifold.theory.loss_velocity`), so δ is of size √η. That is for batches drawn independently.
Batches of a pass without replacement sum to the whole: within a pass of K batches the sum of the noise of k of them has
the variance of a bridge, k(1 − k/K) in place of k. The script trains with both ways of drawing, and prints the share
of entries of m within 2σ of the flow, and the size of the deviation beside the law's, at η, η/2, η/4.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.func import jacrev

from sslmanifold.config.compose import composed, plain
from sslmanifold.theory import OrthogonalFlow, loss_velocity
from sslmanifold.theory.frame import FrameState, normalise_frame
from sslmanifold.theory.moments import pair_contrast
from sslmanifold.theory.velocities import frame_flow
from sslmanifold.training.experiment import Experiment

KAPPA = 0.0


def batches(n: int, size: int, steps: int, seeds: int, *, replace: bool) -> Tensor:
    """Anchors of each step, (steps, seeds, size): independent, or passes over the data without replacement."""
    generator = torch.Generator().manual_seed(0)
    if replace:
        return torch.randint(n, (steps, seeds, size), generator=generator)
    per_pass = n // size
    passes = -(-steps // per_pass)
    rows = torch.stack(
        [
            torch.stack([torch.randperm(n, generator=generator)[: per_pass * size] for _ in range(seeds)])
            for _ in range(passes)
        ]
    )  # (passes, seeds, K·size)
    return rows.unflatten(-1, (per_pass, size)).movedim(2, 1).flatten(0, 1)[:steps]


def trained(
    x: Tensor, drawn: Tensor, state: FrameState, anchors: Tensor, lr: float, keep: set[int]
) -> dict[int, Tensor]:
    """SGD on the frame [m; R], one a seed: the map after each step of ``keep``, (seeds, d, z)."""
    seeds = anchors.shape[1]
    m, r = state.m.expand(seeds, *state.m.shape[-2:]), state.r.expand(seeds, *state.r.shape[-2:])
    found = {}
    for step, chosen in enumerate(anchors, start=1):
        a, b = x[chosen], drawn[chosen]  # (seeds, size, d)
        moment = a.mT @ b / chosen.shape[-1]
        dm, dr = frame_flow(m, r, (moment + moment.mT) / 2, KAPPA)
        m, r, _ = normalise_frame(FrameState(m + lr * dm, r + lr * dr))
        if step in keep:
            found[step] = m
    return found


def law(
    x: Tensor,
    drawn: Tensor,
    flow: OrthogonalFlow,
    state: FrameState,
    lr: float,
    size: int,
    keep: list[int],
    per_pass: int,
) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
    """The flow's map, and the standard deviations (d, z) of independent batches and of passes, after each step."""
    n, shape = len(x), state.m.shape[-2:]
    entries = shape.numel()
    moment = flow.moment

    def velocity(flat: Tensor) -> Tensor:
        m = flat.reshape(shape)
        return loss_velocity(m, 2 * (moment @ m), kappa=KAPPA).flatten()  # type: ignore[operator]

    eye = torch.eye(entries, dtype=torch.float64)
    independent = torch.zeros(entries, entries, dtype=torch.float64)
    settled, bridge = torch.zeros_like(independent), torch.zeros_like(independent)
    found = {}
    for step in range(1, max(keep) + 1):
        m = state.m.reshape(shape)
        each = loss_velocity(
            m, x[:, :, None] * (drawn @ m)[:, None] + drawn[:, :, None] * (x @ m)[:, None], kappa=KAPPA
        )
        each = each.flatten(1) - each.flatten(1).mean(0)  # (n, d z)
        sigma = each.mT @ each / (n * size)
        move = eye + lr * jacrev(velocity)(m.flatten())
        independent = move @ independent @ move.mT + lr**2 * sigma
        # Var of the sum of k of K without replacement: the new batch and its covariance with those before
        k = (step - 1) % per_pass
        if k == 0:
            settled, bridge = torch.zeros_like(settled), torch.zeros_like(bridge)
        fresh = lr**2 * sigma * (1 - 1 / per_pass)
        cross = -(lr**2) * sigma * k / per_pass
        bridge = move @ bridge @ move.mT + fresh + cross + cross.mT
        state = flow.advance(state, lr)
        if step in keep:
            deviations = [p.diagonal().clamp_min(0).sqrt().reshape(shape) for p in (independent, bridge)]
            found[step] = state.m.reshape(shape), deviations[0], deviations[1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()

    experiment = Experiment(
        plain(composed("train", ["data=digits", "loss.evaluate=samples", "trainer.precision=64-true"]))
    )
    batch = experiment.datamodule.train_dataloader().batch(0)
    x, positives, negatives = (None if part is None else part.double() for part in batch)
    assert x is not None
    assert positives is not None
    drawn = pair_contrast(x, positives, negatives, pair_mean=True)
    moment = x.mT @ drawn / len(x)
    moment = (moment + moment.mT) / 2
    weights = [w.detach().double()[0] for w in experiment.module.network.weights]
    rate = 1 / (20 * float(torch.linalg.eigvalsh(moment).abs().max()))
    per_pass = len(x) // options.batch
    print("drawing | lr | step | entries of m within 2σ | rms deviation | rms σ of the law")
    for halving in range(3):
        lr, steps = rate / 2**halving, options.steps * 2**halving
        keep = [
            round(steps * f / per_pass) * per_pass + offset
            for f in (0.1, 0.3, 0.95)
            for offset in (0, per_pass // 2)
        ]
        keep = [step for step in keep if 0 < step <= steps]
        flow = OrthogonalFlow(moment, KAPPA)
        state = flow.start(*weights)
        told = law(x, drawn, flow, state, lr, options.batch, keep, per_pass)
        for name, replace in (("independent", True), ("passes", False)):
            anchors = batches(len(x), options.batch, max(keep), options.seeds, replace=replace)
            maps = trained(x, drawn, state, anchors, lr, set(keep))
            for step in keep:
                exact, free, bridge = told[step]
                gap = (maps[step] - exact).abs()
                for law_name, sigma in (("independent", free), ("bridge", bridge)):
                    if replace and law_name == "bridge":
                        continue
                    inside = float((gap <= 2 * sigma).double().mean())
                    rms, expected = float(gap.square().mean().sqrt()), float(sigma.square().mean().sqrt())
                    print(
                        f"{name}, law of {law_name} | {lr:.3g} | {step} | {inside:.1%} | {rms:.2e} | {expected:.2e}"
                    )


if __name__ == "__main__":
    main()
