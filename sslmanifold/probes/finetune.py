"""Fine-tuning: a classification head on the pretrained encoder, whose weights keep their constraint."""

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
from sslmanifold.constraints.step import after_step, before_step
from sslmanifold.geometry import RiemannianAdam, Stiefel, require_riemannian
from sslmanifold.models import ConstrainedNetwork

Freeze = Literal["backbone", "none", "gradual"]


def released(
    network: ConstrainedNetwork, *, constrained: bool = True, replica: int = 0
) -> ConstrainedNetwork:
    """A trainable copy of one replica, under its constraint or, with ``constrained=False``, free of it."""
    weights = [
        weight.detach().as_subclass(Tensor)[replica : replica + 1].clone() for weight in network.weights
    ]
    constraint = network.constraint if constrained else make_constraint("none")
    return ConstrainedNetwork(network.shape, constraint, weights, network.activation, network.preprocessing)


def backbone_step(weight: Tensor) -> float:
    """Riemannian Adam's default step: a length on Stiefel manifolds, one per coordinate elsewhere.

    On a Stiefel manifold Adam divides by one number per matrix, so that a step is about ``lr`` long in all;
    elsewhere every coordinate moves by about ``lr``.
    """
    return 5e-2 if isinstance(weight.manifold, Stiefel) else 1e-3  # type: ignore[attr-defined]


class FineTuning(lightning.LightningModule):
    """x ↦ W u(x)/s + b with cross-entropy: u the encoder, s its global scale, (W, b) a linear head.

    One Riemannian Adam serves both: it steps the head as Adam does, and the encoder along its manifolds. What is
    differentiated is what the encoder's constraint makes of the cross-entropy, and after a step the constraint puts
    back what it binds together, as in the encoder's own training.

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
        norm = self._norm()
        self.scale_free = norm is not None
        scale = scale if norm is None else scale / float(norm.detach())
        self.register_buffer("scale", torch.tensor(scale, dtype=dtype))
        self.head_lr, self.backbone_lr, self.weight_decay = head_lr, backbone_lr, weight_decay
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        self._objective: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits: prepared inputs (n, d) → (n, classes)."""
        u = self.network(x.to(self.head.weight.dtype))[0]
        norm = self._norm()
        return self.head((u if norm is None else u / norm) / self.scale)

    def _norm(self) -> Tensor | None:
        """What the constraint divides embeddings by, (1,), differentiable."""
        return self.network.constraint.embedding_scale(list(self.network.weights))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y).unsqueeze(0)  # (1,): one replica
        self._objective = None
        if not self.scale_free:  # else the logits are of u/s already
            loss = self.network.constraint.smooth_part(loss, list(self.network.weights))
            self._objective = loss.detach()
        return loss.sum()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self._objective is not None:
            before_step(self.network.constraint, list(self.network.weights), self._objective, optimizer)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        after_step(self.network.constraint, list(self.network.weights))

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

    def constraint_residual(self) -> float:
        """How far the weights are from feasible, the worst layer."""
        return float(self.network.constraint.residual(list(self.network.weights)).amax())

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
        constraint: keep (the constraint of the run goes on) | none (the weights are released from it).
        head_lr, backbone_lr: learning rates of Riemannian Adam; "auto" for :func:`backbone_step`, on an image encoder
            for 1e-3 by entry of a weight.
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
