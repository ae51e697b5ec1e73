"""``logger=wandb``: a run in Weights & Biases, offline unless asked otherwise."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, WandbLogger

from sslmanifold.errors import UserError
from sslmanifold.loggers.base import RunLogger
from sslmanifold.loggers.wandb_media import log_media
from sslmanifold.loggers.wandb_parts import wandb_id
from sslmanifold.runs import ENDED, Run
from sslmanifold.runs.keys import DEVIATION, GAP, LOSS, RANK, RESIDUAL, STABLE_RANK, TIME

# keys whose smallest and largest values over the run stand in the W&B summary beside the last
EXTREMES = (LOSS, GAP, RANK, STABLE_RANK, DEVIATION, RESIDUAL)
# how long to try to reach the server before the run is given up
START_SECONDS = 30.0
# the numbers every row has that are axes, not measurements
AXES = (TIME, "epoch", "trainer/global_step")
# what W&B's server takes, of a project, a name, a group; of a tag; and not in a project's name
LONGEST_NAME, LONGEST_TAG, PROJECT_REFUSES = 128, 64, "/\\#?%:"


@dataclass(kw_only=True)
class WandB(RunLogger):
    """Weights & Biases: offline unless ``logger.mode=online``, never a prompt, no network by default.

    Attributes:
        mode: "offline" writes ``<run>/wandb`` for a later ``sslmanifold sync``; "disabled" writes nothing.
        project, name, tags: as W&B knows them. Data set, loss, constraint and model are tags already.
        group: runs shown together; by default the experiment, or the folder of the sweep.
    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "sslmanifold"
    name: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """W&B refuses these at the upload, long after an offline run."""
        for key in ("project", "name", "group"):
            _require_length(f"logger.{key}", getattr(self, key), LONGEST_NAME)
        found = [character for character in PROJECT_REFUSES if character in self.project]
        if not self.project or found:
            raise UserError(
                f"logger.project={self.project} is no project's name for W&B"
                + (f", which refuses {' '.join(found)}" if found else "")
                + ": set e.g. logger.project=sslmanifold"
            )
        for tag in self.tags:
            if not tag:
                raise UserError("logger.tags has an empty tag, which W&B refuses: leave it out")
            _require_length("a tag of logger.tags,", tag, LONGEST_TAG)

    def open(
        self, run_dir: Path, config: dict[str, Any], tags: dict[str, str], resumed: int | None = None
    ) -> list[Logger]:
        if self.mode == "disabled":
            return []
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        if self.mode == "online" and not _account_configured():
            raise UserError(
                "logger.mode=online needs a W&B account: run `wandb login` or set WANDB_API_KEY, "
                "or set logger.mode=offline"
            )
        logging.getLogger("wandb").setLevel(logging.ERROR)
        _keep_files_in(run_dir)
        full_batch = (config.get("data") or {}).get("batch_size") is None
        logger = DynamicsLogger(
            step_is_epoch=full_batch,
            project=self.project,
            name=self.name,
            group=self.group,
            job_type="train",
            tags=[*self.tags, *(f"{key}:{value}"[:LONGEST_TAG] for key, value in tags.items())],
            save_dir=run_dir,
            config=config,
            offline=self.mode == "offline",
            id=None if resumed is None else wandb_id(run_dir),
            # offline too: the upload then asks how far the first part went instead of beginning at row 0
            resume=None if resumed is None else "allow",
            settings=wandb.Settings(
                silent=True, console="off", root_dir=str(run_dir), init_timeout=START_SECONDS
            ),
        )
        try:
            _ = logger.experiment  # starts the run
        except wandb.Error as error:
            raise UserError(
                f"logger.mode=online: W&B did not start the run ({' '.join(str(error).split())[:200]}): "
                "set logger.mode=offline, and `sslmanifold sync` it later"
            ) from error
        return [logger]

    def finish(self, loggers: list[Logger], figures: list[Path], summary: dict[str, Any]) -> None:
        for logger in loggers:
            if not isinstance(logger, DynamicsLogger):
                continue
            run = logger.experiment
            try:
                if summary.get("status") in (*ENDED, "interrupted"):
                    log_media(run, Run(logger.run_dir), figures)
                logged = Run(logger.run_dir).metrics.keys()
                run.summary.update(
                    # what was logged has its last value and its extremes there already
                    {k: v for k, v in summary.items() if isinstance(v, (int, float, str)) and k not in logged}
                )
            finally:
                # an open run would take the rows of the next job of this process
                run.finish(exit_code=0 if summary.get("status") in ENDED else 1)


def _require_length(what: str, value: str | None, longest: int) -> None:
    if value is not None and len(value) > longest:
        raise UserError(
            f"{what} {value[:40]}… has {len(value)} characters and W&B takes {longest}: shorten it"
        )


class DynamicsLogger(WandbLogger):
    """Lightning's W&B logger with the time of the flow on the x axis.

    The axis is ``ode/time`` where the run has a flow, else ``epoch``: with full batches a step is an epoch. Under
    minibatches without a flow it is the optimizer step.
    """

    def __init__(self, *, step_is_epoch: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._wandb_init.pop("anonymous", None)  # W&B warns of it, whatever its value
        self.run_dir = Path(kwargs["save_dir"])
        self.step_is_epoch = step_is_epoch
        self._defined = False
        self._last_step = 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        row = dict(metrics)
        if step is not None:
            # a callback may log a step that already has its row, and W&B drops what goes back
            step = self._last_step = max(step, self._last_step)
        if self.step_is_epoch and step is not None:
            row["epoch"] = step
        if not self._defined and any(key in row for key in EXTREMES):  # a row of the run, not of a callback
            self._define(row)
        if step is None:
            super().log_metrics(row)
        else:
            # W&B's own step is the optimizer's: the part of a resumed run goes on where the first one stopped
            self.experiment.log(row | {"trainer/global_step": step}, step=step)

    def _define(self, row: dict[str, float]) -> None:
        axis = next(key for key in AXES if key in row or key == AXES[-1])
        run = self.experiment
        for key in AXES:
            run.define_metric(key)
        run.define_metric("*", step_metric=axis)
        for key in EXTREMES:
            run.define_metric(key, step_metric=axis, summary="min,max,last")
        self._defined = True


def _keep_files_in(run_dir: Path) -> None:
    """Tables wait for their upload in the run folder, not in the user's home, so that it can be copied whole."""
    if os.environ.get("WANDB_DATA_DIR", _data_dir.get("ours")) == _data_dir.get("ours"):
        _data_dir["ours"] = os.environ["WANDB_DATA_DIR"] = str((run_dir / "wandb").resolve())


_data_dir: dict[str, str] = {}


def _account_configured() -> bool:
    """Whether W&B finds a key, without asking the user for one."""
    import wandb

    return bool(os.environ.get("WANDB_API_KEY")) or wandb.login(prompt=False)
