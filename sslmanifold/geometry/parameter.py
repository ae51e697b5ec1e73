"""A geoopt parameter that refuses to hold a point off its manifold."""

from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.balls import FrobeniusBall, SpectralBall
from sslmanifold.geometry.bundles import below
from sslmanifold.geometry.feasibility import feasible
from sslmanifold.geometry.precision import feasibility_tolerance
from sslmanifold.geometry.stiefel import Stiefel


def same_manifold(a: "geoopt.Manifold", b: "geoopt.Manifold") -> bool:
    """Whether two manifold objects describe the same manifold.

    Ours if type and settings agree; geoopt's only if they are one object, since their settings cannot be read off.
    """
    if a is b:
        return True
    ours = isinstance(below(a), Stiefel | FrobeniusBall | SpectralBall)
    return ours and type(a) is type(b) and a.extra_repr() == b.extra_repr()


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
        f"ManifoldParameter(data, Flattened(manifold, ndim={x.ndim})) for the one, or data.flatten(1) for its matrix"
    )


class ManifoldParameter(geoopt.ManifoldParameter):
    """A ``geoopt.ManifoldParameter`` with guards: what it holds is on its manifold, or there is an error.

    * Construction checks the residual; ``project=True`` replaces the data by its projection instead.
    * ``load_state_dict`` (plain, ``assign=True`` or with swapped tensors) checks what it loads and keeps the
      type and the manifold; a plain ``nn.Parameter`` assigned over it on a module is wrapped the same way.
      Delete the attribute first to really replace it.
    * Converted to a finer dtype (``.double()`` of a float32 weight), it is projected to that precision.
    * ``.to("meta")`` is refused: torch would silently make it a plain parameter there.
    * Module conversions keep type and manifold under ``torch.__future__.set_swap_module_params_on_conversion``.
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
        return cls._wrap(feasible(plain, manifold), manifold, requires_grad)

    @classmethod
    def _wrap(cls, data: Tensor, manifold: "geoopt.Manifold", requires_grad: bool) -> "ManifoldParameter":
        guard_assignments()
        instance = Tensor._make_subclass(cls, data, requires_grad)
        instance.manifold = manifold
        return instance

    def copy_(self, src: Tensor, non_blocking: bool = False) -> Tensor:  # type: ignore[override]
        """``Tensor.copy_`` after checking that src is on the manifold, as ``load_state_dict`` does."""
        converted = src.detach().to(self.dtype)
        value = feasible(converted, self.manifold, "the copied value")
        return Tensor.copy_(self, src if value is converted else value, non_blocking)

    def module_load(self, other: Tensor, assign: bool = False) -> Tensor:
        """What ``load_state_dict`` calls when torch is set to swap tensors; checks, and keeps the type."""
        value = other.detach() if assign else other.detach().to(self.device, self.dtype, copy=True)
        value = feasible(value, self.manifold, "the loaded value")
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

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """``Tensor.data``; a point assigned in a finer dtype than it was rounded to is projected."""
        return Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: Tensor) -> None:
        # nn.Module.double() and .to() convert a parameter by this assignment.
        if feasibility_tolerance(value.dtype) < feasibility_tolerance(self.dtype):
            with suppress(UserError):  # off the manifold before: the first step says so
                value = feasible(value, self.manifold)
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]

    def detach(self) -> Tensor:
        """``Tensor.detach``; where torch is set to swap tensors, of this type, as ``nn.Parameter(p)`` then asks."""
        plain = Tensor.detach(self)
        if not torch.__future__.get_swap_module_params_on_conversion():
            return plain
        return type(self)._wrap(plain, self.manifold, False)

    def __setattr__(self, name: str, value: Any) -> None:
        # torch.utils.swap_tensors, with which nn.Module then converts, hands over the class and the attributes of
        # the plain parameter it converted to; the manifold stays here. A finer dtype is projected to at the first step.
        if name == "__class__" and value is nn.Parameter:
            return
        if name == "__dict__" and "manifold" not in value:
            value = {**value, "manifold": self.manifold}
        super().__setattr__(name, value)

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
        data = feasible(param.data, old.manifold, f"the value assigned to {name!r}")
        return ManifoldParameter._wrap(data, old.manifold, param.requires_grad)
    return None


@cache
def guard_assignments() -> None:
    """Let modules keep manifolds through assignments; done with the first ManifoldParameter, not by an import."""
    torch.nn.modules.module.register_module_parameter_registration_hook(_keep_manifold)  # type: ignore[arg-type]


@torch.no_grad()
def project_(module: nn.Module) -> nn.Module:
    """Project every manifold parameter of the module onto its manifold, in place; returns the module.

    For weights that were averaged (a teacher's ``t.lerp_(s, 0.01)``), initialised or edited in place.
    """
    for param in module.parameters():
        if isinstance(param, geoopt.ManifoldTensor):
            param.data.copy_(param.manifold.projx(param.data))
    return module


class ManifoldAveragedModel(AveragedModel):
    """``torch.optim.swa_utils.AveragedModel`` that projects after every average: SWA, and EMA teachers.

    The mean of points of a manifold is off it (the mean of orthonormal matrices has singular values < 1).
    Projected back it is the extrinsic mean: for Stiefel the orthonormal matrix with the least sum of squared
    Frobenius distances to the averaged ones. Running averages are of the projected weights. A teacher::

        teacher = ManifoldAveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.99))
        teacher.update_parameters(student)  # after every step

    Args:
        As for ``AveragedModel``.
    """

    def update_parameters(self, model: nn.Module) -> Any:
        """Average in the weights of ``model``, then project."""
        super().update_parameters(model)
        project_(self.module)
