"""Writing an embedding as a torch program, as ONNX and as matrices, each read back and compared before it counts."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sslmanifold.constraints import release
from sslmanifold.errors import UserError
from sslmanifold.models import ConstrainedNetwork, LinearMap
from sslmanifold.models.encoder import EncoderNetwork
from sslmanifold.models.portable import PortableEmbedding
from sslmanifold.runs import atomic

# of the largest embedding; two float32 matrix products in another order differ by less
TOLERANCE = 1e-6
DEEP = 1e-4  # many layers of them

Exported = ConstrainedNetwork | LinearMap | EncoderNetwork


class PortableFeatures(torch.nn.Module):
    """The features of an image encoder: images (n, c, H, W) in [0, 1] → (n, k), its weights plain parameters."""

    def __init__(self, network: EncoderNetwork) -> None:
        super().__init__()
        self.network = release(copy.deepcopy(network))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network.features(x)


def _portable(network: Exported) -> torch.nn.Module:
    if isinstance(network, EncoderNetwork):
        return PortableFeatures(network).eval()
    return PortableEmbedding(network).eval()


def probe_points(network: Exported, rows: int = 16) -> torch.Tensor:
    """Raw inputs (rows, d_raw) or images (rows, c, H, W), float32, of the size that data have."""
    if isinstance(network, EncoderNetwork):
        shape = (rows, network.mean.shape[0], network.side, network.side)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    dim = network.preprocessing.input_dim(network.shape.dim)
    return torch.rand(rows, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def _difference(network: Exported, embed: Callable[[torch.Tensor], np.ndarray], path: Path) -> float:
    """Largest difference to the run's own embedding, relative to the largest embedding; raises above TOLERANCE."""
    worst = 0.0
    for rows in (1, 7, 16):  # any number of rows
        x = probe_points(network, rows)
        expected = network.embed(x).double().numpy()
        found = np.asarray(embed(x), dtype=np.float64)
        if found.shape != expected.shape:
            raise RuntimeError(f"{path} embeds into {found.shape} instead of {expected.shape}")
        worst = max(worst, float(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0)))
    tolerance = DEEP if isinstance(network, EncoderNetwork) else TOLERANCE
    if worst > tolerance:
        raise RuntimeError(f"{path} differs from the run by {worst:.2e}, more than {tolerance:.0e}")
    return worst


def write_torch(network: Exported, path: Path) -> tuple[Path, float]:
    """A program for ``torch.export.load(path).module()``, any number of rows; its difference to the run."""
    batch = torch.export.Dim("n", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            _portable(network), (probe_points(network),), dynamic_shapes=({0: batch},)
        )
        with atomic(path) as temporary:
            torch.export.save(program, temporary)
        module = torch.export.load(path).module()
    return path, _difference(network, lambda x: module(x).detach().numpy(), path)


def write_onnx(network: Exported, path: Path, opset: int) -> tuple[Path, float]:
    """An ONNX file with input ``x`` and output ``embedding``; its difference to the run under onnxruntime.

    Raises:
        UserError: without the packages onnx, onnxscript and onnxruntime.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"formats=onnx needs the package {error.name}: pip install 'sslmanifold[onnx]', or set formats=[torch,npz]"
        ) from error
    with torch.no_grad(), warnings.catch_warnings(), atomic(path) as temporary:
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _portable(network),
            (probe_points(network),),
            temporary,
            input_names=["x"],
            output_names=["embedding"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return path, _difference(network, lambda x: session.run(["embedding"], {"x": x.numpy()})[0], path)


def write_npz(network: Exported, path: Path) -> tuple[Path, float]:
    """Matrices: ``w1`` (h, d), …, ``wL`` (h, z), none of a head, which is its map; ``mean``, ``scale`` and
    ``components`` where there is preprocessing; the name ``activation``; and ``map`` (d, z), float64, of a linear
    network. A leading S with S > 1 replicas.

    With ``x = ((raw − mean) / scale) @ components`` the embedding is ``activation(x @ w1.T) @ w2``, or ``x @ map``.
    """
    if isinstance(network, EncoderNetwork):
        return _write_weights(network, path)
    portable = PortableEmbedding(network)
    arrays = {name: value.numpy() for name, value in portable.state_dict().items()}
    if network.linear and "map" not in arrays:
        chain = torch.from_numpy(arrays[f"w{portable.layers}"]).double()
        for index in range(portable.layers - 1, 1, -1):
            chain = torch.from_numpy(arrays[f"w{index}"]).double().mT @ chain
        arrays["map"] = (torch.from_numpy(arrays["w1"]).double().mT @ chain).numpy()
    with atomic(path) as temporary:
        np.savez_compressed(temporary, activation=np.array(portable.activation), **arrays)
    with np.load(path) as stored:
        return path, _difference(network, lambda x: embed_with(dict(stored), x.numpy()), path)


def _write_weights(network: EncoderNetwork, path: Path) -> tuple[Path, float]:
    """The weights of an image encoder under their names in ``state_dict``, read back and compared."""
    arrays = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)
    with np.load(path) as stored:
        if not all(np.array_equal(stored[name], value) for name, value in arrays.items()):
            raise RuntimeError(f"{path} does not hold the weights of the run")
    return path, 0.0


_NUMPY_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def embed_with(stored: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The embedding from the arrays of ``embedding.npz`` alone, in NumPy: (n, d_raw) → (n, z) or (S, n, z)."""
    points = np.asarray(x, dtype=np.float64)
    if "mean" in stored:
        points = points - stored["mean"]
    if "scale" in stored:
        points = points / stored["scale"]
    if "components" in stored:
        points = points @ stored["components"]
    if "map" in stored:
        return points @ stored["map"]
    layers = sorted(
        (name for name in stored if name[0] == "w" and name[1:].isdigit()), key=lambda name: int(name[1:])
    )
    hidden = _NUMPY_ACTIVATIONS[str(stored["activation"])](points @ np.swapaxes(stored["w1"], -1, -2))
    for name in layers[1:-1]:
        hidden = hidden @ np.swapaxes(stored[name], -1, -2)
    return hidden @ stored[layers[-1]]
