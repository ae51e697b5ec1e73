"""Every public callback in a stranger's LightningModule, under every logger: it logs its keys or says what it needs."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from torch import nn

from sslmanifold import callbacks, constrain
from sslmanifold.callbacks import (
    ConstrainedStep,
    MapTrace,
    ODEComparison,
    OnlineProbe,
    Optimum,
    SpectrumMonitor,
)
from sslmanifold.errors import UserError
from sslmanifold.geometry import RiemannianSGD
from sslmanifold.losses import NonContrastive

_spec = importlib.util.spec_from_file_location("strangers_contract", Path(__file__).with_name("strangers.py"))
assert _spec is not None
assert _spec.loader is not None
strangers = importlib.util.module_from_spec(_spec)
sys.modules["strangers_contract"] = strangers
_spec.loader.exec_module(strangers)


class Frozen(strangers.SimCLR):
    """The stranger's module once its backbone is fixed and its loss is −mean u·u⁺, which has a flow."""

    def __init__(self) -> None:
        super().__init__(lr=1e-3)
        self.backbone.requires_grad_(False).eval()
        constrain(self, "orthogonal", weights="projector.weight")

    def on_train_epoch_start(self) -> None:
        self.backbone.eval()

    def training_step(self, batch, batch_idx):
        u, v = self.projector(self.backbone(torch.cat(batch[0]))).chunk(2)
        return -(u * v).sum(-1).mean()

    def configure_optimizers(self):
        return RiemannianSGD(self.projector.parameters(), lr=self.lr)


class Deeper(strangers.SimCLR):
    """With a projector of two layers, for what binds layers together."""

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Sequential(nn.Linear(32, 40, bias=False), nn.Linear(40, 6, bias=False))


def probe() -> OnlineProbe:
    data = strangers.Views()
    return OnlineProbe(train=(data.x[:64], data.y[:64]), test=(data.x[64:], data.y[64:]), on="backbone", k=5)


# callback -> (how it is made, the module, the keys that it logs)
LOGGED: dict[type, tuple[Callable, Callable, set[str]]] = {
    SpectrumMonitor: (
        lambda: SpectrumMonitor(on=["backbone", "projector"]),
        strangers.SimCLR,
        {
            "rank/effective/backbone",
            "rank/stable/backbone",
            "rank/effective/projector",
            "rank/stable/projector",
        },
    ),
    OnlineProbe: (probe, strangers.SimCLR, {"probe/linear/accuracy", "probe/knn/accuracy"}),
    ODEComparison: (
        lambda: ODEComparison(head="projector", features="backbone", loss=NonContrastive(reduction="mean")),
        Frozen,
        {"ode/time", "ode/deviation", "ode/deviation_max", "ode/subspace_distance", "ode/loss_gap"},
    ),
    ConstrainedStep: (
        lambda: ConstrainedStep("product", ["projector.0.weight", "projector.1.weight"]),
        Deeper,
        set(),
    ),
}
REFUSED: dict[type, str] = {Optimum: "sslmanifold's own module", MapTrace: "sslmanifold's own module"}


def logger(kind: str, folder: Path):
    if kind == "off":
        return False
    if kind == "csv":
        return CSVLogger(folder, name="", version="csv")
    return WandbLogger(project="contract", save_dir=folder, offline=True)


@pytest.mark.parametrize("kind", ["off", "csv", "wandb"])
@pytest.mark.parametrize("callback", LOGGED, ids=lambda c: c.__name__)
def test_it_logs_its_keys(callback: type, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    made, module, keys = LOGGED[callback]
    trainer = strangers.trainer(
        tmp_path, made(), logger=logger(kind, tmp_path), max_steps=-1, max_epochs=2, log_every_n_steps=1
    )
    lightning.seed_everything(0, verbose=False)
    trainer.fit(module(), strangers.loader())
    assert trainer.global_step == 6
    assert keys <= set(trainer.callback_metrics)
    assert all(torch.isfinite(trainer.callback_metrics[key]) for key in keys)
    if kind == "wandb":
        import wandb

        wandb.finish()
        assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    if kind == "csv" and keys:
        header = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
        assert keys <= set(header)


@pytest.mark.parametrize("callback", REFUSED, ids=lambda c: c.__name__)
def test_what_needs_our_module_says_so(callback: type, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=REFUSED[callback]) as refusal:
        strangers.trainer(tmp_path, callback()).fit(strangers.SimCLR(), strangers.loader())
    assert len(str(refusal.value).splitlines()) == 1
    with pytest.raises(UserError, match="head='projector'"):
        strangers.trainer(tmp_path, ODEComparison()).fit(strangers.SimCLR(), strangers.loader())


def test_a_head_is_compared_at_every_step() -> None:
    with pytest.raises(UserError, match=r"every=5.*leave it out beside head="):
        ODEComparison(head="projector", loss=NonContrastive(reduction="mean"), every=5)


def test_no_public_callback_is_left_out() -> None:
    public = [getattr(callbacks, name) for name in callbacks.__all__]
    concrete = {
        each for each in public if issubclass(each, lightning.Callback) and not inspect.isabstract(each)
    }
    assert concrete == LOGGED.keys() | REFUSED.keys()
