"""The LightningModule of an image encoder: views, loss, and the same rows and checkpoints as every run."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from sslmanifold.callbacks.observer import Observer, Recorded
from sslmanifold.callbacks.online_probe import OnlineProbe
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.callbacks.spectrum import SpectrumMonitor
from sslmanifold.constraints import Constraint
from sslmanifold.data.augmentation import Augmentation
from sslmanifold.data.image_stream import ImageBatch
from sslmanifold.errors import UserError
from sslmanifold.geometry import residual
from sslmanifold.loggers.metrics import MetricsLogger
from sslmanifold.models.encoder import EncoderNetwork, orthonormality_penalty
from sslmanifold.runs.keys import LOSS
from sslmanifold.training.interruption import stop
from sslmanifold.training.recorder import Recorder
from sslmanifold.training.resumable import between_steps, random_state, set_random_state

EMBEDDED_AT_ONCE = 512
BACKBONE = "backbone"  # the suffix of the keys that are measured on its features


class EncoderModule(Recorded):
    """Minimises a self-supervised loss over an encoder, some of whose weights stay on their manifolds.

    Args:
        network: the encoder.
        loss: called with projections (1, b, z) of the first view, the other views and, where it wants them, other
            images of the batch; gives (1,).
        constraint: which of the weights are on manifolds already.
        augmentation: draws the views, on the module's own device.
        optimizer: module → a Riemannian optimizer.
        schedule: step → factor on the learning rates.
        points: training images (n, c, H, W) uint8, on which embeddings are measured, without augmentation.
        penalised: the weights with a soft orthonormality penalty.
        penalty: its λ.
        negatives: other images to each, for losses that want them.
        hyperparameters: the resolved configuration, plain containers.
    """

    eigvals = None
    moment = None
    network: Any  # an EncoderNetwork, no chain of matrices

    def __init__(
        self,
        network: EncoderNetwork,
        loss: Any,
        constraint: Constraint,
        augmentation: Augmentation,
        optimizer: Callable[[torch.nn.Module], Optimizer],
        schedule: Callable[[int], float],
        points: Tensor,
        *,
        penalised: Sequence[Any] = (),
        penalty: float = 0.0,
        negatives: int = 1,
        hyperparameters: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss, self.constraint, self.augmentation = loss, constraint, augmentation
        self.build_optimizer, self.schedule = optimizer, schedule
        self.images = points
        self.penalised, self.penalty, self.negatives = penalised, penalty, negatives
        self.hyperparameters = hyperparameters or {}
        self.recorder = Recorder()
        self.project_on_load = False
        self.full_batch = False
        self.time = self.last_lr = 0.0
        self.steps_done = self.steps_skipped = 0
        self.diverged_at: int | None = None
        self.last_loss: Tensor | None = None
        self._losses: list[Tensor] = []
        self._stepped = False
        self._kept: list[Tensor] = []
        self._cache: dict[str, Tensor] = {}

    # -- training ---------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.build_optimizer(self.network)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor | None:
        if self.diverged_at is not None:
            return None
        if self._stepped:
            self._losses, self._stepped = [], False
        value = self.objective(batch)
        self._losses.append(value.detach())
        self.last_loss = torch.stack(self._losses).mean(0)
        if not torch.isfinite(self.last_loss).all():
            self._return_to_last_finite_state()
            return None
        self._keep()
        return value.sum()

    def objective(self, batch: ImageBatch) -> Tensor:
        """The loss of a batch, (1,), with the penalty."""
        views = torch.cat([self.augmentation(batch.images, draws) for draws in batch.draws])
        features = self.network.features(views)
        projected = self.network.project(features.float() if features.dtype.itemsize < 4 else features)
        with torch.autocast(projected.device.type, enabled=False):
            projected = projected.float() if projected.dtype.itemsize < 4 else projected
            u = projected.reshape(len(batch.draws), 1, len(batch.images), -1)  # (V·b, z) -> (V, 1, b, z)
            first, others = u[0], u[1:]
            positives = others[0] if len(others) == 1 else others.permute(1, 2, 0, 3)  # (1, b, V − 1, z)
            negatives = None
            if self.loss.contrastive:  # the order is random, so the next images of the batch are random ones
                rolled = [others[0].roll(shift, dims=1) for shift in range(1, self.negatives + 1)]
                negatives = rolled[0] if len(rolled) == 1 else torch.stack(rolled, dim=-2)
            loss = self.loss.at(self.steps_done) if hasattr(self.loss, "at") else self.loss
            value = loss(first, positives, negatives)
            if self.penalised:
                value = value + self.penalty * orthonormality_penalty(self.penalised)
        return value

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        lr = float(optimizer.param_groups[-1]["lr"])  # of free weights: those on manifolds may have a factor
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self._cache.clear()
        self._stepped = True
        if self.diverged_at is None:
            self.last_lr, self.time = lr, self.time + lr
            self.steps_done += 1

    def _state(self) -> list[Tensor]:
        return [*self.network.parameters(), *self.network.buffers()]

    @torch.no_grad()
    def _keep(self) -> None:
        """The weights of a finite loss; the step that leaves the finite numbers is undone from them."""
        if not self._kept:
            self._kept = [value.detach().clone() for value in self._state()]
        for kept, value in zip(self._kept, self._state(), strict=True):
            kept.copy_(value)

    @torch.no_grad()
    def _return_to_last_finite_state(self) -> None:
        self.diverged_at = self.steps_done
        if self._kept:
            self.steps_done = max(0, self.steps_done - 1)
        for kept, value in zip(self._kept, self._state(), strict=False):
            value.copy_(kept)
            value.grad = None
        self._cache.clear()
        stop(self.trainer)

    # -- measuring --------------------------------------------------------------------------------------

    @torch.no_grad()
    def embedded(self, images: Tensor) -> dict[str, Tensor]:
        """``features`` (n, k) and ``projections`` (n, z) of images (n, c, H, W), float64 on the CPU, in evaluation
        mode; no random number is drawn."""
        training = self.network.training
        self.network.eval()
        parts: list[tuple[Tensor, Tensor]] = []
        for chunk in images.split(EMBEDDED_AT_ONCE):
            features = self.network.features(chunk.to(self.device))
            parts.append((features.double().cpu(), self.network.project(features).double().cpu()))
        self.network.train(training)
        return {"features": torch.cat([p[0] for p in parts]), "projections": torch.cat([p[1] for p in parts])}

    def _points(self, name: str) -> Tensor:
        """Features or projections of the training points, (1, n, ·); computed once a step."""
        if name not in self._cache:
            self._cache |= {key: value[None] for key, value in self.embedded(self.images).items()}
        return self._cache[name]

    def embedding(self) -> Tensor:
        """Projections of the training points, (1, n, z), float64 on the CPU."""
        return self._points("projections")

    def _views(self) -> Tensor:
        """Projections of the views of the training points, (1, n, V, z)."""
        draws = [
            self.augmentation.draws(len(self.images), seed=0, epoch=0, view=view)
            for view in range(self.augmentation.views)
        ]
        found = [self.embedded(self.augmentation(self.images, one))["projections"] for one in draws]
        return torch.stack(found, dim=1)[None]

    def _residual(self) -> Tensor | None:
        worst = [
            residual(weight.detach(), weight.manifold).max().double().cpu()  # type: ignore[attr-defined]
            for weight in self.network.weights
        ]
        return torch.stack(worst).max()[None] if worst else None

    def snapshot(self, name: str = "projections") -> Snapshot:
        """The state after the last optimizer step: ``projections`` or ``features`` of the training points."""
        rows = self.recorder.rows
        return Snapshot(
            step=self.steps_done,
            time=self.time,
            previous=int(rows[-1]["step"]) if rows else None,
            embedding=lambda: self._points(name),
            views=self._views,
            loss=self.last_loss,
            residual=self._residual if name == "projections" else None,
        )

    def _labelled(self) -> Snapshot:
        """The features of all training images and of any others, normalised, for probes."""

        def features(images: Tensor) -> Tensor:
            return self.embedded(images)["features"][None]

        samples = self.trainer.datamodule.samples  # type: ignore[attr-defined]
        rows = self.recorder.rows
        return Snapshot(
            step=self.steps_done,
            previous=int(rows[-1]["step"]) if rows else None,
            embedding=lambda: features(samples.train_x),
            embed=features,
        )

    def measure(self) -> dict[str, Tensor]:
        """Every key of one row, (1,) each; ranks of the backbone's features under ``…/backbone``."""
        values: dict[str, Tensor] = {}
        if self.last_loss is not None:
            values[LOSS] = self.last_loss
        for observer in self._observers():
            if isinstance(observer, OnlineProbe):
                values |= observer.measure(self._labelled())
                continue
            values |= observer.measure(self.snapshot())
            if isinstance(observer, SpectrumMonitor):
                found = observer.measure(self.snapshot("features"))
                values |= {f"{key}/{BACKBONE}": value for key, value in found.items()}
        return values

    def record(self, *, closing: bool = False) -> None:
        """Write one row for the current state; see :meth:`Recorder.record` for ``closing``."""
        if self.recorder.rows and self.recorder.rows[-1]["step"] == self.steps_done:
            return
        if self.last_loss is None:  # the first row needs a loss, and draws no random number for it
            self.last_loss = self._first_loss()
        snapshot = self.snapshot()
        arrays: dict[str, Any] = {"time": self.time}
        for observer in self._observers():
            if not isinstance(observer, OnlineProbe):
                arrays |= observer.arrays(snapshot)
        loggers = []
        if self.trainer.is_global_zero:
            loggers = [logger for logger in self.trainer.loggers if not isinstance(logger, MetricsLogger)]
        values = self.measure()
        self.recorder.record(self.steps_done, values, arrays, loggers, closing=closing)
        for observer in self._observers():
            observer.after(snapshot, values)

    @torch.no_grad()
    def _first_loss(self) -> Tensor:
        """The loss of the first batch before any step, in training mode, batch statistics as they were."""
        before = [value.clone() for value in self.network.buffers()]
        batch = self.transfer_batch_to_device(self.next_batch(), self.device, 0)
        value = self.objective(batch)
        for buffer, kept in zip(self.network.buffers(), before, strict=True):
            buffer.copy_(kept)
        return value

    def _observers(self) -> list[Observer]:
        return [c for c in self.trainer.callbacks if isinstance(c, Observer)]  # type: ignore[attr-defined]

    @property
    def stepped(self) -> bool:
        return self._stepped

    def next_batch(self) -> ImageBatch:
        return self.trainer.train_dataloader.batch(self.steps_done)  # type: ignore[union-attr]

    def record_if_due(self) -> None:
        """Write the row of the current step if it is one of every ``trainer.log_every_n_steps``."""
        if self.diverged_at is None and self.steps_done % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.record()

    def record_start(self) -> None:
        """Write the row of the initial state, once; a resumed run has its rows already."""
        if self.steps_done == 0:
            self.record()
        self.recorder.write()

    def on_train_start(self) -> None:
        self.record_start()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.record_if_due()

    def on_train_end(self) -> None:
        self.record(closing=self.steps_done % self.trainer.log_every_n_steps != 0)  # type: ignore[attr-defined]

    # -- what only a chain of matrices has --------------------------------------------------------------

    def map(self) -> Tensor:
        raise UserError(
            "an encoder is no linear map: callbacks.ode and callbacks.optimum have nothing to read"
        )

    moment_loss = map

    def optimum(self) -> float | None:
        return None

    # -- checkpoints ------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["sslmanifold"] = {
            "config": self.hyperparameters,
            "kind": "encoder",
            "side": self.images.shape[-1],
            "planned_steps": self.trainer.max_steps,
            "time": self.time,
            "last_lr": self.last_lr,
            "steps_done": self.steps_done,
            "diverged_at": self.diverged_at,
            "steps_skipped": self.steps_skipped,
            "last_loss": self.last_loss,
            "recorder": self.recorder.state_dict(),
            "random": random_state(),
        }
        between_steps(checkpoint, self.steps_done * self.trainer.accumulate_grad_batches)  # type: ignore[attr-defined]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["sslmanifold"]
        self.time, self.steps_done, self.last_lr = saved["time"], saved["steps_done"], saved["last_lr"]
        self.last_loss = saved["last_loss"]
        self.recorder.load_state_dict(saved["recorder"])
        set_random_state(saved["random"])
        self._cache.clear()
