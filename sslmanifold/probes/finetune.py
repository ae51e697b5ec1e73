"""Fine-tuning: a classification head on the pretrained encoder, whose weights stay on their manifolds."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy

from sslmanifold.constraints import make_constraint
from sslmanifold.geometry import RiemannianAdam, Stiefel, require_riemannian
from sslmanifold.models import ConstrainedNetwork

Freeze = Literal["backbone", "none", "gradual"]


def released(
    network: ConstrainedNetwork, *, constrained: bool = True, replica: int = 0
) -> ConstrainedNetwork:
    """A trainable copy of one replica, on its manifolds or, with ``constrained=False``, free of them."""
    weights = [
        weight.detach().as_subclass(Tensor)[replica : replica + 1].clone() for weight in network.weights
    ]
    manifolds = [weight.manifold for weight in network.weights]
    if not constrained:
        manifolds = make_constraint("none").manifolds(network.shape)
    return ConstrainedNetwork(
        network.shape,
        _Manifolds(manifolds),  # type: ignore[arg-type]
        weights,
        network.activation,
        network.preprocessing,
    )


@dataclass(frozen=True)
class _Manifolds:
    """Stands in for a constraint where only its manifolds matter."""

    of_weights: list[Any]

    def manifolds(self, shape: Any) -> list[Any]:
        return self.of_weights


def backbone_step(weight: Tensor) -> float:
    """Riemannian Adam's default step: a length on Stiefel manifolds, one per coordinate elsewhere.

    On a Stiefel manifold Adam divides by one number per matrix, so that a step is about ``lr`` long in all;
    elsewhere every coordinate moves by about ``lr``.
    """
    return 5e-2 if isinstance(weight.manifold, Stiefel) else 1e-3  # type: ignore[attr-defined]


class FineTuning(lightning.LightningModule):
    """x ↦ W u(x)/s + b with cross-entropy: u the encoder, s its global scale, (W, b) a linear head.

    One Riemannian Adam serves both: it steps the head as Adam does, and the encoder along its manifolds.

    Args:
        network: one replica of a pretrained encoder.
        classes: number of classes.
        scale: s, so that the head sees inputs of order one whatever the encoder.
        head_lr, backbone_lr: learning rates; None for :func:`backbone_step` of each weight.
        weight_decay: of the head.
    """

    def __init__(
        self,
        network: ConstrainedNetwork,
        classes: int,
        *,
        scale: float = 1.0,
        head_lr: float = 5e-2,
        backbone_lr: float | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        dtype = network.weights[0].dtype
        self.head = nn.Linear(network.shape.embedding, classes, dtype=dtype)
        self.register_buffer("scale", torch.tensor(scale, dtype=dtype))
        self.head_lr, self.backbone_lr, self.weight_decay = head_lr, backbone_lr, weight_decay
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def forward(self, x: Tensor) -> Tensor:
        """Logits: prepared inputs (n, d) → (n, classes)."""
        return self.head(self.network(x.to(self.head.weight.dtype))[0] / self.scale)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.accuracy(logits, y)
        self.log("val/accuracy", self.accuracy)
        self.log("val/loss", nn.functional.cross_entropy(logits, y), batch_size=len(y))

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        return self(batch[0]).argmax(-1)

    def group(self, weight: Tensor) -> dict[str, Any]:
        """The optimizer's group of one encoder weight."""
        lr = backbone_step(weight) if self.backbone_lr is None else self.backbone_lr
        return {"params": [weight], "lr": lr, "weight_decay": 0.0}

    def configure_optimizers(self) -> Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": list(self.head.parameters()), "weight_decay": self.weight_decay}
        ]
        groups += [self.group(weight) for weight in self.network.weights if weight.requires_grad]
        optimizer = RiemannianAdam(groups, lr=self.head_lr)
        require_riemannian(optimizer, self)
        return optimizer


class Freezing(BaseFinetuning):
    """Which weights of the encoder learn, and from which epoch on.

    ``backbone``: none; ``none``: all of them, from the start; ``gradual``: the head alone at first, then one
    more layer every ``every`` epochs, the last layer first.
    """

    def __init__(self, freeze: Freeze, every: int) -> None:
        super().__init__()
        self.mode, self.every = freeze, every

    def freeze_before_training(self, pl_module: lightning.LightningModule) -> None:
        if self.mode != "none":
            self.freeze(pl_module.network)  # type: ignore[arg-type]

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
        if self.mode != "gradual":
            return
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for place, weight in enumerate(reversed(list(pl_module.network.weights)), start=1):
            if epoch >= place * self.every:
                weight.requires_grad_(True)  # also after a resume, where only the groups come back
                if id(weight) not in held:
                    optimizer.add_param_group(pl_module.group(weight))


@dataclass(kw_only=True)
class FineTune:
    """How to fine-tune; the classifier of ``probe=finetune``.

    Attributes:
        freeze: backbone (the head alone learns) | none (everything does) | gradual.
        unfreeze_every: epochs between layers of ``gradual``.
        constraint: keep (weights stay on the manifolds of the run) | none (they are released).
        head_lr, backbone_lr: learning rates of Riemannian Adam; "auto" for :func:`backbone_step`.
        weight_decay: of the head.
        fractions: parts of the training labels to learn from; the largest gives the accuracy reported.
        epochs: at most so many.
        patience: stop after so many epochs without a smaller validation loss; the epoch with the best
            validation accuracy is the one kept.
        batch_size: samples per step.
        resume: go on from ``probes/finetune/*/last.ckpt`` where there is one.
    """

    name = "finetune"

    freeze: Freeze = "none"
    unfreeze_every: Annotated[int, Field(gt=0)] = 3
    constraint: Literal["keep", "none"] = "keep"
    head_lr: Annotated[float, Field(gt=0)] = 5e-2
    backbone_lr: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    fractions: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = field(
        default_factory=lambda: [0.01, 0.1, 1.0]
    )
    epochs: Annotated[int, Field(gt=0)] = 60
    patience: Annotated[int, Field(gt=0)] = 5
    batch_size: Annotated[int, Field(gt=0)] = 128
    resume: bool = False

    @property
    def encoder_lr(self) -> float | None:
        """``backbone_lr``, None for "auto"."""
        return None if self.backbone_lr == "auto" else float(self.backbone_lr)

    def __post_init__(self) -> None:
        self.fractions = sorted(self.fractions)
