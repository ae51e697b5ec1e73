"""Runs a fine-tuning: one Lightning training per label fraction, the best epoch judged by validation."""

import math
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from sslmanifold.models import ConstrainedNetwork
from sslmanifold.models.checkpoint_file import load_file
from sslmanifold.probes.classifiers import Fitted
from sslmanifold.probes.embeddings import embed_exactly
from sslmanifold.probes.finetune import FineTune, FineTuning, Freezing, released
from sslmanifold.probes.labelled import Labelled
from sslmanifold.probes.scaling import GlobalScale
from sslmanifold.probes.splits import label_fraction, validation_split
from sslmanifold.training.checkpointing import CheckedFiles
from sslmanifold.training.quiet import quiet_lightning


class EpochOrder(torch.utils.data.Sampler[int]):
    """A permutation drawn from (seed, epoch): a resumed fine-tuning sees the batches it would have seen."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed, self.epoch = n, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Any:
        return iter(np.random.default_rng([self.seed, 4, self.epoch]).permutation(self.n).tolist())


def _loader(x: Tensor, y: Tensor, size: int, order: EpochOrder | None = None) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=size, sampler=order)


def fine_tune(
    options: FineTune,
    network: ConstrainedNetwork,
    data: Labelled,
    folder: Path,
    *,
    validation: float,
    seed: int,
) -> tuple[Fitted, list[dict[str, Any]]]:
    """Fine-tune replica 0 on each fraction of the labels.

    Args:
        folder: gets ``<percent>/best.ckpt`` and ``last.ckpt``.
        validation: fraction of the labelled rows that validates.

    Returns:
        What the largest fraction predicts, and one record per fraction with its predictions.
    """
    records = []
    for fraction in options.fractions:
        rows = label_fraction(data.train_y, fraction, seed)
        records.append(
            _one_fraction(options, network, data, rows, folder / f"{fraction:.0%}", validation, seed)
            | {"fraction": fraction, "n_train": len(rows)}
        )
    last = records[-1]
    chosen = {"freeze": options.freeze, "constraint": options.constraint, "epochs": last["epochs"]}
    return Fitted(last["predicted"], chosen, {"best": last["validation"]}), records


def _one_fraction(
    options: FineTune,
    network: ConstrainedNetwork,
    data: Labelled,
    kept: np.ndarray,
    folder: Path,
    validation: float,
    seed: int,
) -> dict[str, Any]:
    x, y = data.train_x[kept], torch.from_numpy(data.train_y[kept])
    rows, held = validation_split(data.train_y[kept], validation, seed)
    scale = GlobalScale.of(embed_exactly(network, x)[0].numpy()).scale
    train = _loader(x[rows], y[rows], options.batch_size, EpochOrder(len(rows), seed))
    check = _loader(x[held], y[held], 4096)
    test = _loader(data.test_x, torch.from_numpy(data.test_y), 4096)
    with quiet_lightning(), isolate_rng():
        seed_everything(seed, verbose=False)
        module = FineTuning(
            released(network, constrained=options.constraint == "keep"),
            len(data.classes),
            scale=scale,
            head_lr=options.head_lr,
            backbone_lr=options.encoder_lr,
            weight_decay=options.weight_decay,
        )
        best = ModelCheckpoint(folder, "best", "val/accuracy", mode="max", enable_version_counter=False)
        # after it in the list, so that the last one knows which was best
        newest = ModelCheckpoint(folder, "last", enable_version_counter=False)
        trainer = lightning.Trainer(
            max_epochs=options.epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[
                Freezing(options.freeze, options.unfreeze_every),
                EarlyStopping("val/loss", mode="min", patience=options.patience),
                best,
                newest,
            ],
        )
        trainer.strategy.checkpoint_io = CheckedFiles()
        last = folder / "last.ckpt"
        again = str(last) if options.resume and last.exists() else None
        if again:
            load_file(last)  # one line where it is damaged, or is no checkpoint
        trainer.fit(module, train, check, ckpt_path=again, weights_only=True if again else None)
        accuracy = float(best.best_model_score) if best.best_model_score is not None else math.nan
        predicted = trainer.predict(module, test, ckpt_path=best.best_model_path, weights_only=True)
    worst = float(module.network.constraint.residual(list(module.network.weights)).amax())
    return {
        "predicted": torch.cat(predicted).numpy(),  # type: ignore[arg-type]
        "validation": accuracy,
        "epochs": trainer.current_epoch,
        "constraint/residual": worst,
    }
