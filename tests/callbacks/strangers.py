"""A LightningModule as its owner wrote it: conv backbone, projector, list-of-views batches, nothing of ours."""

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, Dataset


class Views(Dataset):
    """(two noisy views of a small image, its class)."""

    def __init__(self, n: int = 96, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.arange(n) % 3
        patterns = torch.randn(3, 3, 8, 8, generator=generator)
        self.x = patterns[self.y] + 0.5 * torch.randn(n, 3, 8, 8, generator=generator)
        self.noise = 0.3 * torch.randn(n, 2, 3, 8, 8, generator=generator)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        return [self.x[index] + self.noise[index, 0], self.x[index] + self.noise[index, 1]], int(
            self.y[index]
        )


class SimCLR(lightning.LightningModule):
    """NT-Xent over two views, with batch normalisation and dropout, so that a stray forward pass shows."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.lr = lr
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.1),
        )
        self.projector = nn.Linear(32, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)

    def training_step(self, batch: tuple[list[Tensor], Tensor], batch_idx: int) -> Tensor:
        views, _ = batch
        z = normalize(torch.cat([self.projector(self.backbone(view)) for view in views]), dim=-1)
        similarity = (z @ z.T / 0.5).fill_diagonal_(-torch.inf)
        n = len(z) // 2
        return cross_entropy(similarity, torch.arange(2 * n, device=z.device).roll(n))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def loader(batch_size: int = 32, n: int = 96) -> DataLoader:
    return DataLoader(Views(n), batch_size=batch_size, shuffle=True)


def trainer(folder, *callbacks: lightning.Callback, **options) -> lightning.Trainer:
    chosen = {
        "max_steps": 6,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 2,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
    }
    return lightning.Trainer(**(chosen | options))
