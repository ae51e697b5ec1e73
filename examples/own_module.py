"""SimCLR with a ResNet-18, as you would write it, and what sslmanifold adds: the lines marked with an arrow.

python examples/own_module.py FOLDER [steps]     # FOLDER/<class>/*.png, e.g. CIFAR-10 as images
"""

import sys

import torch
import torchvision
from lightning import LightningModule, Trainer
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from sslmanifold import constrain
from sslmanifold.callbacks import SpectrumMonitor
from sslmanifold.geometry import RiemannianAdam

augment = v2.Compose(
    [
        v2.RandomResizedCrop(32, scale=(0.2, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(p=0.2),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
)


def two_views(image):
    return augment(image), augment(image)


class SimCLR(LightningModule):
    def __init__(self, temperature=0.2):
        super().__init__()
        self.temperature = temperature
        self.backbone = torchvision.models.resnet18(weights=None)
        self.backbone.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)  # images of 32 pixels
        self.backbone.maxpool = nn.Identity()
        self.backbone.fc = nn.Identity()
        self.projector = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 64))
        constrain(self, "orthogonal", weights=["projector.*.weight"])  # <-

    def training_step(self, batch, batch_idx):
        (a, b), _ = batch
        z = normalize(self.projector(self.backbone(torch.cat([a, b]))), dim=-1)
        similarity = (z @ z.T / self.temperature).fill_diagonal_(-torch.inf)
        loss = cross_entropy(similarity, torch.arange(len(z), device=z.device).roll(len(a)))
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return RiemannianAdam(self.parameters(), lr=1e-3, weight_decay=1e-4)  # <-


def main(folder, steps=1000, batch_size=128, log_every_n_steps=10, **options):
    images = DataLoader(ImageFolder(folder, two_views), batch_size, shuffle=True, drop_last=True)
    monitor = SpectrumMonitor(on=["backbone", "projector"])  # <-
    trainer = Trainer(max_steps=steps, callbacks=[monitor], log_every_n_steps=log_every_n_steps, **options)
    trainer.fit(SimCLR(), images)
    for key, value in sorted(trainer.callback_metrics.items()):
        print(f"{key:32} {value:.4g}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
