"""Lightning's Trainer arguments: each is honoured, refused with the line to write, or has no effect on a run."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from sslmanifold.errors import UserError

NO_VALIDATION = (
    "a run has no validation, test or prediction loop: leave it out; callbacks=[spectrum,ode,online_probe] measures "
    "on the test split while training"
)
# argument → (values that change nothing, why any other is refused and what to write)
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "logger": ((None,), "loggers are a group of their own: set logger=csv, wandb or tensorboard"),
    "callbacks": (
        (None,),
        "callbacks are named one by one: set "
        "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping +callbacks.stop.monitor=train/loss",
    ),
    "fast_dev_run": (
        (None, False),
        "Lightning keeps nothing of such a run, and here a run is what its folder holds: set trainer.max_steps=1",
    ),
    "barebones": (
        (None, False),
        "that mode times Lightning's loop without checkpoints, rows and callbacks, and nothing would be left in the "
        "run folder: leave it out",
    ),
    "enable_checkpointing": (
        (None, True),
        "without a checkpoint a run cannot be read back: set checkpoint.every_n_steps=null "
        "checkpoint.every_seconds=null, which write it at the start and at the end alone",
    ),
    "plugins": ((None,), "plugins are Python objects, which a configuration does not hold: leave it out"),
    "default_root_dir": ((None,), "that is the run folder: set hydra.run.dir=DIR, or run_dir= in Python"),
    "model_registry": (
        (None,),
        "nothing is uploaded to Lightning's registry: leave it out, or set logger=wandb",
    ),
    "reload_dataloaders_every_n_epochs": (
        (None, 0),
        "a run is one epoch of max_steps steps: set data.resample=epoch, which draws new pairs for each pass",
    ),
    "limit_val_batches": ((None, 0, 1.0), NO_VALIDATION),
    "limit_test_batches": ((None, 0, 1.0), NO_VALIDATION),
    "limit_predict_batches": ((None, 0, 1.0), NO_VALIDATION),
    "val_check_interval": ((None, 1.0), NO_VALIDATION),
    "check_val_every_n_epoch": ((None, 1), NO_VALIDATION),
    "num_sanity_val_steps": ((None, 0, 2), NO_VALIDATION),
}
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
# Lightning's other spellings
_PRECISION = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}
_STEPS = Annotated[int, Field(gt=0)] | None


@dataclass(kw_only=True)
class TrainerFlags:
    """The ``trainer`` group: Lightning's Trainer arguments, checked; None leaves one at Lightning's default.

    A pass is one reading of the training data: ⌈n/b⌉ minibatches, or one full batch. Lightning's epochs are passes
    here, while for Lightning a run is a single epoch.

    Attributes:
        max_steps: optimizer steps; −1 leaves the end to ``max_epochs``.
        precision: ``32-true``, ``64-true``, ``bf16-mixed`` or ``16-mixed``.
        log_every_n_steps: optimizer steps between rows.
        accumulate_grad_batches: k batches whose gradients one optimizer step averages.
        gradient_clip_val: the Riemannian gradient of a step is no longer than this, or with
            ``gradient_clip_algorithm=value`` no entry of a flat weight's gradient larger.
        limit_train_batches: batches of a pass that are used, the first of a new order each time: a number or a part.
        overfit_batches: train on so many batches, or this part, of the training data, always the same.
        max_epochs, min_epochs: passes, counted as steps.
        max_time: ``DD:HH:MM:SS``, or a mapping such as ``{minutes: 5}``.

    Raises:
        UserError: for what a run cannot honour, with the line to write instead.
    """

    max_steps: int = 1000
    precision: str | int = "32-true"
    accelerator: str = "cpu"
    devices: int | str | list[int] = 1
    log_every_n_steps: Annotated[int, Field(gt=0)] = 10
    deterministic: bool | Literal["warn"] | None = False
    strategy: str | None = None
    num_nodes: Annotated[int, Field(gt=0)] | None = None
    max_epochs: int | None = None
    min_epochs: _STEPS = None
    min_steps: _STEPS = None
    max_time: Any = None
    limit_train_batches: int | float | None = None
    overfit_batches: int | float | None = None
    accumulate_grad_batches: _STEPS = None
    gradient_clip_val: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    benchmark: bool | None = None
    detect_anomaly: bool | None = None
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    enable_progress_bar: bool | None = None
    enable_model_summary: bool | None = None
    enable_autolog_hparams: bool | None = None
    inference_mode: bool | None = None
    use_distributed_sampler: bool | None = None
    sync_batchnorm: bool | None = None
    logger: Any = None
    callbacks: Any = None
    fast_dev_run: Any = None
    barebones: Any = None
    enable_checkpointing: Any = None
    plugins: Any = None
    default_root_dir: Any = None
    model_registry: Any = None
    reload_dataloaders_every_n_epochs: Any = None
    limit_val_batches: Any = None
    limit_test_batches: Any = None
    limit_predict_batches: Any = None
    val_check_interval: Any = None
    check_val_every_n_epoch: Any = None
    num_sanity_val_steps: Any = None

    def __post_init__(self) -> None:
        for key, (neutral, reason) in REFUSED.items():
            value = getattr(self, key)
            if value not in neutral:
                raise UserError(f"trainer.{key}={value}: {reason}")
        self._check_precision()
        self._check_processes()
        self._check_ends()
        for key in ("limit_train_batches", "overfit_batches"):
            self._check_part(key)
        if self.gradient_clip_algorithm and not self.gradient_clip_val:
            raise UserError(
                f"trainer.gradient_clip_algorithm={self.gradient_clip_algorithm} clips at no value: set "
                "trainer.gradient_clip_val=1.0 too, or leave it out"
            )

    # -- checks -----------------------------------------------------------------------------------------

    def _check_precision(self) -> None:
        name = str(self.precision)
        name = _PRECISION.get(name, name)
        if name in ("bf16-true", "16-true"):
            raise UserError(
                f"trainer.precision={name} keeps weights in 16 bits, too few for a manifold: "
                f"set trainer.precision={name.replace('true', 'mixed')} or 32-true"
            )
        if name not in PRECISIONS:
            raise UserError(
                f"trainer.precision={self.precision} is not supported: choose one of {', '.join(PRECISIONS)}"
            )
        self.precision = name

    def _check_processes(self) -> None:
        strategy = self.strategy or "auto"
        if "fsdp" in strategy or "deepspeed" in strategy:
            raise UserError(
                f"trainer.strategy={strategy} shards weights, and a shard does not lie on the manifold: "
                "set trainer.strategy=ddp or leave it out"
            )
        if any(name in strategy for name in ("spawn", "fork", "notebook")):
            raise UserError(
                f"trainer.strategy={strategy} trains in child processes that keep the rows to themselves: "
                "set trainer.strategy=ddp or leave it out"
            )

    def _check_ends(self) -> None:
        if self.max_epochs == -1:  # Lightning's word for no limit
            self.max_epochs = None
        if self.max_steps < -1 or self.max_steps == 0:
            raise UserError(
                f"trainer.max_steps={self.max_steps} is not valid: input should be greater than 0 (or -1 with "
                "trainer.max_epochs)"
            )
        if self.max_epochs is not None and self.max_epochs < 1:
            raise UserError(
                f"trainer.max_epochs={self.max_epochs} is not valid: input should be greater than 0"
            )
        if self.max_steps == -1 and self.max_epochs is None:
            raise UserError(
                "trainer.max_steps=-1 has no end: set trainer.max_epochs=100 too, or a number of steps; "
                "trainer.max_time may end it before"
            )
        if self.max_time is not None and not self.seconds > 0:
            raise UserError(
                f"trainer.max_time={self.max_time} leaves no time: set e.g. trainer.max_time=00:00:10:00"
            )

    def _check_part(self, key: str) -> None:
        value = getattr(self, key)
        if value is None or (key == "overfit_batches" and value == 0):  # Lightning's default
            return
        if not value > 0:
            raise UserError(
                f"trainer.{key}={value} leaves nothing to train on: leave it out, or set 1 or more"
            )
        if isinstance(value, float) and value > 1:
            if value != int(value):
                raise UserError(
                    f"trainer.{key}={value} is neither a number of batches nor a part: set e.g. trainer.{key}=0.5 or 2"
                )
            setattr(self, key, int(value))

    # -- what they mean ---------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """``max_time`` in seconds.

        Raises:
            UserError: where it is not a duration.
        """
        assert self.max_time is not None
        if isinstance(self.max_time, str):
            parts = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", self.max_time.strip())
            if parts:
                days, hours, minutes, seconds = map(int, parts.groups())
                return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
        elif isinstance(self.max_time, Mapping):
            try:
                return timedelta(**self.max_time).total_seconds()  # type: ignore[arg-type]
            except (TypeError, ValueError, OverflowError):
                pass
        raise UserError(
            f"trainer.max_time={self.max_time} is not a duration: write DD:HH:MM:SS, e.g. trainer.max_time=00:00:10:00 "
            "for ten minutes, or {minutes: 10}"
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the weights are kept in."""
        return torch.float64 if self.precision == "64-true" else torch.float32

    def batches_per_pass(self, batches: int) -> int:
        """``limit_train_batches`` of a pass that has so many.

        Raises:
            UserError: where that is none.
        """
        limit = self.limit_train_batches
        if limit is None:
            return batches
        used = min(limit, batches) if isinstance(limit, int) else math.floor(limit * batches + 1e-9)
        if used == 0:
            raise UserError(
                f"trainer.limit_train_batches={limit} of the {batches} batch(es) of a pass is none: set a number of "
                f"batches, or trainer.overfit_batches={limit} to train on a part of the data"
            )
        return used

    def samples(self, n: int, batch_size: int | None) -> int:
        """``overfit_batches`` of n training samples, in samples.

        Raises:
            UserError: where that is none.
        """
        part = self.overfit_batches
        if not part:
            return n
        used = min(part * (batch_size or n), n) if isinstance(part, int) else math.floor(part * n + 1e-9)
        if used == 0:
            raise UserError(
                f"trainer.overfit_batches={part} of {n} samples is none: set a larger part, or a number of batches"
            )
        return used

    def steps(self, batches_per_pass: int, accumulate: int) -> int:
        """Optimizer steps of the whole run: ``max_steps``, or what ``max_epochs`` passes take if that is less."""
        if self.max_epochs is None:
            return self.max_steps
        passes = -(-self.max_epochs * batches_per_pass // accumulate)
        return passes if self.max_steps == -1 else min(passes, self.max_steps)

    def least_steps(self, batches_per_pass: int, accumulate: int) -> int | None:
        """Optimizer steps before which no callback may stop the run."""
        passes = 0 if self.min_epochs is None else -(-self.min_epochs * batches_per_pass // accumulate)
        return max(passes, self.min_steps or 0) or None

    def effects(self) -> dict[str, str]:
        """Argument → its value and what that does to the run and its comparison with the flow, of those given."""
        return {key: f"{getattr(self, key)}: {said}" for key, said in self._sentences() if getattr(self, key)}

    def _sentences(self) -> list[tuple[str, str]]:
        clips = (
            "no entry of a gradient is larger, which is not in the flow"
            if self.gradient_clip_algorithm == "value"
            else "the Riemannian gradient of a step is no longer; ode/meaning says how the flow counts it"
        )
        return [*EFFECTS.items(), ("gradient_clip_val", clips)]


_UNCHANGED = "the numbers are the same"
EFFECTS: dict[str, str] = {
    "accumulate_grad_batches": "each step averages the gradients of so many batches; the flow takes one step for them",
    "limit_train_batches": "so many batches of each pass, in a new order each time; C is still that of all the data",
    "overfit_batches": "the training data are so many batches, always the same; C is theirs",
    "max_epochs": "passes over the data, counted as steps",
    "max_time": "may end the run before max_steps; its status is then stopped",
    "min_steps": "no callback stops the run before",
    "min_epochs": "no callback stops the run before so many passes",
    "benchmark": _UNCHANGED,
    "detect_anomaly": f"{_UNCHANGED}, the run slower",
    "profiler": f"{_UNCHANGED}, the run slower; the report is in profile/",
    "sync_batchnorm": "no effect: there is no batch normalisation",
}
