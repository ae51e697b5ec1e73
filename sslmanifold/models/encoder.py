"""An image encoder: a backbone whose features are kept, and a projector whose output the loss sees."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from sslmanifold.constraints import Constraint, NetworkShape, Orthogonal
from sslmanifold.constraints.constrain import constrain
from sslmanifold.constraints.selection import select
from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.models.backbones import backbone, load_weights

Norm = Literal["batch", "layer", "none"]
# which weights a word stands for
PLACES = {"projector": ["projector.*weight"], "backbone": ["backbone.*weight"], "all": ["*.weight"]}


class EncoderNetwork(nn.Module):
    """u = projector(backbone(x)) of images (n, c, H, W), uint8 or in [0, 1].

    Attributes:
        backbone: normalised images (n, 3, H, W) → features (n, k).
        projector: features → (n, z).
        mean, std: of the channels, as images are normalised with.
        side: of the images that it was made for.
        unit: whether projections are scaled to length 1.
    """

    mean: Tensor
    std: Tensor
    side = 0

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        mean: Tensor,
        std: Tensor,
        *,
        unit: bool,
        frozen: bool,
    ) -> None:
        super().__init__()
        self.backbone, self.projector, self.unit, self.frozen = backbone, projector, unit, frozen
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("std", std.view(-1, 1, 1))
        if frozen:
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "EncoderNetwork":
        """As in torch, but that a frozen backbone stays in evaluation mode: its batch statistics are frozen too."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """What a downstream task takes: the backbone's output, (n, k)."""
        weight = self.mean
        x = x.to(weight.dtype) / 255 if x.dtype == torch.uint8 else x
        x = ((x - self.mean) / self.std).expand(-1, 3, -1, -1)
        found = self.backbone(x.contiguous(memory_format=torch.channels_last))  # a third faster on CPUs
        if not isinstance(found, Tensor) or found.ndim != 2:
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise UserError(f"model.backbone gives {what} for {len(x)} images: features (n, k) are needed")
        return found

    def project(self, features: Tensor) -> Tensor:
        """Features (n, k) → what the loss compares, (n, z)."""
        projected = self.projector(features)
        return unit_length(projected, dim=-1) if self.unit else projected

    def forward(self, x: Tensor) -> Tensor:
        """Projections (n, z)."""
        return self.project(self.features(x))

    @torch.no_grad()
    def embed(self, x: Any) -> Tensor:
        """Features (n, k) of raw images: uint8, or floats in [0, 1], as (n, c, H, W) or (n, H, W, c).

        Raises:
            UserError: for arrays that are no images of this encoder's channels.
        """
        images = torch.as_tensor(x)
        channels = self.mean.shape[0]
        if images.ndim == 4 and images.shape[1] != channels and images.shape[-1] == channels:
            images = images.permute(0, 3, 1, 2)
        if images.ndim != 4 or images.shape[1] != channels:
            raise UserError(
                f"embed: images of shape {tuple(images.shape)} are not (n, {channels}, H, W) or (n, H, W, {channels})"
            )
        device = self.mean.device
        return torch.cat([self.features(chunk.to(device)) for chunk in images.split(512)])

    @property
    def weights(self) -> list[Tensor]:
        """Those on a manifold, in the module's order."""
        return [p for p in self.parameters() if isinstance(p, geoopt.ManifoldTensor)]


@dataclass(kw_only=True)
class Encoder:
    """An encoder as it is asked for, before the images are known.

    Args:
        backbone: small_resnet, resnet18, resnet34, resnet50, convnext_tiny, vit_b_16, or timm:NAME.
        width: of small_resnet, whose features have 4·width numbers.
        weights: a file of the backbone's weights, safetensors or torch's; None to draw them.
        freeze: train the projector alone; the backbone stays as it is, in evaluation mode.
        embedding: z, the width of the projector's output.
        hidden: the width of its hidden layers.
        layers: of the projector; 0: the loss sees the features themselves.
        norm: between its layers: batch, layer or none.
        normalize: projections of length 1, for losses that do not normalise themselves (Eqs. 1 and 2).
        constrain: the weights that ``constraint`` holds on their manifolds: projector, backbone, all, or patterns of
            names such as "backbone.layer?.conv*.weight". A square weight under κ = 0, which would never move, has
            κ = 1.
        penalty: λ of the soft alternative, λ Σ ‖WᵀW − I‖²_F/p over the same weights, which stay free; 0 for none.

    Raises:
        UserError: see :meth:`build`.
    """

    backbone: str = "small_resnet"
    width: Annotated[int, Field(gt=0)] = 16
    weights: str | None = None
    freeze: bool = False
    embedding: Annotated[int, Field(gt=0)] = 64
    hidden: Annotated[int, Field(gt=0)] = 256
    layers: Annotated[int, Field(ge=0)] = 2
    norm: Norm = "batch"
    normalize: bool = False
    constrain: str | list[str] = "projector"
    penalty: Annotated[float, Field(ge=0)] = 0.0
    activation: ClassVar[str] = "relu"

    def __post_init__(self) -> None:
        if self.freeze and not self.layers:
            raise UserError(
                "model.freeze=true with model.layers=0 leaves nothing to train: set model.layers=2"
            )

    def shape(self, dim: int, constraint: Constraint | None = None) -> NetworkShape:
        """Refused: an encoder is no chain of matrices, and has no exact flow.

        Raises:
            UserError: always.
        """
        raise UserError(
            "model=encoder is no chain of matrices, which the exact dynamics are of: `sslmanifold train` trains it; "
            "for its dynamics set model=two_layer or head"
        )

    @property
    def patterns(self) -> list[str]:
        """Patterns of the weights that are constrained."""
        if isinstance(self.constrain, str):
            return PLACES.get(self.constrain, [self.constrain])
        return [pattern for entry in self.constrain for pattern in PLACES.get(entry, [entry])]

    def build(
        self, side: int, mean: Tensor, std: Tensor, constraint: Constraint, generator: torch.Generator
    ) -> EncoderNetwork:
        """An encoder for images side × side, its weights drawn from the generator, the constrained ones feasible.

        Raises:
            UserError: an unknown backbone, weights that do not fit, a pattern without a match, a constraint that
                binds several layers together.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            made = backbone(self.backbone, side=side, width=self.width)
            if self.weights is not None:
                load_weights(made, self.weights)
            network = EncoderNetwork(made, nn.Identity(), mean, std, unit=self.normalize, frozen=self.freeze)
            network.side = side
            network.projector = self._projector(_width_of(network, side))
            network.to(memory_format=torch.channels_last)
        self._constrain(network, constraint)
        return network

    def _projector(self, features: int) -> nn.Module:
        """Linear layers, each but the last with its normalisation and ReLU: k → hidden → … → z."""
        parts: list[nn.Module] = []
        for index in range(self.layers):
            last = index == self.layers - 1
            width = self.embedding if last else self.hidden
            parts.append(nn.Linear(features, width, bias=self.norm == "none" or last))
            if not last:
                if self.norm != "none":
                    parts.append(nn.BatchNorm1d(width) if self.norm == "batch" else nn.LayerNorm(width))
                parts.append(nn.ReLU())
            features = width
        return nn.Sequential(*parts)

    def _constrain(self, network: EncoderNetwork, constraint: Constraint) -> None:
        if constraint.name == "none" or self.penalty:
            return
        if constraint.name in ("product", "scaled"):
            raise UserError(
                f"constraint={constraint.name} binds all layers of a network of two weights together, which an "
                "encoder is not: set constraint=orthogonal, operator_norm, frobenius or none"
            )
        if not self.layers and self.constrain == "projector":
            raise UserError(
                "model.layers=0 leaves no projector to constrain: set model.constrain=backbone, or constraint=none"
            )
        if self.freeze and any(pattern.startswith(("backbone", "*")) for pattern in self.patterns):
            raise UserError(
                f"model.constrain={self.constrain} would change a frozen backbone: set model.constrain=projector"
            )
        chosen = select(network, self.patterns)
        square = [w.parameter for w in chosen if w.rows == w.columns]
        if square and isinstance(constraint, Orthogonal) and constraint.flow_kappa == 0:
            # on a square matrix κ = 0 leaves nothing to move
            constrain(network, Orthogonal(metric="euclidean"), weights=square)
            chosen = [w for w in chosen if w.rows != w.columns]
        if chosen:
            constrain(network, constraint, weights=[w.parameter for w in chosen])

    def penalised(self, network: EncoderNetwork) -> Any:
        """The weights that the soft penalty is on, as :func:`~sslmanifold.constraints.constrain` would choose them."""
        return select(network, self.patterns) if self.penalty else []


@torch.no_grad()
def _width_of(network: EncoderNetwork, side: int) -> int:
    """k of the backbone, from one blank image."""
    before = network.training
    network.eval()
    try:
        found = network.features(torch.zeros(1, 3, side, side))
    except RuntimeError as error:
        raise UserError(
            f"model.backbone cannot take images of {side}×{side} ({' '.join(str(error).split())[:120]}): set data.size"
        ) from None
    network.train(before)
    return found.shape[1]


def orthonormality_penalty(weights: Any) -> Tensor:
    """Σ ‖WᵀW − I‖²_F / p over weights (n, p) read as matrices, WWᵀ where they are wide: 0 for orthonormal ones."""
    total = torch.zeros(())
    for weight in weights:
        matrix = weight.parameter.reshape(weight.blocks, weight.rows, weight.columns)
        if weight.rows < weight.columns:
            matrix = matrix.mT
        p = matrix.shape[-1]
        eye = torch.eye(p, device=matrix.device, dtype=matrix.dtype)
        total = total.to(matrix) + (matrix.mT @ matrix - eye).square().sum() / p
    return total
