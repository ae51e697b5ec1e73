"""The LightningModule: a constrained network, its loss, and the bookkeeping of one training run."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from sslmanifold.callbacks.observer import Observer, Recorded
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.constraints import Constraint
from sslmanifold.constraints.step import after_step, before_step
from sslmanifold.data import TripletBatch
from sslmanifold.errors import UserError
from sslmanifold.geometry import require_riemannian
from sslmanifold.loggers.metrics import MetricsLogger
from sslmanifold.models import ConstrainedNetwork
from sslmanifold.models.restore import require_feasible
from sslmanifold.runs.keys import GAP, LOSS
from sslmanifold.theory import eigenvalues
from sslmanifold.training.clipping import before_clipped_step
from sslmanifold.training.interruption import stop
from sslmanifold.training.recorder import Recorder
from sslmanifold.training.replica_chunks import ChunkedObjective, chunk_size
from sslmanifold.training.resumable import between_steps, random_state, set_random_state


class SSLModule(Recorded):
    """Minimises a self-supervised loss over a network whose weights stay on their manifolds.

    Time is t = Σ lr of the loss as differentiated, the time of the flows in :mod:`sslmanifold.theory`.

    Args:
        network: the model; its replicas train side by side and independently.
        loss: called with embeddings (S, n, z) of anchors, positives and negatives, gives (S,); where it has ``at``,
            ``loss.at(step)`` is called instead.
        constraint: turns the loss into the objective and knows the flow.
        optimizer: parameters → a Riemannian optimizer.
        schedule: step → factor on the learning rate.
        points: training points (n, d), float64, on which embeddings are measured.
        moment: C as differentiated (d, d), float64, or None where no such matrix exists.
        through_moment: whether a training step uses C instead of the data; the trajectory is the same to
            rounding for a linear network on frozen triplets and full batches.
        full_batch: whether every step sees every triplet, the same each time.
        hyperparameters: the resolved configuration, plain containers.

    Attributes:
        batches: those whose gradients the last step averaged; one, or as many as are accumulated.
        last_loss: the mean of their losses, (S,), before the step.
        step_factor: by what factor clipping shortened the last step, (S,); None where nothing clips.
        steps_skipped: steps that the loss scaling of float16 left out: they count, and take no time.
    """

    points: Tensor
    moment: Tensor | None
    step_moment: Tensor | None

    def __init__(
        self,
        network: ConstrainedNetwork,
        loss: Callable[..., Tensor],
        constraint: Constraint,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        schedule: Callable[[int], float],
        points: Tensor,
        moment: Tensor | None,
        *,
        through_moment: bool,
        full_batch: bool,
        hyperparameters: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.constraint = constraint
        self.build_optimizer = optimizer
        self.schedule = schedule
        self.through_moment = through_moment
        self.full_batch = full_batch
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("moment", moment, persistent=False)
        dtype = network.weights[0].dtype
        self.register_buffer(
            "step_moment",
            moment.to(dtype) if through_moment and moment is not None else None,
            persistent=False,
        )
        self.eigvals = None if moment is None else eigenvalues(moment)
        self.hyperparameters = hyperparameters or {}
        self.recorder = Recorder()
        self.project_on_load = False
        self.time = 0.0
        self.last_lr = 0.0
        self.diverged_at: int | None = None
        self.steps_done = 0
        self.last_loss: Tensor | None = None
        self.batches: list[TripletBatch] = []
        self.step_factor: Tensor | None = None
        self.steps_skipped = 0
        self._batch: TripletBatch | None = None
        self._losses: list[Tensor] = []
        self._stepped = self._taken = False
        self._kept: list[Tensor] = []
        self._cache: dict[str, Tensor] = {}

    # -- training ---------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.build_optimizer(list(self.network.weights))
        require_riemannian(optimizer, self)
        optimizer.register_step_post_hook(self._note_step)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: TripletBatch, batch_idx: int) -> Tensor | None:
        if self.diverged_at is not None:
            return None
        objective = self.objective(batch)
        if self._stepped:
            self.batches, self._losses, self._stepped = [], [], False
        self._batch = batch
        self.batches.append(batch)
        self._losses.append(objective.detach())
        self.last_loss = self._losses[0] if len(self._losses) == 1 else torch.stack(self._losses).mean(0)
        if not torch.isfinite(self.last_loss).all():
            self._return_to_last_finite_state()
            return None
        with torch.no_grad():
            self._kept = [weight.detach().clone() for weight in self.network.weights]
        return objective.sum()  # the gradient of a sum keeps replicas independent

    def objective(self, batch: TripletBatch) -> Tensor:
        """What is differentiated, (S,): the loss of Eq. 1 or 2 on the batch, as the constraint scales it."""
        if self.step_moment is not None:
            m = self.network.map()  # (S, d, z)
            loss = (m * (self.step_moment @ m)).sum((-2, -1))  # Tr(mᵀ C m), Eq. 8
            return self.constraint.smooth_part(loss, list(self.network.weights))
        weights = list(self.network.weights)
        size = chunk_size(self.network, batch)
        if size >= self.network.replicas or not torch.is_grad_enabled():
            return self.sample_objective(weights, batch)
        return ChunkedObjective.apply(lambda part: self.sample_objective(part, batch), size, *weights)

    def sample_objective(self, weights: Sequence[Tensor], batch: TripletBatch) -> Tensor:
        """The objective through the data, of these weights (s, ·, ·) in place of the network's own: (s,)."""
        own = {f"weights.{index}": weight for index, weight in enumerate(weights)}

        def embedded(x: Tensor) -> Tensor:
            return torch.func.functional_call(self.network, own, (x,))

        negatives = None if batch.negatives is None else embedded(batch.negatives)
        loss = self.loss.at(self.steps_done) if hasattr(self.loss, "at") else self.loss
        value = loss(embedded(batch.x), embedded(batch.positives), negatives)
        return self.constraint.smooth_part(value, weights)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.diverged_at is None and self.last_loss is not None:
            # the same value on every process: their weights must stay equal
            value = self.trainer.strategy.reduce(self.last_loss, reduce_op="mean")
            weights = list(self.network.weights)
            bound = self.trainer.gradient_clip_val  # type: ignore[attr-defined]
            if bound is None or self.trainer.gradient_clip_algorithm == "value":  # type: ignore[attr-defined]
                before_step(self.constraint, weights, value, optimizer)
            else:
                self.step_factor = before_clipped_step(self.constraint, weights, value, optimizer, bound)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val and gradient_clip_algorithm == "value":  # by norm: see before_clipped_step
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _note_step(self, *_: Any) -> None:
        self._taken = True

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        lr = float(optimizer.param_groups[0]["lr"])
        self._taken = False
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        after_step(self.constraint, list(self.network.weights))
        self._cache.clear()
        self._stepped = True
        if self.diverged_at is None:
            if not self._taken:  # a float16 gradient overflowed: the next one is scaled down
                lr = 0.0
                self.steps_skipped += 1
            self.last_lr = lr
            if self.step_factor is not None:
                lr *= float(self.step_factor.mean())
            self.time += lr
            self.steps_done += 1
            if not all(torch.isfinite(weight).all() for weight in self.network.weights):
                self._return_to_last_finite_state()
                self.time -= lr
                self.steps_done -= 1

    def _return_to_last_finite_state(self) -> None:
        """Undo the step that left the finite numbers and stop: what was logged so far stands."""
        self.diverged_at = self.steps_done
        with torch.no_grad():
            for weight, kept in zip(self.network.weights, self._kept, strict=False):
                weight.copy_(kept)
                weight.grad = None  # what was accumulated before the loss left the finite numbers is no step
        self._cache.clear()
        stop(self.trainer)

    # -- measuring --------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The state after the last optimizer step, exact: in float64, on all training points."""
        rows, weights = self.recorder.rows, list(self.network.weights)
        return Snapshot(
            step=self.steps_done,
            time=self.time,
            previous=int(rows[-1]["step"]) if rows else None,
            embedding=self.embedding,
            views=self._views,
            map=self.map,
            linear=self.network.linear,
            loss=self.current_loss,
            weights=weights,
            residual=lambda: self.constraint.residual(weights),
            embed=self.embed,
        )

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """Embeddings of prepared inputs (n, d), (S, n, z), float64 on the CPU; by the map where there is one."""
        if self.network.linear:
            return x.double().cpu() @ self.map()  # (n, d) @ (S, d, z)
        weight = self.network.weights[0]
        return self.network(x.to(weight.device, weight.dtype)).double().cpu()

    def _views(self) -> Tensor:
        """Embeddings of the training points and of one positive of each, (S, n, 2, z)."""
        triplets = self.trainer.datamodule.triplets.full(0, torch.float64)  # type: ignore[attr-defined]
        positives = triplets.positives if triplets.positives.ndim == 2 else triplets.positives[:, 0]
        return torch.stack([self.embed(triplets.x), self.embed(positives)], dim=-2)

    def map(self) -> Tensor:
        """m of the current weights, (S, d, z), float64 on the CPU; computed once a step."""
        if "map" not in self._cache:
            with torch.no_grad():
                self._cache["map"] = self.network.map().double().cpu()
        return self._cache["map"]

    def embedding(self) -> Tensor:
        """Embedding of the training points, (S, n, z), float64 on the CPU; computed once a step."""
        if "embedding" not in self._cache:
            self._cache["embedding"] = self.embed(self.points)
        return self._cache["embedding"]

    @torch.no_grad()
    def current_loss(self) -> Tensor | None:
        """The objective at the current weights, (S,): by C, else by the full batch, else the last batch's."""
        if self.full_batch and self.network.linear and self.moment is not None:
            return self.moment_loss()
        if self.full_batch and self._batch is not None:
            return self.objective(self._batch).double()
        return self.last_loss

    @torch.no_grad()
    def moment_loss(self) -> Tensor:
        """The objective of a linear network by C, (S,): Tr(mᵀ C m) as the constraint scales it, float64."""
        assert self.moment is not None
        m = self.map()
        loss = (m * (self.moment.cpu() @ m)).sum((-2, -1))
        return self.constraint.objective(loss, [weight.double().cpu() for weight in self.network.weights])

    def optimum(self) -> float | None:
        """L* of the constrained linear problem, or None where it does not exist."""
        if not self.network.linear or self.eigvals is None:
            return None
        best = self.constraint.optimum(self.eigvals, self.network.shape)
        return None if best is None else float(best)

    def measure(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Every key of one row, (S,) each."""
        values: dict[str, Tensor] = {}
        loss = snapshot.loss
        if loss is not None:
            values[LOSS] = loss
            best = self.optimum()
            if best is not None and self.full_batch:
                floor = 1e-12 * float(self.eigvals.abs().max())  # type: ignore[union-attr]
                values[GAP] = (loss.double() - best) / max(abs(best), floor)
        for observer in self._observers():
            values |= observer.measure(snapshot)
        return values

    def record(self, *, closing: bool = False) -> None:
        """Write one row for the current state; see :meth:`Recorder.record` for ``closing``."""
        if self.recorder.rows and self.recorder.rows[-1]["step"] == self.steps_done:
            return  # measuring costs time
        snapshot = self.snapshot()
        arrays: dict[str, Any] = {"time": self.time}
        for observer in self._observers():
            arrays |= observer.arrays(snapshot)
        loggers = []
        if self.trainer.is_global_zero:
            loggers = [logger for logger in self.trainer.loggers if not isinstance(logger, MetricsLogger)]
        values = self.measure(snapshot)
        self.recorder.record(self.steps_done, values, arrays, loggers, closing=closing)
        for observer in self._observers():
            observer.after(snapshot, values)

    def _observers(self) -> list[Observer]:
        return [c for c in self.trainer.callbacks if isinstance(c, Observer)]  # type: ignore[attr-defined]

    @property
    def stepped(self) -> bool:
        """Whether an optimizer step has just been taken, and no gradient is being accumulated."""
        return self._stepped

    def record_if_due(self) -> None:
        """Write the row of the current step if it is one of every ``trainer.log_every_n_steps``."""
        if self.diverged_at is None and self.steps_done % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.record()

    def next_batch(self) -> TripletBatch:
        """The batch of the step to come, on this module's device; of every step for full batches."""
        batch = self.trainer.train_dataloader.batch(self.steps_done)  # type: ignore[union-attr]
        return self.transfer_batch_to_device(batch, self.device, 0)

    def record_start(self) -> None:
        """Write the row of the initial state, once; a resumed run has its rows already."""
        if self._batch is None and self.full_batch and not self.through_moment:
            # the initial row needs the triplets before the loop hands them over
            self._batch = self.next_batch()
        if self.steps_done == 0:
            self.record()
        self.recorder.write()

    def on_train_start(self) -> None:
        self.record_start()

    def on_train_batch_end(self, outputs: Any, batch: TripletBatch, batch_idx: int) -> None:
        self.record_if_due()

    def on_train_end(self) -> None:
        self.record(closing=self.steps_done % self.trainer.log_every_n_steps != 0)  # type: ignore[attr-defined]

    # -- checkpoints ------------------------------------------------------------------------------------

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Refused: a checkpoint holds no data and builds nothing by itself."""
        run = Path(str(checkpoint_path)).parent.parent
        raise UserError(
            f"{checkpoint_path} holds weights and no data, which this module is built with: "
            f"sslmanifold.load_run({str(run)!r}).model is the network with its weights, and "
            f"`sslmanifold train ckpt_path={checkpoint_path}` goes on with the run"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["sslmanifold"] = {
            "config": self.hyperparameters,
            "time": self.time,
            "last_lr": self.last_lr,
            "steps_done": self.steps_done,
            "diverged_at": self.diverged_at,
            "steps_skipped": self.steps_skipped,
            "recorder": self.recorder.state_dict(),
            "random": random_state(),
        }
        batches = self.steps_done * self.trainer.accumulate_grad_batches  # type: ignore[attr-defined]
        between_steps(checkpoint, batches)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["sslmanifold"]
        self.time, self.steps_done, self.last_lr = saved["time"], saved["steps_done"], saved["last_lr"]
        self.steps_skipped = saved.get("steps_skipped", 0)
        self.recorder.load_state_dict(saved["recorder"])
        set_random_state(saved["random"])
        self._cache.clear()
        require_feasible(
            checkpoint["state_dict"],
            self.constraint,
            self.network.shape,
            "ckpt_path",
            project=self.project_on_load,
            prefix="network.",
        )
