"""Does training follow its exact theory? The constraint's flow, advanced beside every optimizer step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from sslmanifold.callbacks.head_comparison import HeadComparison
from sslmanifold.callbacks.map_comparison import MapComparison
from sslmanifold.callbacks.observer import Observer, Recorded
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.errors import UserError


@dataclass(kw_only=True)
class ODEComparison(Observer):
    """Compares every state of the training with the constraint's flow at the same time t = Σ lr.

    The flow starts from the run's own initial weights. Any differentiable loss has one: the quadratic losses by C,
    every other by ∂L/∂m at the flow's own map (:class:`~sslmanifold.theory.LossGradient`; two evaluations a step,
    three where singular values are capped). For a nonlinear φ the network is compared with the linear flow, which is
    what Conjecture 1 is about. Logged keys:

    * ``ode/time``: t, in units of lr times the loss as differentiated;
    * ``ode/deviation``: ‖U − U_ode‖_F / ‖U_ode‖_F on the training points, and ``ode/deviation_max`` over every
      optimizer step so far;
    * ``ode/subspace_distance``: sine of the largest principal angle between span(m) and span(m_ode);
    * ``ode/loss_gap``: (L − L_ode) / |L_ode|.

    With momentum, time runs by the effective step lr · w_k (:mod:`sslmanifold.callbacks.effective_step`), and the
    deviation is of the order lr/(1 − μ)². What is in the training and not in the flow stands in the summary's
    ``ode/meaning`` and in one printed line. A run that no flow describes (a constraint without a flow at this depth,
    Adam) logs none of the keys, and the same line says why.

    In anybody else's LightningModule it follows a linear head on features that do not move, exactly, step by step
    with the realised batches (:class:`~sslmanifold.callbacks.head_comparison.HeadComparison`)::

        ODEComparison(head="projector", features="backbone", loss=Contrastive(reduction="mean"))

    Attributes:
        approximate: "auto" compares wherever time is known, momentum and weight decay included; True compares Adam
            too, at the time Σ lr; False refuses every run that the flow does not describe exactly.
        follow: whose C the flow is given: "population" for one fixed C, from which realised batches scatter by
            noise; "batches" for each step's own, which leaves a deviation of O(lr); "auto" for batches where there
            are minibatches or resampled triplets. Other than "auto" it asks for the comparison: a run that cannot
            have it is refused.
        every: compare after every so many steps, and where a row is written; the flow takes the time of all of them at
            once. More than 1 needs one loss for all steps: full batches, and slices that are not drawn anew.
        head: the name of the head: an ``nn.Linear`` or an ``nn.Sequential`` of one or two, without bias.
        features: the name of what computes its features, which must not be trained; only checked.
        loss: the quadratic loss that the module minimises, of the head's outputs for anchors, positives and
            negatives; it is compared with what ``training_step`` returns.

    Raises:
        UserError: before the first step, as ``approximate`` and ``follow`` say; in another's module for what no flow
            describes.
    """

    approximate: bool | Literal["auto"] = "auto"
    follow: Literal["auto", "population", "batches"] = "auto"
    every: int = 1
    head: str | None = None
    features: str | None = None
    loss: Any = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"callbacks.ode.every={self.every} must be at least 1: set callbacks.ode.every=1")
        if self.head is not None and self.every > 1:
            raise UserError(
                f"every={self.every}: a head is compared at every step: leave it out beside head="
            )
        self._head = None if self.head is None else HeadComparison(self.head, self.features, self.loss)
        self._map = MapComparison(self.approximate, self.follow, self.every)

    # -- in sslmanifold's own module: the whole map -----------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._head is not None:
            self._head.begin(trainer, pl_module)
        else:
            self._map.begin(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._head is not None:
            self._log_head(self._head, trainer, pl_module, outputs)
        else:
            self._map.after_step(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._head is not None:
            self._head.end()
        else:
            self._map.end(pl_module)

    def measure(self, snapshot: Snapshot) -> dict[str, Tensor]:
        return self._map.measure(snapshot)

    def arrays(self, snapshot: Snapshot) -> dict[str, np.ndarray]:
        return self._map.arrays(snapshot)

    def summary(self) -> dict[str, object]:
        return self._map.summary()

    def state_dict(self) -> dict[str, Any]:
        return self._map.state_dict() if self._head is None else self._head.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        (self._map if self._head is None else self._head).load_state_dict(state_dict)

    # -- in anybody else's: a linear head ---------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._head is None and not isinstance(pl_module, Recorded):
            raise UserError(
                f"ODEComparison: no flow is known for the whole of {type(pl_module).__name__}; for a linear head on "
                "fixed features set head='projector' and loss=Contrastive(reduction='mean')"
            )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._head is not None:
            self._head.open_batch()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._head is not None:
            self._head.before_step(optimizer)

    def _log_head(self, head: HeadComparison, trainer: Any, module: Any, outputs: Any) -> None:
        values = head.close_batch(outputs)
        if values and trainer.global_step % (trainer.log_every_n_steps or 1) == 0:
            module.log_dict(
                {key: value.squeeze() for key, value in values.items()}, on_step=True, on_epoch=False
            )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._head is not None:
            self._head.end()
