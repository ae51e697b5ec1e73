"""A geoopt parameter that refuses to hold a point off its manifold."""

from typing import Any

import torch
from torch import Tensor, nn

from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.balls import FrobeniusBall, SpectralBall
from sslmanifold.geometry.feasibility import residual
from sslmanifold.geometry.stiefel import Stiefel
from sslmanifold.geometry.tolerance import feasibility_tolerance


def same_manifold(a: "geoopt.Manifold", b: "geoopt.Manifold") -> bool:
    """Whether two manifold objects describe the same manifold.

    Ours if type and settings agree; geoopt's only if they are one object, since their settings cannot be read off.
    """
    if a is b:
        return True
    ours = isinstance(a, Stiefel | FrobeniusBall | SpectralBall)
    return ours and type(a) is type(b) and a.extra_repr() == b.extra_repr()


def assert_feasible(x: Tensor, manifold: "geoopt.Manifold", what: str = "data") -> None:
    """Raise unless every matrix of x is on the manifold to the precision of its dtype.

    Args:
        x: ``(…, *matrix)``, with leading batch dimensions.
        manifold: where x should be.
        what: how the message calls x.

    Raises:
        UserError: names the residual, its limit and the way out.
    """
    if x.is_meta or x.numel() == 0:
        return
    worst = float(residual(x, manifold).amax())
    limit = feasibility_tolerance(x.dtype)
    if not worst <= limit:
        raise UserError(
            f"{what} of shape {tuple(x.shape)} is off its manifold {manifold}: residual {worst:.3g}, allowed "
            f"{limit:.0e} in {str(x.dtype).removeprefix('torch.')}; write "
            "ManifoldParameter(data, manifold, project=True), or load manifold.projx(data) instead"
        )


def _refuse_kernel(x: Tensor, manifold: "geoopt.Manifold") -> None:
    """Raise for more dimensions than a matrix has: whether they are a batch or one flattened matrix must be said."""
    if manifold.ndim != 2 or x.ndim <= 2 or type(manifold) is geoopt.Euclidean:
        return
    if getattr(manifold, "flattens", False):
        return
    *batch, n, p = x.shape
    count, rows = torch.Size(batch).numel(), x.shape[0]
    raise UserError(
        f"shape {tuple(x.shape)} on {manifold} could mean {count} matrices of {n}×{p}, or one kernel of "
        f"{rows}×{x[0].numel()}: write ManifoldParameter(data, manifold, batch=True) for the {count} matrices, "
        "ManifoldParameter(data.flatten(1), manifold) for the one"
    )


class ManifoldParameter(geoopt.ManifoldParameter):
    """A ``geoopt.ManifoldParameter`` with guards: what it holds is on its manifold, or there is an error.

    * Construction checks the residual; ``project=True`` replaces the data by its projection instead.
    * ``load_state_dict`` (plain, ``assign=True`` or with swapped tensors) checks what it loads and keeps the
      type and the manifold; a plain ``nn.Parameter`` assigned over it on a module is wrapped the same way.
      Delete the attribute first to really replace it.
    * ``.to("meta")`` is refused: torch would silently make it a plain parameter there.
    * ``deepcopy`` and ``pickle`` reproduce it bit for bit, with an equal manifold.

    Args:
        data: ``(n, p)`` for matrix manifolds, ``(…, n, p)`` with ``batch=True``; or a ``geoopt.ManifoldTensor``.
        manifold: may be left out for a ``ManifoldTensor``. One that says how it reads a kernel as a matrix
            (an attribute ``flattens = True``) takes any shape it can read.
        requires_grad: as for ``nn.Parameter``.
        project: project the data instead of refusing it.
        batch: the leading dimensions are a batch of matrices, each a point of its own. Without it a tensor of
            more than two dimensions is refused: a convolution kernel (8, 3, 3, 3) is hardly meant as 24
            matrices of 3×3.

    Raises:
        UserError: off-manifold data, no manifold, a manifold other than the data's own, or a batch of matrices
            that was not said to be one.
    """

    def __new__(
        cls,
        data: Tensor | None = None,
        manifold: "geoopt.Manifold | None" = None,
        requires_grad: bool = True,
        *,
        project: bool = False,
        batch: bool = False,
    ) -> "ManifoldParameter":
        if data is None:
            raise UserError("a ManifoldParameter needs data: write ManifoldParameter(haar(n, p), Stiefel())")
        own = data.manifold if isinstance(data, geoopt.ManifoldTensor) else None
        if manifold is None:
            manifold = own
        if manifold is None:
            raise UserError("which manifold? write ManifoldParameter(data, Stiefel())")
        if own is not None and not same_manifold(own, manifold):
            raise UserError(
                f"data on {own} cannot become a parameter on {manifold}: write ManifoldParameter(data.data, "
                "manifold, project=True)"
            )
        ok, reason = manifold.check_point(data, explain=True)
        if not ok:
            raise UserError(f"shape {tuple(data.shape)} does not fit {manifold}: {reason}")
        if not batch:
            _refuse_kernel(data, manifold)
        plain = data.data
        if project:
            with torch.no_grad():
                plain = manifold.projx(plain).contiguous()
        assert_feasible(plain, manifold)
        return cls._wrap(plain, manifold, requires_grad)

    @classmethod
    def _wrap(cls, data: Tensor, manifold: "geoopt.Manifold", requires_grad: bool) -> "ManifoldParameter":
        instance = Tensor._make_subclass(cls, data, requires_grad)
        instance.manifold = manifold
        return instance

    def copy_(self, src: Tensor, non_blocking: bool = False) -> Tensor:  # type: ignore[override]
        """``Tensor.copy_`` after checking that src is on the manifold, as ``load_state_dict`` does."""
        assert_feasible(src.to(self.dtype), self.manifold, "the copied value")
        return Tensor.copy_(self, src, non_blocking)

    def module_load(self, other: Tensor, assign: bool = False) -> Tensor:
        """What ``load_state_dict`` calls when torch is set to swap tensors; checks, and keeps the type."""
        value = other.detach() if assign else other.detach().to(self.device, self.dtype, copy=True)
        assert_feasible(value, self.manifold, "the loaded value")
        return type(self)._wrap(value, self.manifold, self.requires_grad)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """``Tensor.to``; refuses the meta device."""
        for target in (*args, *kwargs.values()):
            if isinstance(target, Tensor):
                target = target.device
            if isinstance(target, str | torch.device) and torch.device(target).type == "meta":
                raise UserError(
                    "a ManifoldParameter on the meta device would lose its manifold: build the module where "
                    'it is to live, as in module.to("cpu"), and load its weights with load_state_dict'
                )
        return Tensor.to(self, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ManifoldParameter":
        if id(self) not in memo:
            data = self.data.clone(memory_format=torch.preserve_format)
            # The manifold is stateless: sharing it keeps identity comparisons of geoopt true.
            memo[id(self)] = type(self)._wrap(data, self.manifold, self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.data, self.manifold, self.requires_grad)


def _rebuild(
    cls: type[ManifoldParameter], data: Tensor, manifold: "geoopt.Manifold", requires_grad: bool
) -> ManifoldParameter:
    return cls._wrap(data, manifold, requires_grad)


def _keep_manifold(module: nn.Module, name: str, param: nn.Parameter | None) -> nn.Parameter | None:
    """Parameter registration hook: a plain parameter put over one of ours is checked and wrapped."""
    old = module._parameters.get(name)
    if isinstance(old, ManifoldParameter) and param is not None and not isinstance(param, ManifoldParameter):
        if param.ndim != old.ndim:
            _refuse_kernel(param, old.manifold)
        assert_feasible(param, old.manifold, f"the value assigned to {name!r}")
        return ManifoldParameter._wrap(param.data, old.manifold, param.requires_grad)
    return None


torch.nn.modules.module.register_module_parameter_registration_hook(_keep_manifold)  # type: ignore[arg-type]


@torch.no_grad()
def project_(module: nn.Module) -> nn.Module:
    """Project every manifold parameter of the module onto its manifold, in place; returns the module.

    For weights that were averaged, cast or initialised in place.
    """
    for param in module.parameters():
        if isinstance(param, geoopt.ManifoldTensor):
            param.data.copy_(param.manifold.projx(param.data))
    return module
