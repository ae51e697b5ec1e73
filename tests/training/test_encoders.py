"""Image encoders in a run: constrained, resumed bit for bit, restored, probed, and refused by one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sslmanifold.commands.export import export_run
from sslmanifold.commands.probe import probe_runs
from sslmanifold.constraints import make_constraint
from sslmanifold.errors import UserError
from sslmanifold.geometry import RiemannianAdam, RiemannianSGD, residual
from sslmanifold.models.encoder import Encoder, EncoderNetwork, orthonormality_penalty
from sslmanifold.runs import Run
from sslmanifold.training.encoder_module import EncoderModule
from sslmanifold.training.fit import run_training
from sslmanifold.training.parameter_groups import parameter_groups

LINE = (
    "data=digits", "data.per_class=20", "data.batch_size=50", "model=encoder", "model.width=4", "model.hidden=16",
    "model.embedding=8", "loss=ntxent", "optimizer=adam", "optimizer.lr=0.003", "trainer.max_steps=10",
    "trainer.log_every_n_steps=5", "callbacks=[spectrum]",
)  # fmt: skip


@pytest.fixture
def config(compose_config: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    return lambda *more: compose_config(*LINE, *more)


def made(**options: Any) -> EncoderNetwork:
    constraint = make_constraint(options.pop("constraint", "orthogonal"))
    return Encoder(**options).build(
        16, torch.zeros(3), torch.ones(3), constraint, torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("constraint", ["none", "orthogonal", "operator_norm", "frobenius"])
def test_a_run(
    config: Callable[..., dict[str, Any]],
    compose_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
    constraint: str,
) -> None:
    run = run_training(config(f"constraint={constraint}", "model.constrain=all"), tmp_path)
    assert run.summary["status"] == "completed", run.summary
    assert run.summary["probe/knn/accuracy"] > 0.2  # of ten classes
    assert run.summary.get("constraint/residual", 0) < 1e-5
    assert {"rank/effective", "rank/effective/backbone", "train/loss"} <= run.metrics.keys()
    network: Any = run.model
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    assert run.embed(images).shape == (4, 16)
    assert len(network.weights) == (0 if constraint == "none" else len(list(network.weights)))
    if constraint == "orthogonal":
        written = export_run({"run": str(tmp_path)})  # each read back and compared with the run
        assert [path.suffix for path in written] == [".pt2", ".onnx", ".npz"]
        rows = probe_runs(
            compose_config(f"run='{tmp_path}'", "probe=knn", "probe.knn.metric=cosine", config="probe")
        )
        assert {row["embedding"] for row in rows} >= {"run", "pca", "random", "raw"}
        assert len(network.weights) == 11  # nine convolutions, two linear layers
        assert all(float(residual(w, w.manifold).max()) < 1e-5 for w in network.weights)


def test_killed_in_the_middle_of_an_epoch_and_resumed_it_is_the_same_bit_for_bit(
    config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def dying(self: EncoderModule, batch: Any, batch_idx: int) -> Any:
        if self.steps_done == 6:  # a pass has four batches
            raise Killed
        return original(self, batch, batch_idx)

    options = config("checkpoint.every_n_steps=5", "model.constrain=all")
    whole = run_training(options, tmp_path / "whole")
    original = EncoderModule.training_step
    monkeypatch.setattr(EncoderModule, "training_step", dying)
    with pytest.raises(Killed):
        run_training(options, tmp_path / "killed")
    monkeypatch.undo()
    resumed = run_training(options | {"ckpt_path": str(tmp_path / "killed")}, tmp_path / "killed")
    for (name, one), other in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert whole.folder.metrics.read_bytes() == resumed.folder.metrics.read_bytes()


def test_epochs_are_the_length_where_they_are_given(
    config: Callable[..., dict[str, Any]], compose_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    line = [entry for entry in LINE if not entry.startswith("trainer.max_steps")]
    run = run_training(compose_config(*line, "trainer.max_epochs=2"), tmp_path)
    assert (run.summary["status"], run.summary["steps"], run.summary["epochs"]) == ("completed", 8, 2.0)


@pytest.mark.parametrize("loss", ["contrastive", "noncontrastive", "vicreg", "barlow", "spectral", "lejepa"])
def test_every_loss(config: Callable[..., dict[str, Any]], tmp_path: Path, loss: str) -> None:
    line = config("trainer.max_steps=2", f"loss={loss}", "loss.temperature=0.5") if loss == "ntxent" else None
    if line is None:
        line = config("trainer.max_steps=2")
        from omegaconf import OmegaConf

        from sslmanifold.config.location import config_dir

        line["loss"] = OmegaConf.to_container(OmegaConf.load(config_dir() / "loss" / f"{loss}.yaml"))
        line["augment"] = OmegaConf.to_container(OmegaConf.load(config_dir() / "augment" / "vicreg.yaml"))
        line["augment"]["views"] = 3
    assert run_training(line, tmp_path).summary["status"] == "completed"


def test_a_soft_penalty_brings_free_weights_near_the_manifold(
    config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    penalised = run_training(
        config("trainer.max_steps=60", "optimizer.lr=0.01", "model.penalty=10.0"), tmp_path / "soft"
    )
    free = run_training(
        config("trainer.max_steps=60", "optimizer.lr=0.01", "constraint=none"), tmp_path / "free"
    )

    def distance(run: Run) -> float:
        spec = Encoder(penalty=1.0, constrain="projector")
        return float(orthonormality_penalty(spec.penalised(run.model)))  # type: ignore[arg-type]

    assert penalised.summary["constraint"] == "none"
    assert distance(penalised) < 0.2 * distance(free)


def test_a_frozen_backbone_stays_as_it_is(config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run = run_training(config("model.freeze=true"), tmp_path)
    from sslmanifold.training.encoder_experiment import EncoderExperiment

    before = EncoderExperiment(config("model.freeze=true")).module.network.backbone.state_dict()
    after: Any = run.model
    for (name, one), other in zip(before.items(), after.backbone.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("optimizer", [RiemannianAdam, RiemannianSGD])
def test_a_first_step_moves_constrained_and_free_entries_alike(optimizer: Any) -> None:
    """AdamW moves an entry by lr, RiemannianAdam a matrix by lr: the same root mean square after the match."""
    moved = {}
    for constraint in ("none", "orthogonal"):
        network = made(constraint=constraint, constrain="all")
        before = {
            name: p.detach().clone().as_subclass(torch.Tensor) for name, p in network.named_parameters()
        }
        steps = optimizer(parameter_groups(network, optimizer, lr=1e-4, weight_decay=0.0), lr=1e-4)
        network(
            torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        ).square().sum().backward()
        steps.step()
        name = "backbone.layer2.conv2.weight"
        change = dict(network.named_parameters())[name].detach().as_subclass(torch.Tensor) - before[name]
        moved[constraint] = float(change.square().mean().sqrt())
    assert 0.2 < moved["orthogonal"] / moved["none"] < 5
    if optimizer is RiemannianAdam:
        assert moved["orthogonal"] == pytest.approx(1e-4, rel=0.02)


def test_decay_reaches_free_matrices_alone() -> None:
    groups = parameter_groups(made(), RiemannianAdam, lr=1.0, weight_decay=0.1)
    decay = {group["name"]: group["weight_decay"] for group in groups}
    assert decay["free"] == 0.1
    assert decay["vectors"] == 0
    assert all(value == 0 for name, value in decay.items() if name.startswith("manifold"))


def test_weights_of_a_file(tmp_path: Path) -> None:
    donor = made(backbone="small_resnet")
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in donor.backbone.state_dict().items()}}, tmp_path / "w.pt"
    )
    network = made(weights=str(tmp_path / "w.pt"), constrain="projector")
    assert torch.equal(
        network.backbone.state_dict()["stem.0.weight"], donor.backbone.state_dict()["stem.0.weight"]
    )
    with pytest.raises(UserError, match=r"has shape .* this backbone's"):
        made(weights=str(tmp_path / "w.pt"), width=8)
    with pytest.raises(UserError, match=r"no such file"):
        made(weights=str(tmp_path / "absent.pt"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data=half_moons", "holds no images"),
        ("constraint=product", "binds all layers"),
        ("constraint=scaled", "binds all layers"),
        ("model.backbone=resnet81", "unknown: choose resnet18"),
        ("model.constrain=projektor", "matches no parameter"),
        ("replicas=2", "sweep seeds"),
        ("optimizer.manifold_lr=fast", "set match, same"),
    ],
)
def test_refused_by_one_line(
    compose_config: Callable[..., dict[str, Any]], tmp_path: Path, override: str, said: str
) -> None:
    line = [entry for entry in LINE if entry.split("=")[0] != override.split("=")[0]]
    if override.startswith("data="):
        line = [entry for entry in line if not entry.startswith("data")]
    with pytest.raises(UserError, match=said):
        run_training(compose_config(*line, override), tmp_path)


def test_augmentations_are_for_encoders(
    compose_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"for model=encoder"):
        run_training(compose_config("data=half_moons", "augment=simclr"), tmp_path)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny"])
def test_torchvisions_backbones_take_small_images(name: str) -> None:
    network = made(backbone=name, constrain="projector").eval()
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 64)
