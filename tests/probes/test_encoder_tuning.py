"""Fine-tuning of image encoders: what learns, what stays, and that a resumed one is the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sslmanifold.commands.probe import probe_runs
from sslmanifold.models.checkpoint_file import load_file
from sslmanifold.models.encoder import EncoderNetwork
from sslmanifold.probes.encoder_tuning import EncoderTuning
from sslmanifold.probes.finetune import FineTune
from sslmanifold.probes.finetune_fit import fine_tune
from sslmanifold.probes.labelled import LabelledImages, labelled
from sslmanifold.runs import Run
from sslmanifold.training.fit import run_training

LINE = (
    "data=digits", "data.per_class=30", "model=encoder", "model.width=4", "model.embedding=16", "model.hidden=16",
    "model.constrain=all", "loss=ntxent", "optimizer=adam", "trainer.max_steps=10", "data.batch_size=64",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(compose_config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_training(compose_config(*LINE), tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def data(run: Run) -> LabelledImages:
    found = labelled(run)
    assert isinstance(found, LabelledImages)
    return found


def tuned(run: Run, data: LabelledImages, folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The fit, and the backbone's state where it ended."""
    network: Any = run.model
    fit, _ = fine_tune(
        FineTune(**{"fractions": [1.0], "patience": 50, **options}), network, data, folder, validation=0.2, seed=0
    )  # fmt: skip
    state = load_file(folder / "100%" / "last.ckpt")["state_dict"]
    return fit, {key.removeprefix("network."): v for key, v in state.items() if "backbone." in key}


def test_everything_learns_on_its_manifold(run: Run, data: LabelledImages, tmp_path: Path) -> None:
    network: Any = run.model
    before = {key: value.clone() for key, value in network.state_dict().items()}
    options = FineTune(fractions=[0.5, 1.0], epochs=12, patience=50, batch_size=32)
    fit, records = fine_tune(options, network, data, tmp_path, validation=0.2, seed=0)
    accuracy = (fit.predicted == data.test_y).mean()
    assert accuracy > 0.6, accuracy  # ten classes
    assert [record["n_train"] for record in records] == [150, 300]
    assert all(record["constraint/residual"] < 1e-5 for record in records)
    state = load_file(tmp_path / "100%" / "last.ckpt")["state_dict"]
    moved = [
        k
        for k, v in before.items()
        if k.startswith("backbone.") and not torch.equal(v, state[f"network.{k}"])
    ]
    assert {"backbone.stem.0.weight", "backbone.layer3.conv2.weight"} <= set(moved)
    assert all(
        torch.equal(value, network.state_dict()[key]) for key, value in before.items()
    )  # the run's own stays


def test_released_weights_leave_their_manifolds(run: Run, data: LabelledImages, tmp_path: Path) -> None:
    network: Any = run.model
    _, state = tuned(run, data, tmp_path, epochs=3, constraint="none")
    weight = state["backbone.layer3.conv2.weight"].flatten(1).double()  # (16, 144), orthonormal rows before
    start = network.backbone.layer3.conv2.weight.detach().flatten(1).double()
    eye = torch.eye(len(weight), dtype=torch.float64)
    assert float((start @ start.mT - eye).norm()) < 1e-5
    assert float((weight @ weight.mT - eye).norm()) > 1e-3


def test_a_frozen_backbone_stays_bit_for_bit(run: Run, data: LabelledImages, tmp_path: Path) -> None:
    network: Any = run.model
    _, state = tuned(run, data, tmp_path, epochs=2, freeze="backbone")
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())


def test_gradual_starts_from_the_last_part(run: Run, data: LabelledImages, tmp_path: Path) -> None:
    network: Any = run.model
    _, state = tuned(run, data, tmp_path, epochs=4, freeze="gradual", unfreeze_every=2)
    moved = {key.split(".")[1] for key, v in state.items() if not torch.equal(v, network.state_dict()[key])}
    assert moved == {"layer3"}


def test_resumed_it_is_the_same(run: Run, data: LabelledImages, tmp_path: Path) -> None:
    whole, expected = tuned(run, data, tmp_path / "whole", epochs=4)
    tuned(run, data, tmp_path / "parts", epochs=2)
    fit, state = tuned(run, data, tmp_path / "parts", epochs=4, resume=True)
    assert all(torch.equal(value, expected[key]) for key, value in state.items())
    assert (fit.predicted == whole.predicted).all()


def test_every_row_and_epoch_has_its_own_view(run: Run, data: LabelledImages) -> None:
    network: Any = run.model
    assert isinstance(network, EncoderNetwork)
    module = EncoderTuning(network, 10, 16, 5)
    rows = torch.tensor([0, 3])
    assert torch.equal(module._draws_of(rows), module._draws_of(torch.arange(5))[rows])
    assert not torch.equal(*module._draws_of(rows))


def test_from_the_command(run: Run, compose_config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    lines = (f"run='{run.path}'", "probe=[knn,finetune]", "probe.finetune.epochs=2", "baselines=[raw]")
    rows = probe_runs(compose_config(*lines, config="probe"))
    assert {(row["probe"], row["embedding"]) for row in rows} == {
        ("knn", "run"),
        ("knn", "raw"),
        ("finetune", "run"),
    }
