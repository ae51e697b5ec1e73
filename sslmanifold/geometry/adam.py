"""Riemannian Adam with torch's semantics and decoupled weight decay."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.bundles import gather, is_manifold_parameter, scatter
from sslmanifold.geometry.stepping import RiemannianStepping


class RiemannianAdam(RiemannianStepping, geoopt.optim.RiemannianAdam):
    """Adam on manifolds; on plain parameters exactly ``torch.optim.AdamW`` (its own code).

    On a manifold, with g the Riemannian gradient and ⟨g, g⟩ the manifold's inner product::

        m ← β₁ m + (1 − β₁) g;   v ← β₂ v + (1 − β₂)⟨g, g⟩
        x ← R_x(−lr · m̂/(√v̂ + eps));   m ← transport of m to the new x

    v is one number per matrix, stored as ``(…, 1, 1)``, so that the direction stays tangent; the first step
    has length lr whatever the shape. On balls, whose tangent space is everything, v is per entry as in Adam.
    Each matrix ``(…, n, p)`` of a batch is stepped by itself.

    Args:
        params: parameters or groups.
        lr, betas, eps, amsgrad, maximize: as in ``torch.optim.AdamW``.
        weight_decay: decoupled, x ← (1 − lr·weight_decay) x; 0 by default. It reaches the free parameters, and
            those in balls, within which they shrink; a parameter on a Stiefel or another curved manifold is left
            out, so that ``RiemannianAdam(model.parameters(), weight_decay=1e-4)`` means what it seems to. Refused
            for a group in which it would reach none.
        foreach: stack parameters of equal shape; None decides by size and device.
        max_norm: clip each matrix's Riemannian gradient to this norm, measured by the manifold.
        stabilize: project parameters and averages every so many steps; not needed, geoopt's interface.

    Raises:
        UserError: weight decay where it reaches nothing; at the first step, a parameter off its manifold.

    Source: Bécigneul & Ganea, "Riemannian adaptive optimization methods" (2019).
    """

    decoupled = True
    options = ("lr", "betas", "eps")
    tangents = ("exp_avg",)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        max_norm: float | None = None,
        stabilize: int | None = None,
    ) -> None:
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"Invalid max_norm value: {max_norm}")
        self._max_norm = max_norm  # geoopt's __init__ knows no max_norm
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=foreach,
            decoupled_weight_decay=True,
            stabilize=stabilize,
        )
        self.defaults |= {"max_norm": max_norm, "stabilize": stabilize}

    def _start(self, p: Tensor, second: Tensor, amsgrad: bool) -> None:
        """State of a parameter at its first step; ``second`` has the shape of the second moment."""
        dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        state = self.state[p]
        # A tensor from the start, as in torch: an int would come back from a checkpoint as a tensor, and the
        # bias correction would then be rounded differently.
        state["step"] = torch.zeros((), dtype=dtype)
        state["exp_avg"] = torch.zeros_like(p, requires_grad=False, memory_format=torch.preserve_format)
        for name in ("exp_avg_sq", "max_exp_avg_sq") if amsgrad else ("exp_avg_sq",):
            state[name] = torch.zeros_like(second, requires_grad=False, memory_format=torch.preserve_format)

    def _step_plain(self, group: dict[str, Any], params: list[Tensor]) -> None:
        grads = self._flat_gradients(group, params)
        if any(g.is_sparse for g in grads):
            raise RuntimeError("RiemannianAdam does not support sparse gradients")
        for p in params:
            if not self.state[p]:
                self._start(p, p, group["amsgrad"])
        states = [self.state[p] for p in params]
        adam(
            params,
            grads,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [s["max_exp_avg_sq"] for s in states] if group["amsgrad"] else [],
            [s["step"] for s in states],
            foreach=group["foreach"],
            has_complex=any(torch.is_complex(p) for p in params),
            amsgrad=group["amsgrad"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            decoupled_weight_decay=True,
        )

    def _begin(self, group: dict[str, Any], p: Tensor) -> float:
        if not self.state[p]:
            second = p.manifold.component_inner(p, p.grad)  # type: ignore[attr-defined]
            self._start(p, second, group["amsgrad"])
        self.state[p]["step"] += 1
        return float(self.state[p]["step"])

    def _moved(
        self, group: dict[str, Any], manifold: Any, members: list[Tensor], x: Tensor, grad: Tensor, key: float
    ) -> Tensor:
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        states = [self.state[p] for p in members]
        grad = self._gradient(group, manifold, x, grad)
        if group["weight_decay"]:
            x = x * (1 - lr * group["weight_decay"])
        first = gather([s["exp_avg"] for s in states]).mul(beta1).add_(grad, alpha=1 - beta1)
        inner = manifold.component_inner(x, grad)  # (…, 1, 1), or the shape of x on balls
        second = gather([s["exp_avg_sq"] for s in states]).mul(beta2).add_(inner, alpha=1 - beta2)
        scatter(second, [s["exp_avg_sq"] for s in states])
        if group["amsgrad"]:
            second = torch.maximum(gather([s["max_exp_avg_sq"] for s in states]), second)
            scatter(second, [s["max_exp_avg_sq"] for s in states])
        denominator = (second / (1 - beta2**key)).sqrt_().add_(group["eps"])
        direction = first / denominator * (-lr / (1 - beta1**key))
        new, moved = manifold.retr_transp(x, direction, first)
        scatter(moved, [s["exp_avg"] for s in states])
        return new

    def _settle(self, p: Tensor, manifold: Any, first: bool) -> None:
        super()._settle(p, manifold, first)
        state = self.state.get(p)
        if state:
            x = p.detach()
            if state["exp_avg_sq"].shape != manifold.component_inner(x, torch.zeros_like(x)).shape:
                state.clear()  # constrained since its last step: v has another meaning now, and starts anew

    def _follow(self, p: Tensor) -> None:
        super()._follow(p)
        state = self.state.get(p)
        if state and not is_manifold_parameter(p) and state["exp_avg_sq"].shape != p.shape:
            state.clear()  # released since its last step

    def _adopted(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        for group in state_dict["param_groups"]:
            if group.get("weight_decay") and not group.get("decoupled_weight_decay", False):
                raise UserError(
                    f"this state has weight_decay={group['weight_decay']} as a penalty in the gradient (torch.optim."
                    "Adam), RiemannianAdam decouples it (AdamW): set group['weight_decay'] = 0 in the saved "
                    "param_groups, or group['decoupled_weight_decay'] = True for the decoupled one"
                )
        return super()._adopted(state_dict)

    def _adopted_state(self, p: Tensor, state: dict[str, Any]) -> dict[str, Any]:
        state = super()._adopted_state(p, state)
        shape = p.manifold.component_inner(p.detach(), torch.zeros_like(p.detach())).shape  # type: ignore[attr-defined]
        for name in ("exp_avg_sq", "max_exp_avg_sq"):
            moment = state.get(name)
            if moment is None or moment.shape == shape:
                continue
            if moment.shape == p.shape:
                # geoopt keeps one number a matrix at the size of the matrix, equal but for the rounding of its sums
                first = moment[tuple(slice(0, 1) if k == 1 else slice(None) for k in shape)]
                if torch.allclose(moment, first, rtol=1e-3, atol=0.0):
                    state[name] = first.clone()
                    continue
            raise UserError(
                f"the saved {name!r} has shape {tuple(moment.shape)}, one number an entry; on {p.manifold} "  # type: ignore[attr-defined]
                f"it is one number a matrix, {tuple(shape)}; neither follows from the other: leave out "
                "load_state_dict to start afresh"
            )
        return state
