"""What both Riemannian optimizers share: flat and curved parameters apart, checks, saved states, the step itself."""

from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.bundles import (
    below,
    bundle,
    clip,
    decays,
    gather,
    is_manifold_parameter,
    refuse_weight_decay,
    scatter,
    split,
)
from sslmanifold.geometry.feasibility import feasible
from sslmanifold.geometry.precision import feasibility_tolerance
from sslmanifold.geometry.stiefel import Stiefel

#: Every so many steps each point is checked although nothing is known to have written to it.
CHECK_EVERY = 100


class RiemannianStepping:
    """Mixin, before one of geoopt's optimizers: ``step`` over the groups, plain parameters by torch's own code.

    A group's ``max_norm`` clips each matrix's Riemannian gradient. ``decoupled`` says which kind of weight decay
    the optimizer has; of either kind it reaches the weights to which their manifold gives it a meaning, and is
    refused for a group in which there is none.

    A point that anything but the step has written to since the last step is checked before the next one:
    assigned, loaded, or changed in place. A change in place through ``.data`` is hidden from this; one that is
    made before every step is found at the hundredth. State follows its parameter to another dtype or device.

    Raises:
        UserError: weight decay that reaches no weight of a group; a parameter off its manifold; a state that another
            kind of optimizer has saved.
        RuntimeError: for sparse gradients of manifold parameters.
    """

    decoupled: bool
    #: Entries of a group that tell this kind of optimizer from others.
    options: tuple[str, ...]
    #: Entries of a parameter's state that are tangent vectors.
    tangents: tuple[str, ...]
    _max_norm: float | None
    defaults: dict[str, Any]
    param_groups: list[dict[str, Any]]
    state: dict[Tensor, dict[str, Any]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; refuses weight decay that would reach no parameter of the group."""
        param_group.setdefault("max_norm", self._max_norm)
        super().add_param_group(param_group)  # type: ignore[misc]
        group = self.param_groups[-1]
        refuse_weight_decay(group["params"], group["weight_decay"], self.decoupled)

    # Saved states

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch; also takes what torch's or geoopt's optimizer of the same kind has saved.

        Options that the other optimizer does not have stay as they are here. Averages of gradients become tangent
        vectors at the first step.

        Raises:
            UserError: a state of another kind of optimizer, or one that has no meaning on a manifold.
        """
        super().load_state_dict(self._adopted(state_dict))  # type: ignore[misc]

    def _adopted(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        saved, state, groups = state_dict["param_groups"], dict(state_dict["state"]), []
        if [len(g["params"]) for g in saved] != [len(g["params"]) for g in self.param_groups]:
            return state_dict  # torch says what does not match
        for group, other in zip(self.param_groups, saved, strict=True):
            missing = [name for name in self.options if name not in other]
            if missing:
                raise UserError(
                    f"this state was saved by another kind of optimizer than {type(self).__name__}: its groups have "
                    f"no {', '.join(map(repr, missing))}; leave out load_state_dict to start afresh"
                )
            refuse_weight_decay(group["params"], other.get("weight_decay", 0.0), self.decoupled)
            kept = {name: group[name] for name in (*self.defaults, "stabilize") if name in group}
            groups.append({**kept, **other})
            for key, p in zip(other["params"], group["params"], strict=True):
                if key in state and is_manifold_parameter(p):
                    state[key] = self._adopted_state(p, dict(state[key]))
        return {**state_dict, "state": state, "param_groups": groups}

    def _adopted_state(self, p: Tensor, state: dict[str, Any]) -> dict[str, Any]:
        """The saved state of one parameter on a manifold, as this optimizer would have saved it."""
        for name in self.tangents:
            if state.get(name) is None:  # torch.optim.SGD writes None before the first step
                state.pop(name, None)
            elif state[name].shape != p.shape:
                raise UserError(
                    f"the saved {name!r} has shape {tuple(state[name].shape)}, its parameter {tuple(p.shape)}: give "
                    "the optimizer the parameters in the order in which they were saved"
                )
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        self._stabilize, self._max_norm = (self.defaults.get(name) for name in ("stabilize", "max_norm"))
        self.__dict__.pop("_seen", None)

    # The step

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
        seen = self.__dict__.setdefault("_seen", {})
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            plain, curved = split(group["params"])
            for p in plain:
                if seen.get(id(p)) != p.data_ptr():
                    self._follow(p)
                    seen[id(p)] = p.data_ptr()
            if plain:
                self._step_plain(group, plain)
            if curved:
                self._check(curved, seen, group["step"] % CHECK_EVERY == 0)
                self._step_manifold(group, curved)
            if group["stabilize"] is not None and group["step"] % group["stabilize"] == 0:
                self.stabilize_group(group)  # type: ignore[attr-defined]
            for p in curved:
                seen[id(p)] = p.data_ptr(), p._version
        return loss

    def _check(self, params: list[Tensor], seen: dict[int, Any], all_of_them: bool) -> None:
        """Dense gradients; and that each parameter that may have changed is on its manifold."""
        for p in params:
            if p.grad.is_sparse:  # type: ignore[union-attr]
                raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
            known = seen.get(id(p))
            if known != (p.data_ptr(), p._version):
                self._settle(p, p.manifold, known is None)  # type: ignore[attr-defined]
            elif all_of_them and hasattr(type(p.manifold), "residual"):  # type: ignore[attr-defined]
                feasible(p, p.manifold, *_A_PARAMETER)  # type: ignore[attr-defined]

    def _settle(self, p: Tensor, manifold: Any, first: bool) -> None:
        """Check the point; its state becomes tangent there, as the averages of a plain optimizer are not."""
        if type(manifold) is geoopt.Euclidean and not first:
            return
        value = feasible(p, manifold, *_A_PARAMETER)
        if value is not p:
            Tensor.copy_(p, value)
        self._follow(p)
        state = self.state.get(p, {})
        for name in self.tangents:
            if name in state and isinstance(below(manifold), Stiefel):
                tangent = manifold.transp(p, p, state[name])
                # An average that this optimizer made is tangent to roundoff, and is left to the bit.
                if (tangent - state[name]).norm() > feasibility_tolerance(p.dtype) * state[name].norm():
                    state[name] = tangent

    def _follow(self, p: Tensor) -> None:
        """Bring the state of a parameter to the dtype and device that the parameter was converted to."""
        state = self.state.get(p, {})
        for name, entry in state.items():
            if name != "step" and isinstance(entry, Tensor):
                state[name] = entry.to(p.device, p.dtype)

    def _flat_gradients(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
        """Gradients of plain parameters, clipped where the group asks for it."""
        grads = [p.grad for p in params if p.grad is not None]
        if group["max_norm"] is None:
            return grads
        flat = geoopt.Euclidean()
        return [clip(flat, p, g, group["max_norm"]) for p, g in zip(params, grads, strict=True)]

    def _step_manifold(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Step parameters on manifolds, equal ones stacked."""
        keys = [self._begin(group, p) for p in params]
        for indices in bundle(params, group["foreach"], keys):
            members = [params[i] for i in indices]
            x = gather(members)
            grad = gather([p.grad for p in members])  # type: ignore[misc]
            if group["maximize"]:
                grad = -grad
            manifold = members[0].manifold  # type: ignore[attr-defined]
            reached = decays(manifold, self.decoupled) or not group["weight_decay"]
            options = group if reached else {**group, "weight_decay": 0.0}
            new = self._moved(options, manifold, members, x, grad, keys[indices[0]])
            if new is not None:
                scatter(new, members)

    @staticmethod
    def _gradient(group: dict[str, Any], manifold: Any, x: Tensor, grad: Tensor) -> Tensor:
        """The Riemannian gradient, clipped where the group asks for it."""
        grad = manifold.egrad2rgrad(x, grad)
        return grad if group["max_norm"] is None else clip(manifold, x, grad, group["max_norm"])

    @abstractmethod
    def _step_plain(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Step parameters without a manifold."""

    @abstractmethod
    def _begin(self, group: dict[str, Any], p: Tensor) -> Hashable:
        """Ready the state of p for a step; parameters with equal keys may be stepped together."""

    @abstractmethod
    def _moved(
        self, group: dict[str, Any], manifold: Any, members: list[Tensor], x: Tensor, grad: Tensor, key: Any
    ) -> Tensor | None:
        """Where x, the stacked members, goes along its Euclidean gradient; None if it has been written."""


_A_PARAMETER = ("a parameter", "project_(module) after building, averaging, casting or editing its weights")
