"""Public callbacks in a LightningModule that knows nothing of this package."""

import csv
import importlib.util
import sys
import warnings
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from sslmanifold.callbacks import CollapseWarning, OnlineProbe, SpectrumMonitor
from sslmanifold.errors import UserError
from sslmanifold.metrics import alpha_req, effective_rank, lidar, participation_ratio, rankme, stable_rank

_spec = importlib.util.spec_from_file_location("strangers", Path(__file__).with_name("strangers.py"))
strangers = importlib.util.module_from_spec(_spec)
sys.modules["strangers"] = strangers
_spec.loader.exec_module(strangers)

ALL = ("effective_rank", "stable_rank", "rankme", "alpha_req", "lidar", "participation_ratio")


class Listener(lightning.Callback):
    """What a submodule put out in training steps, kept independently of any tap."""

    def __init__(self, name: str) -> None:
        self.name, self.outputs, self.open = name, [], False

    def on_train_start(self, trainer, pl_module):
        pl_module.get_submodule(self.name).register_forward_hook(
            lambda m, i, o: self.outputs.append(o.detach().clone()) if self.open else None
        )

    def on_train_batch_start(self, *args):
        self.open = True

    def on_train_batch_end(self, *args):
        self.open = False


def fit(trainer, module=None, **loader):
    lightning.seed_everything(0, verbose=False)
    module = module or strangers.SimCLR()
    trainer.fit(module, strangers.loader(**loader))
    return module


@pytest.mark.parametrize("samples", [40, 64, 1000])
def test_ranks_are_those_of_the_last_samples(tmp_path, samples):
    listener, monitor = Listener("projector"), SpectrumMonitor(on="projector", metrics=ALL, samples=samples)
    trainer = strangers.trainer(tmp_path, monitor, listener)
    fit(trainer)
    seen = torch.cat(listener.outputs)[-samples:]
    logged = trainer.callback_metrics
    references = {
        "rank/effective": effective_rank(seen),
        "rank/stable": stable_rank(seen),
        "rank/rankme": rankme(seen),
        "rank/alpha_req": alpha_req(seen),
        "rank/participation": participation_ratio(seen),
    }
    for key, value in references.items():
        assert abs(float(logged[key]) - float(value)) < 1e-6 * max(1, abs(float(value))), key
    if samples == 64:  # two views of one batch of 32
        views = torch.stack(listener.outputs[-2:], 1)
        assert float(logged["rank/lidar"]) == pytest.approx(float(lidar(views)), rel=1e-6)


def test_training_is_the_same_bit_for_bit(tmp_path):
    data = strangers.Views()
    points = (data.x, data.y)

    def ask(module, batch):
        return module.projector(module.backbone(batch[0][0]))

    plain = fit(strangers.trainer(tmp_path, max_steps=-1, max_epochs=3))
    watched = fit(
        strangers.trainer(
            tmp_path,
            SpectrumMonitor(on=["backbone", "projector"]),
            SpectrumMonitor(on=ask, every=1),
            OnlineProbe(train=points, test=points),
            max_steps=-1,
            max_epochs=3,
        )
    )
    for (name, a), b in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not watched.projector._forward_hooks


def test_several_places_have_their_own_keys(tmp_path):
    trainer = strangers.trainer(tmp_path, SpectrumMonitor(on={"features": "backbone", "z": "projector"}))
    fit(trainer)
    assert {"rank/effective/features", "rank/effective/z", "rank/stable/z"} <= set(trainer.callback_metrics)


def test_a_function_of_module_and_batch(tmp_path):
    seen = {}

    def pooled(module, batch):
        assert not module.training
        seen["last"] = torch.stack([module.projector(module.backbone(view)) for view in batch[0]], dim=1)
        return seen["last"]

    trainer = strangers.trainer(
        tmp_path, SpectrumMonitor(on=pooled, metrics=["effective_rank", "lidar"], samples=64)
    )
    module = fit(trainer)
    assert module.training
    value = float(effective_rank(seen["last"].transpose(0, 1).flatten(0, 1)))
    assert float(trainer.callback_metrics["rank/effective"]) == pytest.approx(value, rel=1e-6)
    assert float(trainer.callback_metrics["rank/lidar"]) == pytest.approx(
        float(lidar(seen["last"])), rel=1e-6
    )


def test_loggers_early_stopping_and_checkpoints_see_the_values(tmp_path):
    stop = EarlyStopping(
        "rank/effective", mode="max", patience=100, stopping_threshold=1.0, check_on_train_epoch_end=True
    )
    best = ModelCheckpoint(tmp_path / "best", monitor="rank/effective", mode="max", every_n_train_steps=2)
    logger = CSVLogger(tmp_path, name="", version="csv")
    trainer = strangers.trainer(
        tmp_path,
        SpectrumMonitor(on="projector"),
        stop,
        best,
        logger=logger,
        enable_checkpointing=True,
        max_steps=-1,
        max_epochs=5,
        log_every_n_steps=1,
    )
    fit(trainer)
    assert trainer.current_epoch == 1  # the threshold is passed at the end of the first epoch
    assert Path(best.best_model_path).exists()
    rows = list(csv.DictReader((tmp_path / "csv" / "metrics.csv").open()))
    assert len([row for row in rows if row.get("rank/effective")]) == 3


def test_accumulation_measures_once_an_optimizer_step(tmp_path):
    calls = []

    class Counting(SpectrumMonitor):
        def measure(self, snapshot):
            calls.append(snapshot.step)
            return super().measure(snapshot)

    trainer = strangers.trainer(
        tmp_path, Counting(on="projector", every=1), accumulate_grad_batches=2, max_steps=4
    )
    fit(trainer)
    assert calls == [1, 2, 3, 4]


def test_bf16_autocast_is_within_its_rounding(tmp_path):
    listener, monitor = Listener("projector"), SpectrumMonitor(on="projector")
    trainer = strangers.trainer(tmp_path, monitor, listener, precision="bf16-mixed")
    fit(trainer)
    value = float(effective_rank(torch.cat(listener.outputs)[-2048:].double()))
    assert abs(float(trainer.callback_metrics["rank/effective"]) - value) < 1e-2


def test_collapse_is_said_once_and_named(tmp_path):
    class Shrinks(strangers.SimCLR):
        def training_step(self, batch, batch_idx):
            z = self.projector(self.backbone(torch.cat(batch[0])))
            return -(z.mean(0) @ z.mean(0)) + 0 * z.sum()  # rewards embeddings that are all alike

    trainer = strangers.trainer(
        tmp_path, SpectrumMonitor(on="projector", every=1), max_steps=60, log_every_n_steps=1
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(trainer, Shrinks(lr=0.3))
    said = [str(w.message) for w in caught if issubclass(w.category, CollapseWarning)]
    assert sum("the embedding collapses" in line for line in said) == 1
    assert sum("about to collapse" in line for line in said) <= 1


def test_probes_log_through_lightning_and_agree_with_the_embedding(tmp_path):
    data = strangers.Views(seed=0)
    train, test = (data.x[:64], data.y[:64]), (data.x[64:], data.y[64:])
    probe = OnlineProbe(train=train, test=test, on="backbone", k=5)
    trainer = strangers.trainer(tmp_path, probe, max_steps=-1, max_epochs=2)
    module = fit(trainer)
    module.eval()
    with torch.no_grad():
        u, v = (module.backbone(x).double()[None] for x in (train[0], test[0]))
    expected = probe.accuracies(u, train[1], v, test[1])
    for key in ("probe/linear/accuracy", "probe/knn/accuracy"):
        assert float(trainer.callback_metrics[key]) == pytest.approx(float(expected[key]), abs=1e-6)
    assert float(expected["probe/knn/accuracy"]) > 0.6  # three classes


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (lambda: SpectrumMonitor(), "backbone, projector"),
        (lambda: SpectrumMonitor(on="projektor"), "projector"),
        (lambda: SpectrumMonitor(on="backbone.0"), "layer after pooling"),
        (lambda: SpectrumMonitor(on=lambda m, b: b[0][0].flatten(1), metrics=["lidar"]), "two or more views"),
        (lambda: OnlineProbe(), r"train=\(x, y\)"),
        (lambda: OnlineProbe(train=([1], [1, 2]), test=([1], [1])), r"train=\(x, y\)"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(tmp_path, callback, words):
    with pytest.raises(UserError, match=words):
        fit(strangers.trainer(tmp_path, callback()))


def test_a_submodule_that_is_never_called_is_said(tmp_path):
    module = strangers.SimCLR()
    module.unused = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="was not called"):
        fit(strangers.trainer(tmp_path, SpectrumMonitor(on="unused")), module)


class Compared(Listener):
    """Writes |tap − offline| of the effective rank over both processes' samples, one file a process."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        everybody = [None] * trainer.world_size
        torch.distributed.all_gather_object(everybody, torch.cat(self.outputs))
        offline = float(effective_rank(torch.cat(everybody)))
        difference = abs(offline - float(trainer.callback_metrics["rank/effective"]))
        (self.folder / f"rank{trainer.global_rank}").write_text(f"{len(torch.cat(everybody))} {difference}")


@pytest.mark.forks
def test_ranks_run_over_all_processes(tmp_path):
    trainer = strangers.trainer(
        tmp_path,
        SpectrumMonitor(on="projector"),
        Compared("projector", tmp_path),
        strategy="ddp_fork",
        devices=2,
        max_steps=2,
    )
    fit(trainer, batch_size=16)
    for process in range(2):
        count, difference = (tmp_path / f"rank{process}").read_text().split()
        assert int(count) == 2 * 2 * 2 * 16  # processes × steps × views × batch
        assert float(difference) < 1e-6
