"""Training of a theory's weights on its loss by autograd and torch's optimizers, in plain loops.

Losses are functions of the batch as they are written in the papers; nothing of a flow's velocity enters here.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Weights = tuple[Tensor, ...]


def trained(
    loss: Callable[..., Tensor],
    weights: Sequence[Tensor],
    lr: float,
    steps: int,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    rates: Sequence[float] | None = None,
    adam: bool = False,
    after: Callable[[Weights], None] | None = None,
) -> Iterator[Weights]:
    """Train copies of the weights: yields them, detached and cloned, before the first step and after each.

    Args:
        loss: of the weights, a number.
        weights: where training starts.
        lr: learning rate, constant.
        steps: number of steps.
        momentum, weight_decay: of ``torch.optim.SGD``.
        rates: of each weight, times ``lr``; None for 1.
        adam: ``torch.optim.Adam`` in place of SGD.
        after: called with the trained weights themselves after each step, to change them in place.
    """
    leaves = [w.detach().clone().requires_grad_() for w in weights]
    groups = [
        {"params": [w], "lr": lr * rate} for w, rate in zip(leaves, rates or [1.0] * len(leaves), strict=True)
    ]
    optimizer = (
        torch.optim.Adam(groups)
        if adam
        else torch.optim.SGD(groups, momentum=momentum, weight_decay=weight_decay)
    )
    yield tuple(w.detach().clone() for w in leaves)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(*leaves).backward()
        optimizer.step()
        if after is not None:
            with torch.no_grad():
                after(tuple(leaves))
        yield tuple(w.detach().clone() for w in leaves)


def halved(run: Callable[[float], Tensor], exact: Tensor, lr: float) -> tuple[float, float]:
    """(ratio, extrapolated): a training against its flow at the same time t = Σ lr.

    Args:
        run: learning rate → what training ends with.
        exact: what the flow ends with.
        lr: the larger step.

    Returns:
        The distance at lr over that at lr/2, which is 2 for a flow that training follows at first order; and the
        relative distance of 2·run(lr/2) − run(lr), in which the first order is gone.
    """
    whole, half = run(lr), run(lr / 2)
    size = float(exact.norm())
    ratio = float((whole - exact).norm() / (half - exact).norm())
    return ratio, float((2 * half - whole - exact).norm()) / size
