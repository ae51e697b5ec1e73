"""Constraints that bind layers together, in anybody's LightningModule."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sslmanifold.constraints import Constraint, NetworkShape, make_constraint
from sslmanifold.constraints.selection import select
from sslmanifold.constraints.step import after_step, before_step
from sslmanifold.errors import UserError
from sslmanifold.geometry import ManifoldParameter


class ConstrainedStep(Callback):
    """Trains consecutive linear layers of any LightningModule under a constraint on all of them together::

        Trainer(callbacks=[ConstrainedStep("product", weights=["head.0.weight", "head.2.weight"], c=1.0)])

    What a step differentiates is the constraint's objective of the loss that ``training_step`` returns, so ``scaled``
    divides the gradients of every parameter; ``product`` projects after each optimizer step. Before the first step
    the weights are projected. ``constraint/residual`` is logged with the module's own values. For a constraint on
    single weights write :func:`sslmanifold.constrain` instead, it needs no callback.

    Args:
        constraint: "product", "scaled" or an object; ``options`` are its own.
        weights: two layers or more from input to output, each by the name of its weight or as a layer of the module:
            matrices (out, in) as of ``nn.Linear``, each taking what the one before gives.

    Raises:
        UserError: a constraint on single weights, weights that are no chain, weights on manifolds, and, at a step, an
            objective that is more than a multiple of the loss.
    """

    def __init__(
        self, constraint: str | Constraint, weights: Sequence[str | nn.Module], **options: Any
    ) -> None:
        super().__init__()
        self.constraint = (
            make_constraint(constraint, **options) if isinstance(constraint, str) else constraint
        )
        changed = ("objective", "smooth_part", "add_kinks", "project_jointly")
        if all(getattr(type(self.constraint), name) is getattr(Constraint, name) for name in changed):
            raise UserError(
                f"constraint={self.constraint.name} is one of single weights: write constrain(module, "
                f'"{self.constraint.name}", weights=[…]) instead of ConstrainedStep'
            )
        if isinstance(weights, str | nn.Module) or len(weights) < 2:
            raise UserError(
                f"ConstrainedStep binds two layers or more, got weights={weights!r}: write "
                'weights=["head.0.weight", "head.2.weight"], from input to output'
            )
        self.weights = list(weights)
        self.parameters: list[nn.Parameter] = []
        self._objective: Tensor | None = None
        self._hooks: list[RemovableHandle] = []

    # -- which weights ------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.parameters = [self._parameter(pl_module, entry) for entry in self.weights]
        shapes = [tuple(p.shape) for p in self.parameters]
        for (out, _), (_, taken) in pairwise(shapes):
            if out != taken:
                raise UserError(
                    f"ConstrainedStep: weights of shapes {shapes} are no chain, {out} outputs meet {taken} inputs: "
                    "name layers that follow each other, from input to output"
                )
        self.constraint.check(NetworkShape(shapes[0][1], shapes[0][0], shapes[-1][0], len(shapes)))
        after_step(self.constraint, self.matrices())

    def _parameter(self, module: nn.Module, entry: str | nn.Module) -> nn.Parameter:
        found = select(module, entry)
        if len(found) != 1 or found[0].blocks != 1 or found[0].parameter.ndim != 2:
            raise UserError(
                f"ConstrainedStep: {entry!r} means {', '.join(w.name for w in found)}, which is not one matrix: name "
                "one linear layer at a time"
            )
        parameter = found[0].parameter
        if isinstance(parameter, ManifoldParameter):
            raise UserError(
                f"{found[0].name} is on {parameter.manifold} already: write release(module) for a constraint on "
                "several layers together"
            )
        return parameter

    def matrices(self) -> list[Tensor]:
        """The weights as constraints take them: views (1, h, d), …, (1, h, z), with views of their gradients."""
        views = []
        for place, p in enumerate(self.parameters):
            last = place == len(self.parameters) - 1

            def turned(t: Tensor, last: bool = last) -> Tensor:
                return (t.detach().mT if last else t.detach()).unsqueeze(0)

            view = turned(p).requires_grad_(p.requires_grad)
            view.grad = None if p.grad is None else turned(p.grad)
            views.append(view)
        return views

    # -- a step -------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            if self._holds(optimizer):
                hook = optimizer.register_step_post_hook(
                    lambda *_: after_step(self.constraint, self.matrices())
                )
                self._hooks.append(hook)

    def _holds(self, optimizer: Optimizer) -> bool:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return any(id(p) in held for p in self.parameters)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not loss.requires_grad:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # of 16-mixed: the loss comes multiplied
        units = trainer.accumulate_grad_batches / (scaler.get_scale() if scaler is not None else 1.0)
        with torch.enable_grad():
            value = (loss.detach() * units).reshape(1).requires_grad_()
            matrices = self.matrices()
            objective = self.constraint.smooth_part(value, matrices)
            learning = [m for m in matrices if m.requires_grad]
            factor, *direct = torch.autograd.grad(objective.sum(), [value, *learning], allow_unused=True)
        if factor is None or any(g is not None and bool(g.any()) for g in direct):
            raise UserError(
                f"constraint={self.constraint.name} adds to the loss what a callback cannot differentiate: return "
                "constraint.smooth_part(loss, weights) from training_step"
            )
        loss.register_hook(lambda grad: grad * factor.to(grad.dtype).squeeze())
        share = objective.detach() / trainer.accumulate_grad_batches
        self._objective = share if self._objective is None else self._objective + share

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self._objective is None or not self._holds(optimizer):
            return
        # the same value on every process: their weights must stay equal
        value = trainer.strategy.reduce(self._objective, reduce_op="mean")
        before_step(self.constraint, self.matrices(), value, optimizer, held=self.parameters)  # type: ignore[arg-type]
        self._objective = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            pl_module.log("constraint/residual", self.constraint.residual(self.matrices()).amax())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
