"""Which weights of a module are meant by patterns or layers, and how each is read as matrices."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from sslmanifold.errors import UserError

#: What may stand for weights: patterns of parameter names, layers, parameters.
Weights = str | nn.Module | nn.Parameter | Sequence["str | nn.Module | nn.Parameter"] | None

_EMBEDDINGS = nn.Embedding | nn.EmbeddingBag
_GATES = {"LSTM": 4, "GRU": 3}


@dataclass(frozen=True)
class Weight:
    """A parameter (out, in, k₁, …) read as ``blocks`` matrices of out/blocks × in·k₁·…, one below the other.

    Attributes:
        name: in the module that was searched; of a shared parameter the first.
        parameter: itself.
        blocks: groups of a convolution; the projections q, k, v of attention; gates of a recurrent layer.
        layer: whether it is the weight of a linear, convolution, attention or recurrent layer.
    """

    name: str
    parameter: nn.Parameter
    blocks: int
    layer: bool

    @property
    def rows(self) -> int:
        return self.parameter.shape[0] // self.blocks

    @property
    def columns(self) -> int:
        return self.parameter.shape[1:].numel()


def _read(module: nn.Module, name: str, full: str) -> Weight | str:
    """The weight ``name`` of a module, or why it is none."""
    parameter = module._parameters[name]
    assert parameter is not None
    if is_lazy(parameter):
        return f"{full} has no shape yet: run one batch through the module first"
    blocks, layer = 1, True
    if isinstance(module, _ConvNd) and name == "weight":
        blocks = module.groups
    elif isinstance(module, nn.MultiheadAttention) and name.endswith("proj_weight"):
        blocks = 3 if name == "in_proj_weight" else 1
    elif isinstance(module, nn.RNNBase) and name.startswith("weight_"):
        blocks = 1 if name.startswith("weight_hr") else _GATES.get(module.mode, 1)
    elif not (isinstance(module, nn.Linear) and name == "weight"):
        layer = False
        if parameter.ndim != 2:
            return (
                f"{full} of shape {tuple(parameter.shape)} is no matrix: weights of nn.Linear, nn.Conv1d/2d/3d, "
                "nn.MultiheadAttention and parameters of two dimensions can be constrained"
            )
    return Weight(full, parameter, blocks, layer)


def _named(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(full name, its module, its name there) of every parameter, shared ones under each of their names."""
    for prefix, child in module.named_modules(remove_duplicate=False):
        for name, parameter in child._parameters.items():
            if parameter is not None:
                yield (f"{prefix}.{name}" if prefix else name), child, name


def select(module: nn.Module, weights: Weights = None) -> list[Weight]:
    """The weights of a module that are meant, each parameter once, in the module's order.

    Args:
        weights: one or several of

            * a pattern of parameter names, as in ``fnmatch``: ``"projector.*.weight"``; biases and other vectors that
              it matches are passed over;
            * a layer, or a module of layers: ``model.projector``;
            * a parameter;

            None for the weights of all linear, convolution, attention and recurrent layers.

    Raises:
        UserError: for a pattern that matches nothing (near names are listed) or no matrix, and for a layer or
            parameter that is not in the module.
    """
    names = list(_named(module))
    found = {full: _read(child, name, full) for full, child, name in names}
    if weights is None:
        chosen = {full for full, weight in found.items() if isinstance(weight, Weight) and weight.layer}
        if not chosen:
            raise UserError(
                f"{type(module).__name__} has no linear, convolution, attention or recurrent layer: write "
                'weights=["name"] with the names of its matrices'
            )
    else:
        several = [weights] if isinstance(weights, str | nn.Module | nn.Parameter) else list(weights)
        if not several:
            raise UserError('weights=[] names no weight: write weights=["*.weight"], or leave it out for all')
        chosen = set()
        for entry in several:
            chosen |= _chosen(module, entry, names, found)
    once: dict[int, Weight] = {}
    for full, weight in found.items():
        if full in chosen and isinstance(weight, Weight):
            once.setdefault(id(weight.parameter), weight)
    return list(once.values())


def _chosen(
    module: nn.Module,
    entry: "str | nn.Module | nn.Parameter",
    names: list[tuple[str, nn.Module, str]],
    found: dict[str, Weight | str],
) -> set[str]:
    """Full names of what one entry means."""
    if isinstance(entry, str):
        matched = [full for full in found if fnmatchcase(full, entry)]
        if not matched:
            raise UserError(f"weights={entry!r} matches no parameter{_near(module, entry, found)}")
        what = f"weights={entry!r}"
    elif isinstance(entry, nn.Module):
        inside = set(entry.modules())
        matched = [full for full, child, _ in names if child in inside and not isinstance(child, _EMBEDDINGS)]
        what = f"the {type(entry).__name__} among weights"
        if entry not in set(module.modules()):
            raise UserError(f"{what} is not in {type(module).__name__}: give layers of the module itself")
        layers = [full for full in matched if isinstance(w := found[full], Weight) and w.layer]
        matched = layers or matched
    elif isinstance(entry, nn.Parameter):
        matched = [full for full, child, name in names if child._parameters[name] is entry]
        what = f"the parameter of shape {tuple(entry.shape)} among weights"
        if not matched:
            raise UserError(f"{what} is not in {type(module).__name__}: give parameters of the module itself")
    else:
        raise UserError(
            f'weights={entry!r} is no pattern, layer or parameter: write weights=["projector.*.weight"]'
        )
    able = {full for full in matched if isinstance(found[full], Weight)}
    if not able:
        reasons = [reason for full in matched if isinstance(reason := found[full], str)]
        raise UserError(f"{what}: {reasons[0] if reasons else 'it has no weights'}")
    return able


def _near(module: nn.Module, pattern: str, found: dict[str, Weight | str]) -> str:
    """The names that may have been meant, as the end of a sentence."""
    able = [full for full, weight in found.items() if isinstance(weight, Weight)]
    inside = [full for full in able if full.startswith(pattern.rstrip(".") + ".")]
    if inside:  # a module was named
        return f': write weights="{pattern.rstrip(".")}.*" for the weights in it ({", ".join(inside[:3])}, …)'
    near = difflib.get_close_matches(pattern, able, n=5, cutoff=0.4) or able[:5]
    return f": near are {', '.join(near)}" if near else f": {type(module).__name__} has no matrix at all"
