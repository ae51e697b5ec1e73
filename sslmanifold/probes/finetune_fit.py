"""Runs a fine-tuning: one Lightning training per label fraction, the best epoch judged by validation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from sslmanifold.models import ConstrainedNetwork
from sslmanifold.models.checkpoint_file import load_file
from sslmanifold.models.encoder import EncoderNetwork
from sslmanifold.probes.classifiers import Fitted
from sslmanifold.probes.embeddings import embed_exactly
from sslmanifold.probes.encoder_tuning import EncoderTuning, FreezingParts, trainable
from sslmanifold.probes.finetune import FineTune, FineTuning, Freezing, released
from sslmanifold.probes.labelled import Labelled, LabelledImages
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


def _loader(*tensors: Tensor, size: int = 4096, order: EpochOrder | None = None) -> DataLoader:
    return DataLoader(TensorDataset(*tensors), batch_size=size, sampler=order)


@dataclass(frozen=True)
class _Task:
    """What is trained, on what: a module with its loaders, and the callback that freezes parts of it."""

    make: Callable[[], Any]
    train: DataLoader
    validation: DataLoader
    test: DataLoader
    freezing: Callback


def _of_matrices(
    options: FineTune, network: ConstrainedNetwork, data: Labelled, kept: np.ndarray, share: float, seed: int
) -> _Task:
    x, y = data.train_x[kept], torch.from_numpy(data.train_y[kept])
    rows, held = validation_split(data.train_y[kept], share, seed)
    scale = GlobalScale.of(embed_exactly(network, x)[0].numpy()).scale
    return _Task(
        lambda: FineTuning(
            released(network, constrained=options.constraint == "keep"),
            len(data.classes),
            scale=scale,
            head_lr=options.head_lr,
            backbone_lr=options.encoder_lr,
            weight_decay=options.weight_decay,
        ),
        _loader(x[rows], y[rows], size=options.batch_size, order=EpochOrder(len(rows), seed)),
        _loader(x[held], y[held]),
        _loader(data.test_x, torch.from_numpy(data.test_y)),
        Freezing(options.freeze, options.unfreeze_every),
    )


def _of_images(
    options: FineTune,
    network: EncoderNetwork,
    data: LabelledImages,
    kept: np.ndarray,
    share: float,
    seed: int,
) -> _Task:
    x, y = data.train_images[kept], torch.from_numpy(data.train_y[kept])
    rows, held = validation_split(data.train_y[kept], share, seed)
    features = network.embed(x).double().cpu().numpy()
    places = torch.arange(len(rows))
    return _Task(
        lambda: EncoderTuning(
            trainable(network, constrained=options.constraint == "keep"),
            len(data.classes),
            features.shape[1],
            len(rows),
            scale=GlobalScale.of(features).scale,
            head_lr=options.head_lr,
            backbone_lr=options.encoder_lr,
            weight_decay=options.weight_decay,
            seed=seed,
        ),
        _loader(x[rows], y[rows], places, size=options.batch_size, order=EpochOrder(len(rows), seed)),
        _loader(x[held], y[held], size=512),
        _loader(data.test_images, torch.from_numpy(data.test_y), size=512),
        FreezingParts(options.freeze, options.unfreeze_every),
    )


def fine_tune(
    options: FineTune,
    network: ConstrainedNetwork | EncoderNetwork,
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
    network: ConstrainedNetwork | EncoderNetwork,
    data: Labelled,
    kept: np.ndarray,
    folder: Path,
    validation: float,
    seed: int,
) -> dict[str, Any]:
    if isinstance(network, EncoderNetwork):
        assert isinstance(data, LabelledImages)
        task = _of_images(options, network, data, kept, validation, seed)
    else:
        task = _of_matrices(options, network, data, kept, validation, seed)
    with quiet_lightning(), isolate_rng():
        seed_everything(seed, verbose=False)
        module = task.make()
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
                task.freezing,
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
        trainer.fit(
            module, task.train, task.validation, ckpt_path=again, weights_only=True if again else None
        )
        accuracy = float(best.best_model_score) if best.best_model_score is not None else math.nan
        predicted = trainer.predict(module, task.test, ckpt_path=best.best_model_path, weights_only=True)
    return {
        "predicted": torch.cat(predicted).numpy(),  # type: ignore[arg-type]
        "validation": accuracy,
        "epochs": trainer.current_epoch,
        "constraint/residual": module.constraint_residual(),
    }
