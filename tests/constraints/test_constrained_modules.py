"""Other people's modules, constrained, through what people do to them: training, autocast, compile, DDP, Lightning."""

import copy
import re
from pathlib import Path

import lightning
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sslmanifold import constrain, release
from sslmanifold.geometry import (
    ManifoldAveragedModel,
    ManifoldParameter,
    RiemannianAdam,
    RiemannianSGD,
    residual,
)

CONVOLUTIONS = ["*conv?.weight", "*downsample.0.weight"]


def resnet() -> nn.Module:
    """ResNet-18 up to its second stage."""
    whole = torchvision.models.resnet18()
    stem = nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.layer1, whole.layer2)
    return nn.Sequential(stem, whole.avgpool, nn.Flatten(), nn.Linear(128, 8))


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=48, num_classes=8
    )


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 40, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 8),
    )  # fmt: skip


def images(n: int = 8, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, size, size, generator=generator), torch.randint(8, (n,), generator=generator)


def worst(module: nn.Module) -> float:
    found = [
        float(residual(p, p.manifold).amax()) for p in module.parameters() if isinstance(p, ManifoldParameter)
    ]
    assert found
    return max(found)


def trained(
    module: nn.Module, optimizer: torch.optim.Optimizer, steps: int, n: int = 8
) -> tuple[float, float]:
    """The first and the last loss."""
    x, y = images(n)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses[0], losses[-1]


def equals_its_twin(module: nn.Module, twin: nn.Module) -> bool:
    """Whether an unconstrained module of the same class, given the released weights, gives the same output."""
    release(module)
    assert all(type(p) is nn.Parameter for p in module.parameters())
    twin.load_state_dict(module.state_dict(), strict=True)
    x, _ = images()
    with torch.no_grad():
        return bool((twin.eval()(x) - module.eval()(x)).abs().amax() <= 1e-6)


def test_a_resnet_learns_on_its_manifolds() -> None:
    torch.manual_seed(0)
    model = constrain(resnet(), "orthogonal", weights="0.*.weight")
    assert sum(isinstance(p, ManifoldParameter) for p in model.parameters()) == 1 + 4 + 5
    first, last = trained(model, RiemannianSGD(model.parameters(), lr=0.02, momentum=0.9), 12)
    assert last < 0.5 * first
    assert worst(model) < 1e-5
    assert equals_its_twin(model, resnet())


def test_a_vision_transformer_learns_on_its_manifolds() -> None:
    torch.manual_seed(0)
    model = constrain(vit(), "orthogonal")
    assert (
        sum(isinstance(p, ManifoldParameter) for p in model.parameters()) == 2 * 4 + 2
    )  # conv_proj and the head
    first, last = trained(model, RiemannianAdam(model.parameters(), lr=0.02, weight_decay=1e-4), 40)
    assert last < 0.5 * first
    assert worst(model) < 1e-5
    assert equals_its_twin(model, vit())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_five_hundred_steps_in_float32(name: str) -> None:
    torch.manual_seed(0)
    twin = torchvision.models.resnet18(num_classes=8) if name == "resnet18" else vit()
    model = constrain(copy.deepcopy(twin), "orthogonal", weights=CONVOLUTIONS if name == "resnet18" else None)
    trained(model, RiemannianAdam(model.parameters(), lr=1e-2, weight_decay=1e-4), 500, n=4)
    assert worst(model) < 1e-5
    assert equals_its_twin(model, twin)


@pytest.mark.parametrize("name", ["orthogonal", "operator_norm", "frobenius"])
def test_bf16_autocast_keeps_weights_feasible(name: str) -> None:
    torch.manual_seed(0)
    model = constrain(small(), name)
    optimizer = RiemannianSGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = images()
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast(
            "cpu", torch.bfloat16
        ):  # the whole step inside it, which is what precision is afraid of
            assert model(x).dtype == torch.bfloat16
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert worst(model) < 1e-5


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "constrain.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict = {}
    exec(compile(first, "docs/constrain.md", "exec"), names)
    assert [row.name for row in names["rows"]] == [
        f"layer1.{i}.conv{j}.weight" for i in (0, 1) for j in (1, 2)
    ] + ["fc.weight"]
    assert all(row.residual < 1e-5 for row in names["rows"])
    assert "64×576, orthonormal rows" in capsys.readouterr().out
    assert not any(isinstance(p, ManifoldParameter) for p in names["model"].parameters())
    exec(compile(second, "docs/constrain.md", "exec"), names)
    assert names["callbacks"][0].constraint.c == 1.0


class Strangers(lightning.LightningModule):
    """A LightningModule that knows nothing of manifolds but its optimizer's name."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return RiemannianAdam(self.parameters(), lr=0.02, weight_decay=1e-4)


def test_lightning_in_bf16_mixed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = constrain(Strangers(), "orthogonal", weights="model.*.weight")
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*images(32)), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=10, precision="bf16-mixed", accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, data)
    assert worst(module) < 1e-5
    again = constrain(Strangers(), "orthogonal", weights="model.*.weight", init="haar")
    again.load_state_dict(
        torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)["state_dict"]
    )
    assert torch.equal(again.model[0].weight, module.model[0].weight)


def swapped(module: nn.Module) -> nn.Module:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return module.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


CONVERSIONS = {
    "double": lambda module: module.double(),
    "swapped": swapped,
    "channels last": lambda module: module.to(memory_format=torch.channels_last),
    "averaged": lambda module: ManifoldAveragedModel(module).module,
}


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_converted_modules_learn_on_their_manifolds(conversion: str) -> None:
    torch.manual_seed(0)
    model = CONVERSIONS[conversion](constrain(small(), "orthogonal"))
    limit = 1e-12 if next(model.parameters()).dtype == torch.float64 else 1e-5
    x, y = images()
    optimizer = RiemannianAdam(model.parameters(), lr=0.02)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x.to(model[0].weight.dtype)), y).backward()
        optimizer.step()
    assert worst(model) < limit
    assert model[0].weight.is_contiguous() != (conversion == "channels last")
    assert type(release(model)[0].weight) is nn.Parameter


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_module_trains_as_it_does_uncompiled(backend: str) -> None:
    torch.manual_seed(0)
    plain = constrain(small(), "orthogonal")
    other = copy.deepcopy(plain)
    compiled = torch.compile(other, backend=backend)
    for module in (plain, compiled):
        # not Adam, which makes steps of the roundoff in the gradient of a bias before a batch norm
        trained(module, RiemannianSGD(module.parameters(), lr=0.1, momentum=0.9), 6)
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert worst(other) < 1e-5
    # and a module that is constrained after it was compiled
    later = small()
    compiled = torch.compile(later, backend=backend)
    compiled(images()[0])
    constrain(later, "orthogonal")
    trained(compiled, RiemannianAdam(compiled.parameters(), lr=0.02), 3)
    assert worst(later) < 1e-5


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = constrain(plain_norm(), "orthogonal")
    parallel = DistributedDataParallel(model)
    optimizer = RiemannianSGD(parallel.parameters(), lr=0.1, momentum=0.9)
    x, y = images()
    half = slice(4 * rank, 4 * rank + 4)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(parallel(x[half]), y[half]).backward()
        optimizer.step()
    torch.save(
        {name: p.detach() for name, p in model.named_parameters()} | {"worst": worst(model)},
        f"{folder}/{rank}.pt",
    )
    dist.destroy_process_group()


def plain_norm() -> nn.Module:
    """Without batch statistics, which two processes do not share."""
    return nn.Sequential(*(layer for layer in small() if not isinstance(layer, nn.BatchNorm2d)))


@pytest.mark.forks
def test_two_processes_stay_equal_and_feasible(tmp_path: Path) -> None:
    mp.start_processes(_work, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first.pop("worst") < 1e-5
    second.pop("worst")
    torch.manual_seed(0)
    alone = constrain(plain_norm(), "orthogonal")
    trained(alone, RiemannianSGD(alone.parameters(), lr=0.1, momentum=0.9), 10)
    for name, p in alone.named_parameters():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], p.detach(), rtol=1e-3, atol=1e-5)
