"""A loss of anybody's: what the program asks of one, its defaults, and a trial before anything is trained.

A loss is whatever is called as ``loss(u, u_pos, u_neg)`` with embeddings (S, n, z) of anchors, (S, n, z) or
(S, n, p, z) of positives and negatives, or None for these, and gives one number a replica, (S,). It may say more of
itself: see :mod:`sslmanifold.losses`.
"""

import re
from typing import Any, get_args

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.losses.contrastive import contrastive_loss
from sslmanifold.losses.noncontrastive import noncontrastive_loss
from sslmanifold.losses.pairs import Evaluate, with_pair_axis
from sslmanifold.theory.moments import Reduction

_REPLICAS, _WIDTH = 2, 3
_CALL = "define __call__(self, u, u_pos, u_neg=None) that gives one number a replica, (S,), of u (S, n, z)"


def completed(loss: Any) -> Any:
    """The loss itself, with what it does not say of itself: no x⁻, not quadratic, a mean over anchors.

    Raises:
        UserError: where what it says is none of the choices.
    """
    kind = type(loss)
    said = {
        "name": re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower(),
        "contrastive": False,
        "quadratic": False,
        "evaluate": "samples",
        "reduction": "mean",
    }
    for key, default in said.items():
        if not hasattr(loss, key):
            try:
                object.__setattr__(loss, key, default)  # frozen or not
            except (AttributeError, TypeError) as error:  # with slots
                raise UserError(
                    f"loss: {kind.__qualname__} has no {key} and takes none: add {key}: ClassVar = {default!r}"
                ) from error
    choices = {"contrastive": (True, False), "quadratic": (True, False)}
    choices |= {"evaluate": get_args(Evaluate), "reduction": get_args(Reduction)}
    for key, allowed in choices.items():
        if getattr(loss, key) not in allowed:
            shown = ", ".join(repr(choice) for choice in allowed)
            raise UserError(
                f"loss: {kind.__qualname__}.{key}={getattr(loss, key)!r} is none of {shown}: set one in the class"
            )
    return loss


def require_loss(loss: Any, *, anchors: int, positives: int, negatives: int) -> None:
    """Raise UserError unless a loss takes the embeddings of this run and gives one number a replica.

    Args:
        loss: completed.
        anchors: of a batch; a few of them are tried.
        positives: p.
        negatives: q; tried where the loss wants them.
    """
    name, count = type(loss).__qualname__, min(anchors, 8)
    generator = torch.Generator().manual_seed(0)

    def drawn(pairs: int) -> Tensor:
        axis = () if pairs == 1 else (pairs,)
        return torch.randn(_REPLICAS, count, *axis, _WIDTH, generator=generator, dtype=torch.float64)

    u = drawn(1).requires_grad_(True)
    u_pos = drawn(positives)
    u_neg = drawn(negatives) if loss.contrastive else None
    try:
        at_start = loss.at(0) if hasattr(loss, "at") else loss
        value = at_start(u, u_pos, u_neg)
    except UserError:
        raise
    except Exception as error:  # anybody's code may fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "" if loss.contrastive else "; where it needs u_neg, add contrastive = True"
        raise UserError(f"loss: {name} cannot be called: {reason}: {_CALL}{hint}") from error
    if not isinstance(value, Tensor) or value.shape != (_REPLICAS,):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UserError(f"loss: {name} gives {got} for {_REPLICAS} replicas: {_CALL}")
    if not value.requires_grad:
        raise UserError(
            f"loss: {name} does not depend on u differentiably, so nothing can be trained with it"
        )
    (gradient,) = torch.autograd.grad(value[0], u)
    if gradient[1:].count_nonzero():
        raise UserError(f"loss: {name} mixes replicas, each of which is a run of its own: {_CALL}")
    if loss.quadratic:
        _require_quadratic(loss, value.detach(), u.detach(), with_pair_axis(u, u_pos), u_neg)


def _require_quadratic(loss: Any, value: Tensor, u: Tensor, u_pos: Tensor, u_neg: Tensor | None) -> None:
    """Raise UserError unless a loss that says it is quadratic has the C that training and flows will take for its."""
    if u_neg is None:
        wanted, equation = noncontrastive_loss(u, u_pos, loss.reduction), "Eq. 2"
    else:
        wanted, equation = contrastive_loss(u, u_pos, with_pair_axis(u, u_neg), loss.reduction), "Eq. 1"
    if not torch.allclose(value, wanted.detach(), rtol=1e-5):
        raise UserError(
            f"loss: {type(loss).__qualname__} says quadratic, but is not {equation} with reduction={loss.reduction}, "
            "so C would be another loss's: leave quadratic out"
        )
