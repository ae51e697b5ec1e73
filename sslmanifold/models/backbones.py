"""Image backbones by name: a small residual network for CPUs, torchvision's with a stem for small images, anybody's."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslmanifold.errors import UserError

SMALL_IMAGE = 64  # up to this side a stem that keeps the resolution


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation beside the identity, or a 1×1 convolution where shapes differ.

    (n, c_in, H, W) → (n, c_out, H/stride, W/stride). Source: He et al., CVPR 2016.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network of one block a stage, for small images on a CPU: (n, 3, H, W) → (n, 4·width).

    Stages of width, 2·width and 4·width channels, the last two at half the resolution of the one before; mean over
    pixels at the end. width=16 has 77,000 weights.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.layer1 = ResidualBlock(width, width)
        self.layer2 = ResidualBlock(width, 2 * width, 2)
        self.layer3 = ResidualBlock(2 * width, 4 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return x.mean((-2, -1))  # (n, 4·width, H/4, W/4) -> (n, 4·width)


def _resnet(name: str, side: int) -> nn.Module:
    from torchvision import models

    made = getattr(models, name)()
    made.fc = nn.Identity()
    if side <= SMALL_IMAGE:  # as SimCLR does for CIFAR: its first two halvings would leave too little
        made.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        made.maxpool = nn.Identity()
    return made


def _convnext(name: str, side: int) -> nn.Module:
    from torchvision import models

    made = getattr(models, name)()
    made.classifier[2] = nn.Identity()
    if side <= SMALL_IMAGE:
        stem = made.features[0][0]
        made.features[0][0] = nn.Conv2d(3, stem.out_channels, 2, 2)
    return made


def _vit(name: str, side: int) -> nn.Module:
    from torchvision import models

    patch = int(name.rsplit("_", 1)[1])
    if side <= SMALL_IMAGE:
        patch = max(2, side // 8)
    if side % patch:
        raise UserError(
            f"model.backbone={name} cuts images into patches of {patch}×{patch}, and they are {side}×{side}: set "
            f"data.size={side // patch * patch or patch}"
        )
    kwargs = {"vit_b_16": (12, 12, 768, 3072)}[name]
    made = models.VisionTransformer(side, patch, *kwargs)
    made.heads = nn.Identity()  # type: ignore[assignment]
    return made


TORCHVISION: dict[str, Callable[[str, int], nn.Module]] = {
    "resnet18": _resnet,
    "resnet34": _resnet,
    "resnet50": _resnet,
    "convnext_tiny": _convnext,
    "vit_b_16": _vit,
}
NAMES = ("small_resnet", *TORCHVISION)


def backbone(name: str, *, side: int, width: int = 16) -> nn.Module:
    """A backbone without weights of its own: (n, 3, side, side) → (n, k).

    Args:
        name: one of ``NAMES``, or ``timm:NAME`` for one of timm's (package ``timm``).
        side: of the images; up to 64 the stem keeps more of the resolution than it does for large ones.
        width: of ``small_resnet``.

    Raises:
        UserError: for another name, with the nearest ones.
    """
    if name == "small_resnet":
        return SmallResNet(width)
    if name in TORCHVISION:
        return TORCHVISION[name](name, side)
    if name.startswith("timm:"):
        return _of_timm(name.removeprefix("timm:"))
    near = difflib.get_close_matches(name, NAMES, n=3) or list(NAMES)
    raise UserError(f"model.backbone={name} is unknown: choose {', '.join(near)}, or timm:NAME")


def _of_timm(name: str) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError:
        raise UserError(
            f"model.backbone=timm:{name} needs the package timm: pip install 'sslmanifold[timm]'"
        ) from None
    try:
        return timm.create_model(name, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"model.backbone=timm:{name}: {' '.join(str(error).split())[:200]}") from None


def load_weights(module: nn.Module, path: str | Path) -> list[str]:
    """Put the weights of a file into a backbone, in place: safetensors, or torch's without code.

    Keys may have the prefixes that training frameworks give them (``module.``, ``backbone.``, ``encoder.``).

    Returns:
        The keys of the file that the backbone has no use for, a classification head's for instance.

    Raises:
        UserError: no such file, a pickle, weights that are missing or have other shapes (naming the first).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"model.weights={path}: no such file; weights are read from this machine alone")
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ModuleNotFoundError:
            raise UserError(
                f"model.weights={path} needs the package safetensors: pip install safetensors"
            ) from None
        try:
            state: Any = load_file(path)
        except Exception as error:  # its own error type has no public base
            raise UserError(f"model.weights={path} cannot be read: {' '.join(str(error).split())}") from None
    else:
        from sslmanifold.models.checkpoint_file import load_file as load_torch

        state = load_torch(path)
        for key in ("state_dict", "model"):
            if isinstance(state, dict) and isinstance(state.get(key), dict):
                state = state[key]
    if not (isinstance(state, dict) and state and all(isinstance(v, Tensor) for v in state.values())):
        raise UserError(f"model.weights={path} holds no weights by name: save module.state_dict()")
    own = module.state_dict()
    state = _renamed(state, own)
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"model.weights={path} lacks {len(missing)} of {len(own)} weights ({missing[0]}, …): they are another "
            "network's; set model.backbone to the one they are of"
        )
    for key, value in own.items():
        if key in state and state[key].shape != value.shape:
            raise UserError(
                f"model.weights={path}: {key} has shape {tuple(state[key].shape)}, this backbone's "
                f"{tuple(value.shape)}: they are of other channels or another size; set model.backbone, or data.size "
                "above 64 for the stem of large images"
            )
    module.load_state_dict({key: state[key] for key in own if key in state}, strict=False)
    return sorted(set(state) - set(own))


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with the prefix off that most of the backbone's keys have in it."""
    prefixes = ("", "module.", "backbone.", "encoder.", "model.", "module.backbone.", "network.backbone.")
    best = max(prefixes, key=lambda prefix: sum(prefix + key in state for key in own))
    return {key.removeprefix(best): value for key, value in state.items()}
