"""Fine-tuning: what is frozen stays, what is constrained stays on its manifold, what is resumed is the same."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sslmanifold.errors import UserError
from sslmanifold.geometry import ManifoldParameter, residual
from sslmanifold.probes.finetune import FineTune, FineTuning, Freezing, released
from sslmanifold.probes.finetune_fit import fine_tune
from sslmanifold.probes.labelled import Labelled, labelled
from sslmanifold.runs import Run

QUICK = {"fractions": [0.3], "epochs": 4}


@pytest.fixture(scope="module")
def run(train: Callable[..., Run]) -> Run:
    return train("model.embedding=3", "trainer.max_steps=200", callbacks="[spectrum]")


@pytest.fixture(scope="module")
def data(run: Run) -> Labelled:
    return labelled(run)


def tuned(
    run: Run, data: Labelled, folder: Path, **options: Any
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The last record and the weights of its best epoch."""
    _, records = fine_tune(FineTune(**QUICK | options), run.model, data, folder, validation=0.2, seed=0)
    path = folder / "30%" / "best.ckpt"
    return records[-1], torch.load(path, weights_only=True)["state_dict"]


def test_everything_learns_on_its_manifold(run: Run, data: Labelled, tmp_path: Path) -> None:
    record, state = tuned(run, data, tmp_path)
    for index, weight in enumerate(run.model.weights):
        learnt = state[f"network.weights.{index}"]
        assert not torch.equal(learnt, weight)
        assert float(residual(learnt, weight.manifold)) < 1e-5
    assert record["constraint/residual"] < 1e-5
    assert record["n_train"] == pytest.approx(0.3 * 1347, abs=5)


@pytest.mark.parametrize("freeze", ["none", "gradual"])
def test_a_bounded_map_stays_bounded(
    train: Callable[..., Run], data: Labelled, tmp_path: Path, freeze: str
) -> None:
    """The bound holds of the weights as saved, whatever the summary says; a frozen layer gives nothing of it."""
    bounded = train("model.embedding=3", "trainer.max_steps=30", "constraint=product", callbacks="[spectrum]")
    options = {"freeze": freeze, "unfreeze_every": 1, "epochs": 2, "patience": 50, "backbone_lr": 0.01}
    record, _ = tuned(bounded, data, tmp_path, **options)
    state = torch.load(tmp_path / "30%" / "last.ckpt", weights_only=True)["state_dict"]
    w1, w2 = (state[f"network.weights.{index}"].double() for index in (0, 1))
    assert not torch.equal(state["network.weights.1"], bounded.model.weights[1])
    assert float(torch.linalg.matrix_norm(w1.mT @ w2, 2)) == pytest.approx(1.0, abs=1e-6)
    assert record["constraint/residual"] < 1e-6
    if freeze == "gradual":
        assert torch.equal(state["network.weights.0"], bounded.model.weights[0])


def test_the_scaled_loss_fine_tunes_what_no_scale_changes(train: Callable[..., Run], data: Labelled) -> None:
    scaled = train("model.embedding=3", "trainer.max_steps=30", "constraint=scaled", callbacks="[spectrum]")
    module = FineTuning(released(scaled.model), 10, scale=2.0)
    x = data.train_x[:50]
    logits = module(x)
    torch.testing.assert_close(logits, module.head(scaled.model(x.to(logits.dtype))[0] / 2.0))
    loss = module.training_step((x, torch.from_numpy(data.train_y[:50])), 0)
    loss.backward()
    for weight in module.network.weights:  # no growth along the weight itself
        assert float((weight.grad * weight).sum().abs()) < 1e-5 * float(weight.grad.norm() * weight.norm())
    with torch.no_grad():
        for weight in module.network.weights:
            weight *= 3
    torch.testing.assert_close(module(x), logits)


def test_a_frozen_backbone_stays_bit_for_bit(run: Run, data: Labelled, tmp_path: Path) -> None:
    _, state = tuned(run, data, tmp_path, freeze="backbone")
    for index, weight in enumerate(run.model.weights):
        assert torch.equal(state[f"network.weights.{index}"], weight)


def test_gradual_starts_from_the_last_layer(run: Run, data: Labelled, tmp_path: Path) -> None:
    options = {"freeze": "gradual", "unfreeze_every": 2, "patience": 50}
    for epochs, moved in ((2, []), (3, [1]), (5, [0, 1])):
        folder = tmp_path / str(epochs)
        tuned(run, data, folder, epochs=epochs, **options)
        last = torch.load(folder / "30%" / "last.ckpt", weights_only=True)["state_dict"]
        changed = [
            i for i, w in enumerate(run.model.weights) if not torch.equal(last[f"network.weights.{i}"], w)
        ]
        assert changed == moved


def test_weights_leave_the_manifold_only_when_told(run: Run, data: Labelled, tmp_path: Path) -> None:
    _, state = tuned(run, data, tmp_path, constraint="none", backbone_lr=0.01)
    assert float(residual(state["network.weights.0"], run.model.weights[0].manifold)) > 1e-3
    free = released(run.model, constrained=False)
    assert all(
        isinstance(w, ManifoldParameter) and not w.manifold.name.startswith("Stiefel") for w in free.weights
    )


def test_a_plain_optimizer_is_refused(run: Run) -> None:
    class Plain(FineTuning):
        def configure_optimizers(self) -> Any:
            from sslmanifold.geometry import require_riemannian

            optimizer = torch.optim.Adam(self.parameters())
            require_riemannian(optimizer, self)
            return optimizer

    with pytest.raises(UserError, match=r"Adam would leave the manifold of network\.weights"):
        Plain(released(run.model), 10).configure_optimizers()


@pytest.mark.parametrize("freeze", ["none", "gradual"])
def test_interrupted_and_resumed_is_uninterrupted(
    run: Run, data: Labelled, tmp_path: Path, freeze: str
) -> None:
    options = {"freeze": freeze, "unfreeze_every": 1, "patience": 50}
    tuned(run, data, tmp_path / "whole", epochs=6, **options)
    tuned(run, data, tmp_path / "part", epochs=3, **options)
    tuned(run, data, tmp_path / "part", epochs=6, resume=True, **options)
    whole, part = (
        torch.load(tmp_path / name / "30%" / "last.ckpt", weights_only=True) for name in ("whole", "part")
    )
    assert part["epoch"] == whole["epoch"] == 5
    for key, value in whole["state_dict"].items():
        assert torch.equal(part["state_dict"][key], value), key


def test_more_labels_help_and_patience_stops(run: Run, data: Labelled, tmp_path: Path) -> None:
    options = FineTune(fractions=[1.0, 0.02], epochs=25, patience=3)
    fit, records = fine_tune(options, run.model, data, tmp_path, validation=0.2, seed=0)
    accuracy = [(r["predicted"] == data.test_y).mean() for r in records]
    assert [r["fraction"] for r in records] == [0.02, 1.0]
    assert accuracy[0] < accuracy[1] > 0.6
    assert (fit.predicted == records[1]["predicted"]).all()
    shutil.rmtree(tmp_path)
    hopeless = FineTune(fractions=[1.0], epochs=200, patience=2, head_lr=5.0)
    _, records = fine_tune(hopeless, run.model, data, tmp_path, validation=0.2, seed=0)
    assert records[0]["epochs"] < 100


def test_groups_have_their_own_rates(run: Run) -> None:
    module = FineTuning(released(run.model), 10, head_lr=0.3, backbone_lr=0.01)
    rates = [group["lr"] for group in module.configure_optimizers().param_groups]
    assert rates == [0.3, 0.01, 0.01]
    Freezing("backbone", 1).freeze_before_training(module)
    assert [group["lr"] for group in module.configure_optimizers().param_groups] == [0.3]
