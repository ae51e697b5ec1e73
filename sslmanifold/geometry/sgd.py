"""Riemannian stochastic gradient descent with torch's semantics."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.bundles import below, gather, scatter
from sslmanifold.geometry.stepping import RiemannianStepping
from sslmanifold.geometry.stiefel import Stiefel


class RiemannianSGD(RiemannianStepping, geoopt.optim.RiemannianSGD):
    """SGD on manifolds: x ← R_x(−lr·d), d the momentum average of Riemannian gradients.

    Plain parameters are stepped by ``torch.optim.sgd.sgd`` itself: the trajectory is that of
    ``torch.optim.SGD``. On a manifold the same recursion runs on tangent vectors::

        g = egrad2rgrad(x, G);   b = g at the first step, then μ b + (1 − dampening) g
        d = b, or g + μ b with nesterov;   x ← R_x(−lr d);   b ← transport of b to the new x

    so the buffer is a tangent at x after every step. Time in the theory is t = Σ lr (momentum 0).
    Each matrix ``(…, n, p)`` of a batch is stepped by itself.

    Args:
        params: parameters or groups.
        lr: step size.
        momentum, dampening, weight_decay, nesterov, maximize: as in ``torch.optim.SGD``. Weight decay is
            its L2 term; on Stiefel manifolds that has no tangent part, so it reaches the other parameters only,
            and is refused where there are none.
        foreach: stack parameters of equal shape; None decides by size and device.
        max_norm: clip each matrix's Riemannian gradient to this norm, measured by the manifold.
        stabilize: project parameters and buffers every so many steps. Not needed: the retractions correct
            themselves; kept for geoopt's interface.

    Raises:
        UserError: weight decay for Stiefel manifolds alone; at the first step, a parameter off its manifold.
        ValueError: negative lr, momentum or weight decay; nesterov without momentum or with dampening.
    """

    decoupled = False
    options = ("lr", "momentum")
    tangents = ("momentum_buffer",)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        stabilize: int | None = None,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        max_norm: float | None = None,
    ) -> None:
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if momentum < 0.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if weight_decay < 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"Invalid max_norm value: {max_norm}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "max_norm": max_norm,
            "stabilize": stabilize,
        }
        self._max_norm = max_norm
        # geoopt's own __init__ knows neither maximize nor foreach: go past it to the mixin and torch.
        super(geoopt.optim.RiemannianSGD, self).__init__(params, defaults, stabilize=stabilize)

    def _step_plain(self, group: dict[str, Any], params: list[Tensor]) -> None:
        momentum = group["momentum"]
        grads = self._flat_gradients(group, params)
        buffers = [self.state[p].get("momentum_buffer") if momentum else None for p in params]
        sgd(
            params,
            grads,
            buffers,
            weight_decay=group["weight_decay"],
            momentum=momentum,
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            has_sparse_grad=any(g.is_sparse for g in grads),
            foreach=group["foreach"],
        )
        if momentum:
            for p, buffer in zip(params, buffers, strict=True):
                self.state[p]["momentum_buffer"] = buffer

    def _begin(self, group: dict[str, Any], p: Tensor) -> bool:
        return "momentum_buffer" in self.state[p] if group["momentum"] else False

    def _moved(
        self, group: dict[str, Any], manifold: Any, members: list[Tensor], x: Tensor, grad: Tensor, key: bool
    ) -> Tensor | None:
        lr, momentum = float(group["lr"]), group["momentum"]
        if group["weight_decay"]:
            grad = grad.add(x, alpha=group["weight_decay"])
        if not momentum and group["max_norm"] is None and isinstance(below(manifold), Stiefel):
            if len(members) > 1:
                return manifold.gradient_step(x, grad, lr)
            manifold.gradient_step(x, grad, lr, out=Tensor.detach(x))
            return None
        grad = self._gradient(group, manifold, x, grad)
        if not momentum:
            return manifold.retr(x, -lr * grad)
        states = [self.state[p] for p in members]
        if key:
            buffer = gather([s["momentum_buffer"] for s in states])
            buffer.mul_(momentum).add_(grad, alpha=1 - group["dampening"])
        else:
            buffer = grad.clone()
            for s, p in zip(states, members, strict=True):
                s["momentum_buffer"] = torch.empty_like(p, requires_grad=False)
        direction = grad.add(buffer, alpha=momentum) if group["nesterov"] else buffer
        new, moved = manifold.retr_transp(x, -lr * direction, buffer)
        scatter(moved, [s["momentum_buffer"] for s in states])
        return new
