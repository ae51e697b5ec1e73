"""Where rows go beside ``metrics.csv``, which is always written: W&B or TensorBoard when asked."""

import logging
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger

from sslmanifold.errors import UserError


class RunLogger(ABC):
    """A choice of ``logger=``."""

    @abstractmethod
    def open(
        self, run_dir: Path, config: dict[str, Any], tags: dict[str, str], resumed: int | None = None
    ) -> list[Logger]:
        """Lightning loggers for this run; ``tags`` are the names of its choices.

        ``resumed`` is the step a resumed run goes on from: its loggers go on with what they have.
        """

    def finish(self, loggers: list[Logger], figures: list[Path], summary: dict[str, Any]) -> None:
        """Hand over figures and the summary, then close. Called once, however the run ended."""
        return


@dataclass(kw_only=True)
class CSVOnly(RunLogger):
    """Nothing beside ``metrics.csv``."""

    def open(
        self, run_dir: Path, config: dict[str, Any], tags: dict[str, str], resumed: int | None = None
    ) -> list[Logger]:
        return []


@dataclass(kw_only=True)
class TensorBoard(RunLogger):
    """TensorBoard event files in ``<run>/tensorboard``."""

    def open(
        self, run_dir: Path, config: dict[str, Any], tags: dict[str, str], resumed: int | None = None
    ) -> list[Logger]:
        from lightning.pytorch.loggers import TensorBoardLogger

        try:
            # points that a killed run logged after its checkpoint are hidden: they come again
            again = {} if resumed is None else {"purge_step": resumed + 1}
            return [TensorBoardLogger(save_dir=run_dir, name="", version="tensorboard", **again)]
        except ModuleNotFoundError as error:
            raise UserError(
                "logger=tensorboard needs the package tensorboard: pip install 'sslmanifold[tensorboard]', "
                "or set logger=csv"
            ) from error


@dataclass(kw_only=True)
class WandB(RunLogger):
    """Weights & Biases: offline unless ``logger.mode=online``, never a prompt, no network by default.

    Attributes:
        mode: "offline" writes ``<run>/wandb`` for a later upload; "disabled" writes nothing.
        project, name, group, tags: as W&B knows them. Data set, loss, constraint and model are tags already.
    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "sslmanifold"
    name: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def open(
        self, run_dir: Path, config: dict[str, Any], tags: dict[str, str], resumed: int | None = None
    ) -> list[Logger]:
        if self.mode == "disabled":
            return []
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        if self.mode == "online" and not _account_configured():
            raise UserError(
                "logger.mode=online needs a W&B account: run `wandb login` or set WANDB_API_KEY, "
                "or set logger.mode=offline"
            )
        logging.getLogger("wandb").setLevel(logging.ERROR)
        logger = WandbLogger(
            project=self.project,
            name=self.name,
            group=self.group,
            job_type="train",
            tags=[*self.tags, *(f"{key}:{value}" for key, value in tags.items())],
            save_dir=run_dir,
            config=config,
            offline=self.mode == "offline",
            id=None if resumed is None else _run_id(run_dir),
            resume="allow" if resumed is not None and self.mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off", root_dir=str(run_dir)),
        )
        run = logger.experiment
        run.define_metric("ode/time")
        run.define_metric("*", step_metric="trainer/global_step")
        return [logger]

    def finish(self, loggers: list[Logger], figures: list[Path], summary: dict[str, Any]) -> None:
        from lightning.pytorch.loggers import WandbLogger

        for logger in loggers:
            if not isinstance(logger, WandbLogger):
                continue
            import wandb

            run = logger.experiment
            if figures:
                run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})
            run.summary.update({k: v for k, v in summary.items() if isinstance(v, (int, float, str))})
            run.finish(exit_code=0 if summary.get("status") in ("completed", "diverged") else 1)


def _run_id(run_dir: Path) -> str | None:
    """The id of the W&B run already in this folder, so that a resumed run is uploaded as the same one."""
    folders = sorted((run_dir / "wandb").glob("*run-*-*"))
    return folders[-1].name.rsplit("-", 1)[-1] if folders else None


def _account_configured() -> bool:
    """Whether W&B finds a key, without asking the user for one."""
    import wandb

    return bool(os.environ.get("WANDB_API_KEY")) or wandb.login(prompt=False)
