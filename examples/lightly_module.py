"""lightly's SimCLR, its loss and its augmentations, with a constraint and a monitor of sslmanifold.

pip install 'sslmanifold[lightly]'
python examples/lightly_module.py FOLDER [steps]     # FOLDER/<class>/*.png
"""

import sys

import torchvision
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from sslmanifold import constrain
from sslmanifold.callbacks import SpectrumMonitor
from sslmanifold.geometry import RiemannianAdam


class SimCLR(LightningModule):
    def __init__(self):
        super().__init__()
        resnet = torchvision.models.resnet18(weights=None)
        self.backbone = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())
        self.projection_head = SimCLRProjectionHead(512, 512, 64)
        self.criterion = NTXentLoss(temperature=0.2)
        constrain(self, "orthogonal", weights=["projection_head.*.weight"])

    def training_step(self, batch, batch_idx):
        views, _ = batch
        a, b = (self.projection_head(self.backbone(view)) for view in views)
        loss = self.criterion(a, b)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return RiemannianAdam(self.parameters(), lr=1e-3, weight_decay=1e-4)


def main(folder, steps=1000, batch_size=128, log_every_n_steps=10, **options):
    transform = SimCLRTransform(input_size=32, gaussian_blur=0.0)
    images = DataLoader(ImageFolder(folder, transform), batch_size, shuffle=True, drop_last=True)
    monitor = SpectrumMonitor(on="projection_head", metrics=["effective_rank", "rankme", "lidar"])
    trainer = Trainer(max_steps=steps, callbacks=[monitor], log_every_n_steps=log_every_n_steps, **options)
    trainer.fit(SimCLR(), images)
    for key, value in sorted(trainer.callback_metrics.items()):
        print(f"{key:32} {value:.4g}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
