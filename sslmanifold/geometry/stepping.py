"""What both Riemannian optimizers do around their update: flat and curved parameters apart, checks, stabilising."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.bundles import clip, refuse_weight_decay, split
from sslmanifold.geometry.parameter import assert_feasible


class RiemannianStepping:
    """Mixin, before one of geoopt's optimizers: ``step`` over the groups, plain parameters by torch's own code.

    A group's ``max_norm`` clips each matrix's Riemannian gradient. ``decoupled`` says which kind of weight decay
    the optimizer has; either kind is refused where a manifold gives it no meaning.

    Raises:
        UserError: weight decay on such a manifold; at the first step, a parameter off its manifold.
        RuntimeError: for sparse gradients of manifold parameters.
    """

    decoupled: bool
    param_groups: list[dict[str, Any]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; refuses weight decay where it means nothing."""
        super().add_param_group(param_group)  # type: ignore[misc]
        group = self.param_groups[-1]
        for p in group["params"]:
            if isinstance(p, geoopt.ManifoldTensor):
                refuse_weight_decay(p.manifold, group["weight_decay"], decoupled=self.decoupled)

    @torch.compiler.disable(
        reason="a compiled step would treat manifold parameters as plain tensors; this step runs as it is"
    )
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns the closure's loss if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            plain, curved = split(group["params"])
            if plain:
                self._step_plain(group, plain)
            if curved:
                self._check(curved)
                self._step_manifold(group, curved)
            if group["stabilize"] is not None and group["step"] % group["stabilize"] == 0:
                self.stabilize_group(group)  # type: ignore[attr-defined]
        return loss

    def _check(self, params: list[Tensor]) -> None:
        """Dense gradients; and once for each parameter, that it is on its manifold."""
        verified = self.__dict__.setdefault("_verified", set())
        for p in params:
            if p.grad.is_sparse:  # type: ignore[union-attr]
                raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
            if id(p) not in verified:
                assert_feasible(p, p.manifold, "a parameter")  # type: ignore[attr-defined]
                verified.add(id(p))

    def _flat_gradients(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
        """Gradients of plain parameters, clipped where the group asks for it."""
        grads = [p.grad for p in params if p.grad is not None]
        if group["max_norm"] is None:
            return grads
        flat = geoopt.Euclidean()
        return [clip(flat, p, g, group["max_norm"]) for p, g in zip(params, grads, strict=True)]

    @abstractmethod
    def _step_plain(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Step parameters without a manifold."""

    @abstractmethod
    def _step_manifold(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Step parameters on manifolds."""
