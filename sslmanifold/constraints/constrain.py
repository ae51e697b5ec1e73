"""One line that puts a constraint on the weights of anybody's module, in place; and its undoing."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from sslmanifold.constraints.base import Constraint
from sslmanifold.constraints.registry import constraint_class
from sslmanifold.constraints.selection import Weight, Weights, select
from sslmanifold.errors import UserError
from sslmanifold.geometry import Flattened, ManifoldParameter, Stiefel, feasibility_tolerance, haar, residual
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.parameter import guard_assignments

M = TypeVar("M", bound=nn.Module)

logger = logging.getLogger("sslmanifold")


def constrain(
    module: M,
    constraint: str | Constraint,
    weights: Weights = None,
    *,
    init: Literal["project", "haar"] = "project",
    generator: torch.Generator | None = None,
    **options: Any,
) -> M:
    """Put a constraint on weights of any module, in place::

        constrain(model, "orthogonal", weights=["projector.*.weight", "backbone.layer4.*.conv?.weight"])
        optimizer = RiemannianAdam(model.parameters(), lr=1e-3, weight_decay=1e-4)

    The weight of an ``nn.Linear`` is read as the matrix (out, in), that of an ``nn.Conv1d/2d/3d`` as (out, in·k·k),
    each group by itself; of the stacked projections of an ``nn.MultiheadAttention`` each of q, k, v is a matrix of
    its own, as are the gates of recurrent layers; any parameter of two dimensions is a matrix. ``orthogonal`` keeps
    orthonormal rows where a matrix is wide and orthonormal columns where it is tall: :func:`describe` says which.

    Each parameter stays the object that it is, with its name: an optimizer that was built before goes on holding
    it, layers that share it go on sharing it, and state dicts load as before, provided that what they hold is
    feasible. The step must be a Riemannian one (``RiemannianSGD``, ``RiemannianAdam``, geoopt's). Any other leaves
    the manifold; gradients are watched for that, and the weight's name is given.

    Args:
        module: changed in place.
        constraint: ``"orthogonal"``, ``"operator_norm"``, ``"frobenius"`` or one of your own; ``"none"`` releases.
        weights: patterns of parameter names, layers or parameters; see :func:`~.selection.select`. By default the
            weights of all linear, convolution, attention and recurrent layers.
        init: "project" replaces a weight by the nearest feasible one; "haar" draws it.
        generator: of "haar"; torch's own when None.
        options: of the constraint, named as in its yaml: ``metric`` of orthogonal (here "euclidean" unless given),
            ``c``, the radius of balls.

    Returns:
        The module.

    Raises:
        UserError: before anything is changed: a pattern without a match, a constraint on several layers together, a
            weight that cannot be feasible or is not finite.
    """
    if init not in ("project", "haar"):
        raise UserError(f'init={init!r} is neither of: write init="project" or init="haar"')
    made = _made(constraint, options)
    chosen = select(module, weights)
    if made.name == "none":
        return release(module, [weight.parameter for weight in chosen])
    manifolds = [_manifold(made, weight) for weight in chosen]
    values = [_initial(w, m, init, generator) for w, m in zip(chosen, manifolds, strict=True)]
    for weight, manifold, value in zip(chosen, manifolds, values, strict=True):
        _attach(weight, manifold, value)
        logger.info("%s: %s, %s", weight.name, made.name, _kept(weight.parameter))
    return module


def release(module: M, weights: Weights = None) -> M:
    """Undo :func:`constrain`, in place: plain parameters of the same values, each the object that it was.

    Args:
        weights: as for :func:`constrain`; None for every constrained parameter.
    """
    parameters = module.parameters() if weights is None else [w.parameter for w in select(module, weights)]
    for parameter in list(parameters):
        if isinstance(parameter, geoopt.ManifoldTensor):
            watch = parameter.__dict__.pop("_watch", None)
            if watch is not None:
                watch.remove()
            del parameter.manifold
            # past ManifoldParameter's own guard, which keeps its class from torch's conversions
            object.__setattr__(parameter, "__class__", nn.Parameter)
    return module


@dataclass(frozen=True)
class Constrained:
    """One constrained weight: a row of :func:`describe`."""

    name: str
    shape: tuple[int, ...]
    manifold: str
    residual: float


def describe(module: nn.Module) -> list[Constrained]:
    """Print a table of the constrained weights of a module: name, shape, manifold, residual.

    Returns:
        The rows, a shared parameter once.
    """
    from rich.console import Console
    from rich.table import Table

    rows = [
        Constrained(name, tuple(p.shape), _kept(p), float(residual(p.detach(), p.manifold).amax()))
        for name, p in module.named_parameters()
        if isinstance(p, geoopt.ManifoldTensor) and type(p.manifold) is not geoopt.Euclidean
    ]
    table = Table()
    for heading in ("weight", "shape", "manifold", "residual"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(row.name, "×".join(map(str, row.shape)), row.manifold, f"{row.residual:.1e}")
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a file or a pipe wraps nothing by itself
    console.print(table if rows else f"{type(module).__name__}: no constrained weights")
    return rows


def _made(constraint: str | Constraint, options: dict[str, Any]) -> Constraint:
    if isinstance(constraint, Constraint):
        if options:
            raise UserError(
                f"{constraint.name} is made already, so {', '.join(options)} would be ignored: write "
                f'constrain(module, "{constraint.name}", …), or make it with them'
            )
        return constraint
    from sslmanifold.config.check import build

    cls = constraint_class(constraint)
    return build(cls, cls.alone(options), where="constraint")


def _manifold(constraint: Constraint, weight: Weight) -> "geoopt.Manifold":
    parameter = weight.parameter
    if type(parameter) not in (nn.Parameter, geoopt.ManifoldParameter, ManifoldParameter):
        raise UserError(
            f"{weight.name} is a {type(parameter).__name__}: constrain the module before it is sharded, quantised or "
            "wrapped"
        )
    if not parameter.is_floating_point() or parameter.is_meta:
        raise UserError(
            f"{weight.name} is {'on the meta device' if parameter.is_meta else parameter.dtype}: constrain it where "
            "it is real numbers"
        )
    try:
        base = constraint.manifold(weight.rows, weight.columns)
    except UserError as error:
        raise UserError(f"{weight.name}: {error}") from None
    if parameter.ndim == 2 and weight.blocks == 1:
        return base
    return Flattened(base, ndim=parameter.ndim, blocks=weight.blocks)


@torch.no_grad()
def _initial(
    weight: Weight, manifold: "geoopt.Manifold", init: str, generator: torch.Generator | None
) -> Tensor:
    """A feasible value for a weight, of its shape and dtype."""
    x = weight.parameter.detach().as_subclass(Tensor)  # type: ignore[arg-type]
    if init == "haar":
        x = _drawn(weight, manifold, generator).to(x)
    elif not bool(torch.isfinite(x).all()):
        raise UserError(f'{weight.name} holds NaN or infinity: write init="haar" to draw it')
    value = manifold.projx(x)
    worst, limit = float(residual(value, manifold).amax()), feasibility_tolerance(value.dtype)
    if not worst <= limit:
        raise UserError(f"{weight.name} cannot be projected: residual {worst:.3g}, allowed {limit:.0e}")
    return value


def _drawn(weight: Weight, manifold: "geoopt.Manifold", generator: torch.Generator | None) -> Tensor:
    """Haar matrices, in the kernel's shape, float64."""
    blocks = (weight.blocks,) if weight.blocks > 1 else ()
    drawn = haar(*blocks, weight.rows, weight.columns, generator=generator, dtype=torch.float64)
    return drawn.reshape(weight.parameter.shape)


@torch.no_grad()
def _attach(weight: Weight, manifold: "geoopt.Manifold", value: Tensor) -> None:
    parameter: Any = weight.parameter
    guard_assignments()
    Tensor.copy_(parameter, value)
    # The same object of another class: whoever holds it, an optimizer or a tied layer, holds the constrained one.
    parameter.__class__ = ManifoldParameter
    parameter.manifold = manifold
    if "_watch" in parameter.__dict__:
        parameter.__dict__.pop("_watch").remove()
    if parameter.requires_grad:
        parameter._watch = parameter.register_post_accumulate_grad_hook(_watch(weight.name))


def _watch(name: str) -> Callable[[Tensor], None]:
    """A hook on gradients that raises where a weight has left its manifold between two of them.

    It looks at the 2nd, 4th, 8th, … gradient: a plain optimizer is found at once or, with a tiny step, soon, and the
    cost vanishes.
    """
    count = 0

    def look(parameter: Tensor) -> None:
        nonlocal count
        count += 1
        if count & (count - 1) or count == 1:
            return
        worst = float(residual(parameter, parameter.manifold).amax())  # type: ignore[attr-defined]
        if not worst <= feasibility_tolerance(parameter.dtype) and worst == worst:
            raise UserError(
                f"{name} has left its manifold (residual {worst:.3g}): the optimizer takes plain steps; write "
                "RiemannianAdam(module.parameters(), lr=…) or RiemannianSGD, or release(module)"
            )

    return look


def _kept(parameter: Any) -> str:
    """What a weight's manifold keeps of it, in words."""
    manifold = parameter.manifold
    blocks = getattr(manifold, "blocks", 1)
    base = getattr(manifold, "base", manifold)
    rows, columns = parameter.shape[0] // blocks, parameter.shape[1:].numel()
    each = f"{blocks} × " if blocks > 1 else ""
    if isinstance(base, Stiefel | geoopt.Stiefel):
        what = "rows" if rows < columns else "columns" if rows > columns else "rows and columns"
        kappa = f", κ = {base.kappa:g}" if isinstance(base, Stiefel) else ""
        return f"{each}{rows}×{columns}, orthonormal {what}{kappa}"
    return f"{each}{rows}×{columns}, {base!r}"
