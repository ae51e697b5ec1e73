"""A network from a run's configuration and checkpoint alone, without its data."""

import pickle
from pathlib import Path
from typing import Any

import torch

from sslmanifold.config.check import build_group
from sslmanifold.errors import UserError
from sslmanifold.models import Affine, ConstrainedNetwork

_PREFIX = "network."


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint, loaded without running any code it might carry (``weights_only``).

    Raises:
        UserError: where the file is damaged or was not written by sslmanifold.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or "sslmanifold" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of sslmanifold: pass a run's checkpoints/last.ckpt")
    return checkpoint


def restore_network(config: dict[str, Any], path: Path) -> ConstrainedNetwork:
    """The network of a run, weights strictly as saved, in evaluation mode.

    Raises:
        UserError: for a damaged checkpoint, or weights that left their manifold (naming the residual).
    """
    state = {
        key.removeprefix(_PREFIX): value
        for key, value in read_checkpoint(path)["state_dict"].items()
        if key.startswith(_PREFIX)
    }
    constraint = build_group(config["constraint"], "constraint")
    spec = build_group(config["model"], "model")
    weights = [state[f"weights.{i}"] for i in range(spec.layers)]
    shape = spec.shape(weights[0].shape[-1])
    affine = Affine(state.get("preprocessing.mean"), state.get("preprocessing.components"))
    network = ConstrainedNetwork(shape, constraint, weights, spec.activation, affine)
    network.load_state_dict(state, strict=True)
    return network.eval().requires_grad_(False)
