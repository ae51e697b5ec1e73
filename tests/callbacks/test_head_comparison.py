"""The exact flow of a linear head in a LightningModule that knows nothing of it."""

from itertools import pairwise

import lightning
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sslmanifold import constrain
from sslmanifold.callbacks import MapTrace, ODEComparison, Optimum
from sslmanifold.errors import UserError
from sslmanifold.geometry import RiemannianAdam, RiemannianSGD
from sslmanifold.losses import Contrastive, InfoNCE, NonContrastive

LOSS = Contrastive(reduction="mean")


class Features(nn.Module):
    """A small frozen network in place of a large one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(27, 6), nn.Tanh())

    def forward(self, x):
        return self.net(x)


class Pairs(lightning.LightningModule):
    """Eq. 1 on a head above frozen features, as its owner wrote it."""

    def __init__(
        self, backbone: nn.Module, head: nn.Module, lr: float, *, calls: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.projector, self.lr, self.calls, self.scale = head, lr, calls, scale
        self.optimizer = RiemannianSGD

    def on_train_epoch_start(self) -> None:
        self.backbone.eval()

    def training_step(self, batch, batch_idx):
        if self.calls == 1:
            u, positive, negative = self.projector(self.backbone(torch.cat(batch))).chunk(3)
        else:
            u, positive, negative = (self.projector(self.backbone(part)) for part in batch)
        return self.scale * (u * (negative - positive)).sum(-1).mean()

    def configure_optimizers(self):
        return self.optimizer(self.projector.parameters(), lr=self.lr)


def images(n: int = 12, size: int = 3, dtype=torch.float64) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, size, size, generator=generator, dtype=torch.float64)
    positive = x + 0.3 * torch.randn(n, 3, size, size, generator=generator, dtype=torch.float64)
    return TensorDataset(*(each.to(dtype) for each in (x, positive, x.flip(0))))


def fit(module, folder, *, batch: int, steps: int, callback=None, data=None, **options) -> dict[str, float]:
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
        callbacks=[callback or ODEComparison(head="projector", features="backbone", loss=LOSS)],
        **options,
    )
    trainer.fit(module, DataLoader(data or images(), batch_size=batch))
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def head(kind: str) -> nn.Module:
    torch.manual_seed(1)
    two = nn.Sequential(nn.Linear(6, 9, bias=False), nn.Linear(9, 2, bias=False)).double()
    one = nn.Linear(6, 2, bias=False).double()
    layers, _, constraint = kind.partition(" ")
    part = two if layers == "two" else one
    options = {"metric": "grassmann"} if constraint == "grassmann" else {}
    if constraint in ("grassmann", "orthogonal"):
        return constrain(part, "orthogonal", **options)
    if constraint in ("frobenius", "operator_norm"):
        return constrain(part, constraint)
    return part


@pytest.mark.parametrize(
    "kind",
    [
        "two grassmann",
        "two orthogonal",
        "two free",
        "two frobenius",
        "two operator_norm",
        "one orthogonal",
        "one free",
        "one frobenius",
        "one operator_norm",
    ],
)
def test_training_follows_its_flow_at_first_order(kind, tmp_path):
    gaps = []
    for halvings in range(3):
        torch.manual_seed(0)
        module = Pairs(Features().double(), head(kind), lr=0.04 / 2**halvings, calls=1 + halvings % 2)
        gaps.append(fit(module, tmp_path, batch=12, steps=10 * 2**halvings)["ode/deviation"])
    for coarse, fine in pairwise(gaps):
        assert 1.9 < coarse / fine < 2.1, gaps


def test_minibatches_leave_the_step_error_alone(tmp_path):
    gaps = []
    for halvings in range(2):
        torch.manual_seed(0)
        module = Pairs(Features().double(), head("two orthogonal"), lr=0.03 / 2**halvings)
        gaps.append(fit(module, tmp_path, batch=4, steps=9 * 2**halvings)["ode/deviation_max"])
    assert gaps[1] < 0.6 * gaps[0]


def test_a_frozen_resnet_with_an_orthonormal_head(tmp_path):
    data = images(6, 32, torch.float32)
    gaps = []
    for halvings in range(2):
        torch.manual_seed(0)
        backbone = torchvision.models.resnet18(weights=None)
        backbone.fc = nn.Identity()
        projector = constrain(nn.Linear(512, 3, bias=False), "orthogonal")
        module = Pairs(backbone, projector, lr=0.004 / 2**halvings)
        values = fit(module, tmp_path, batch=6, steps=6 * 2**halvings, data=data)
        gaps.append(values["ode/deviation"])
        assert abs(values["ode/loss_gap"]) < 0.1
    assert 1.8 < gaps[0] / gaps[1] < 2.2, gaps


@pytest.mark.parametrize(
    ("change", "callback", "words"),
    [
        (lambda m: m.backbone.requires_grad_(True), None, "requires_grad_"),
        (lambda m: setattr(m, "scale", 2.0), None, "module's loss"),
        (lambda m: setattr(m, "optimizer", RiemannianAdam), None, "RiemannianSGD"),
        (lambda m: setattr(m, "projector", nn.Linear(6, 2).double()), None, "bias=False"),
        (lambda m: None, ODEComparison(head="projector", loss=InfoNCE()), "quadratic"),
        (
            lambda m: None,
            ODEComparison(head="projector", loss=NonContrastive(reduction="mean")),
            "module's loss",
        ),
        (lambda m: None, ODEComparison(head="projektor", loss=LOSS), "projector"),
        (lambda m: None, ODEComparison(), "head='projector'"),
        (lambda m: None, Optimum(), "Recorded"),
        (lambda m: None, MapTrace(), "Recorded"),
    ],
)
def test_what_no_flow_describes_is_refused_by_name(change, callback, words, tmp_path):
    module = Pairs(Features().double(), head("two orthogonal"), lr=0.1)
    change(module)
    with pytest.raises(UserError, match=words):
        fit(module, tmp_path, batch=12, steps=2, callback=callback)


@pytest.mark.parametrize("options", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
def test_trainer_flags_outside_the_flow_are_refused(options, tmp_path):
    module = Pairs(Features().double(), head("two orthogonal"), lr=0.1)
    with pytest.raises(UserError, match=next(iter(options))):
        fit(module, tmp_path, batch=12, steps=2, **options)
