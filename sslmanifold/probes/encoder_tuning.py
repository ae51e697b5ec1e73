"""Fine-tuning of image encoders: a classification head on the features of the backbone, under weak augmentation."""

import copy
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy

from sslmanifold.constraints import release
from sslmanifold.data import Augmentation
from sslmanifold.geometry import RiemannianAdam, require_riemannian, residual
from sslmanifold.models.encoder import EncoderNetwork
from sslmanifold.probes.finetune import Freeze
from sslmanifold.training.parameter_groups import parameter_groups

# crops and flips alone: what a classifier is usually fine-tuned under
AUGMENTATION = Augmentation(crop=(0.6, 1.0), jitter=0.0, grey=0.0)
_RATE = 1e-3  # of a free weight, by entry


def trainable(network: EncoderNetwork, *, constrained: bool) -> EncoderNetwork:
    """A copy of an encoder whose backbone learns, its weights on their manifolds or, with ``constrained=False``,
    released from them."""
    made = copy.deepcopy(network)
    made.frozen = False
    made.projector = nn.Identity()  # a downstream task takes the features
    made.requires_grad_(True)
    return made if constrained else release(made)


class EncoderTuning(lightning.LightningModule):
    """x ↦ W f(x)/s + b with cross-entropy: f the backbone's features, s their global scale, (W, b) a linear head.

    Batches are images (n, c, H, W) uint8, labels (n,) and rows (n,): each row and epoch has its own crop and flip, a
    function of (seed, epoch, row), so that a fine-tuning that is resumed repeats them.

    Args:
        network: as :func:`trainable` gives it.
        classes: number of classes.
        features: k, the width of the features.
        rows: how many rows there are.
        scale: s, so that the head sees inputs of order one whatever the encoder.
        head_lr, backbone_lr: learning rates of Riemannian Adam; None for 1e-3, by entry of a weight, and as much for
            weights on manifolds (:func:`~sslmanifold.training.parameter_groups.parameter_groups`).
        weight_decay: of the head.
        seed: of crops and flips.
    """

    scale: Tensor

    def __init__(
        self,
        network: EncoderNetwork,
        classes: int,
        features: int,
        rows: int,
        *,
        scale: float = 1.0,
        head_lr: float = 5e-2,
        backbone_lr: float | None = None,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        dtype = network.mean.dtype
        self.head = nn.Linear(features, classes, dtype=dtype)
        self.register_buffer("scale", torch.tensor(scale, dtype=dtype))
        self.head_lr, self.weight_decay, self.rows, self.seed = head_lr, weight_decay, rows, seed
        self.backbone_lr = _RATE if backbone_lr is None else backbone_lr
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        self._draws: tuple[int, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits: images (n, c, H, W) → (n, classes)."""
        return self.head(self.network.features(x) / self.scale)

    def _draws_of(self, rows: Tensor) -> Tensor:
        epoch = self.current_epoch
        if self._draws is None or self._draws[0] != epoch:
            self._draws = epoch, AUGMENTATION.draws(self.rows, seed=self.seed, epoch=epoch, view=0)
        return self._draws[1][rows.cpu()]

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y, rows = batch
        views = AUGMENTATION(x, self._draws_of(rows)).to(self.head.weight.dtype)
        return nn.functional.cross_entropy(self(views), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.accuracy(logits, y)
        self.log("val/accuracy", self.accuracy)
        self.log("val/loss", nn.functional.cross_entropy(logits, y), batch_size=len(y))

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        return self(batch[0]).argmax(-1)

    def parts(self) -> list[nn.Module]:
        """The backbone's parts in the order in which an image passes them."""
        found = [part for part in self.network.backbone.children() if any(True for _ in part.parameters())]
        return found or [self.network.backbone]

    def groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """The optimizer's groups of one part of the backbone."""
        return parameter_groups(module, RiemannianAdam, lr=self.backbone_lr, weight_decay=0.0)

    def configure_optimizers(self) -> Optimizer:
        groups: list[dict[str, Any]] = [
            {"name": "head", "params": list(self.head.parameters()), "weight_decay": self.weight_decay}
        ]
        optimizer = RiemannianAdam([*groups, *self.groups(self.network.backbone)], lr=self.head_lr)
        require_riemannian(optimizer, self)
        return optimizer

    def constraint_residual(self) -> float:
        """How far the worst weight is from its manifold; 0 where none is on one."""
        worst = [float(residual(w.detach(), w.manifold).amax()) for w in self.network.weights]  # type: ignore[attr-defined]
        return max(worst, default=0.0)


class FreezingParts(Callback):
    """Which parts of a backbone learn, and from which epoch on; a part that does not learn keeps its batch statistics.

    ``backbone``: none; ``none``: all of them, from the start; ``gradual``: the head alone at first, then one more
    part every ``every`` epochs, the last first.
    """

    def __init__(self, freeze: Freeze, every: int) -> None:
        self.mode, self.every = freeze, every

    def _learning(self, epoch: int, parts: int) -> int:
        """How many parts learn, counted from the last."""
        if self.mode == "gradual":
            return min(parts, epoch // self.every)
        return 0 if self.mode == "backbone" else parts

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        parts = pl_module.parts()
        learning = self._learning(trainer.current_epoch, len(parts))
        for place, part in enumerate(reversed(parts)):
            part.requires_grad_(place < learning)
            part.train(place < learning)
