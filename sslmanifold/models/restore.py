"""A network from a run's configuration and checkpoint alone, without its data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sslmanifold.config.check import build_group
from sslmanifold.config.targets import Opened
from sslmanifold.constraints import Constraint, NetworkShape
from sslmanifold.errors import UserError
from sslmanifold.geometry import feasibility_tolerance, residual
from sslmanifold.models import Affine, ConstrainedNetwork, LinearMap
from sslmanifold.models.checkpoint_file import load_file
from sslmanifold.models.encoder import Encoder, EncoderNetwork

_PREFIX = "network."


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint, loaded without running any code it might carry (``weights_only``).

    Raises:
        UserError: where the file is damaged or was not written by sslmanifold.
    """
    checkpoint = load_file(path)
    parts = ("sslmanifold", "state_dict")
    if not (isinstance(checkpoint, dict) and all(isinstance(checkpoint.get(p), dict) for p in parts)):
        raise UserError(f"{path} is not a checkpoint of sslmanifold: pass a run's checkpoints/last.ckpt")
    return checkpoint


def require_feasible(
    state: dict[str, Any],
    constraint: Constraint,
    shape: NetworkShape,
    path: Path | str,
    *,
    project: bool = False,
    prefix: str = "",
) -> None:
    """Check, or with ``project`` make, every weight of a state dict a point of its manifold.

    Args:
        state: holds ``<prefix>weights.0``, …; projected weights replace the ones there.
        path: where the state came from, for the message.

    Raises:
        UserError: naming the weight, its residual and the way out.
    """
    for index, manifold in enumerate(constraint.manifolds(shape)):
        key = f"{prefix}weights.{index}"
        weight = state[key]
        if project:
            state[key] = manifold.projx(weight)
            continue
        worst, limit = float(residual(weight, manifold).amax()), feasibility_tolerance(weight.dtype)
        if not worst <= limit:
            raise UserError(
                f"{path}: W{index + 1} is off its manifold ({constraint.name}): residual {worst:.3g}, allowed "
                f"{limit:.0e}; to project it set project=true (train: checkpoint.project=true, in Python "
                "load_run(DIR, project=True))"
            )


def restore_network(
    config: dict[str, Any], checkpoint: dict[str, Any], path: Path, opened: Opened, *, project: bool = False
) -> ConstrainedNetwork | LinearMap | EncoderNetwork:
    """The network of a run, weights strictly as saved, in evaluation mode.

    Args:
        config: the run's configuration.
        checkpoint: as :func:`read_checkpoint` gives it.
        path: where it was read from, for messages.
        opened: the run folder, which may name only classes of this package and of those that it is trusted with.
        project: project weights that left their manifold instead of refusing them.

    Raises:
        UserError: for a checkpoint of another network, or weights that left their manifold (naming the residual).
    """
    kind = checkpoint["sslmanifold"].get("kind")
    if kind == "dynamics":
        return _restore_map(config, checkpoint["state_dict"], opened)
    state = {
        key.removeprefix(_PREFIX): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(_PREFIX)
    }
    constraint = build_group(config.get("constraint"), "constraint", opened)
    spec = build_group(config.get("model"), "model", opened)
    if (kind == "encoder") != isinstance(spec, Encoder):
        raise UserError(f"{path} does not hold the weights of the model that its config.yaml describes")
    if isinstance(spec, Encoder):
        side = int(checkpoint["sslmanifold"].get("side", 0))
        return _restore_encoder(spec, constraint, state, side, path, project=project)
    names = [f"weights.{i}" for i in range(spec.layers)]
    if not all(name in state for name in names):
        raise UserError(
            f"{path} does not hold the weights that its config.yaml describes: {', '.join(names)}"
        )
    # d: columns of W1 (h, d), rows of a head's W (d, z)
    shape = spec.shape(state[names[0]].shape[-2 if spec.layers == 1 else -1], constraint)
    expected, found = shape.matrices, [tuple(state[name].shape[-2:]) for name in names]
    if expected != found:
        raise UserError(f"{path}: its weights are {found}, its config.yaml describes {expected}")
    require_feasible(state, constraint, shape, path, project=project)
    affine = Affine(*(state.get(f"preprocessing.{part}") for part in ("mean", "components", "scale")))
    network = ConstrainedNetwork(shape, constraint, [state[name] for name in names], spec.activation, affine)
    network.load_state_dict(state, strict=True)
    return network.eval().requires_grad_(False)


def _restore_encoder(
    spec: Encoder,
    constraint: Constraint,
    state: dict[str, torch.Tensor],
    side: int,
    path: Path,
    *,
    project: bool,
) -> EncoderNetwork:
    """An image encoder; the file that its backbone once started from is not read."""
    if side <= 0 or not all(part in state for part in ("mean", "std")):
        raise UserError(f"{path} does not hold an encoder: train the run again")
    network = replace(spec, weights=None).build(
        side, state["mean"].flatten(), state["std"].flatten(), constraint, torch.Generator().manual_seed(0)
    )
    network = network.to(next(iter(state.values())).dtype)
    own = network.state_dict()
    for key in own.keys() | state.keys():
        if key not in own or key not in state or own[key].shape != state[key].shape:
            raise UserError(f"{path}: {key} is not what its config.yaml describes")
    for name, parameter in network.named_parameters():
        manifold = getattr(parameter, "manifold", None)
        if manifold is None:
            continue
        if project:
            state[name] = manifold.projx(state[name])
            continue
        worst, limit = float(residual(state[name], manifold).amax()), feasibility_tolerance(state[name].dtype)
        if not worst <= limit:
            raise UserError(
                f"{path}: {name} is off its manifold ({constraint.name}): residual {worst:.3g}, allowed {limit:.0e}; "
                "to project it set project=true (in Python load_run(DIR, project=True))"
            )
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def _restore_map(config: dict[str, Any], state: dict[str, torch.Tensor], opened: Opened) -> LinearMap:
    """The map that ``sslmanifold dynamics`` solved for."""
    affine = Affine(*(state.get(f"preprocessing.{part}") for part in ("mean", "components", "scale")))
    m = state["m"]
    constraint = build_group(config.get("constraint"), "constraint", opened)
    hidden = build_group(config.get("model"), "model", opened).shape(m.shape[-2], constraint).hidden
    return LinearMap(m, hidden, affine).eval()
