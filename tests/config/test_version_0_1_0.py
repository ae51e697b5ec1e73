"""Run folders as version 0.1.0 wrote them: classes have moved since, and every command still opens them."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sslmanifold import load_run, train
from sslmanifold.cli import main
from sslmanifold.config.targets import RENAMED, locate
from sslmanifold.runs.identity import config_key
from sslmanifold.runs.run import Run

SAVED = Path(__file__).parents[1] / "fixtures" / "version_0_1_0"


@pytest.fixture(params=sorted(path.name for path in SAVED.iterdir()))
def saved(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a folder, in an empty working directory."""
    shutil.copytree(SAVED / request.param, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    return tmp_path / "run"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_the_model_embeds_as_it_did(saved: Path) -> None:
    run = load_run(saved)
    points = np.random.default_rng(0).normal(size=(5, run.model.shape.dim))
    weights = torch.load(saved / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    layers = [
        value[0].double() for key, value in sorted(weights.items()) if key.startswith("network.weights.")
    ]
    expected = torch.from_numpy(points)
    for weight in layers[:-1]:
        expected = expected @ weight.mT
    expected = expected @ layers[-1]
    torch.testing.assert_close(run.embed(points).double(), expected, rtol=1e-5, atol=1e-6)


def test_probe_and_export(saved: Path) -> None:
    assert call("probe", str(saved), "probe=ridge", "bootstrap=100", "baselines=[ode,pca]") == 0
    found = json.loads((saved / "probes" / "ridge.json").read_text())
    assert 0 <= found["accuracy"] <= 1
    assert call("export", str(saved), "formats=[npz]") == 0
    assert (saved / "export" / "embedding.npz").exists()


def test_report_and_runs(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (saved / "summary.json").unlink()  # its names then come from the classes that config.yaml names
    record_of = {"data": "half_moons", "loss": "contrastive", "constraint": "orthogonal"}
    assert call("report", str(saved)) == 0
    assert call("runs", str(saved), "columns=data,loss,constraint,model") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in record_of.values())


def test_it_goes_on_as_the_run_that_never_stopped(saved: Path, tmp_path: Path) -> None:
    before = Run(saved).metrics["train/loss"]
    assert call("train", f"ckpt_path={saved}", "trainer.max_steps=30") == 0
    run = Run(saved)
    assert (run.summary["status"], run.summary["steps"]) == ("completed", 30)
    assert run.metrics["train/loss"][: len(before) - 1] == before[:-1]
    assert run.summary["ode/deviation_max"] < 1


def test_a_sweep_finds_its_job_again(saved: Path) -> None:
    """Where a class lies is no part of what a job computes."""
    config = yaml.safe_load((saved / "config.yaml").read_text())
    text = json.dumps(config)
    for old, new in RENAMED.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    assert json.loads(text) != config
    assert config_key(config) == config_key(json.loads(text))


def test_the_same_run_from_python(saved: Path) -> None:
    result = train("trainer.max_steps=25", ckpt_path=saved)
    assert result.summary["steps"] == 25
    assert result.path == saved


@pytest.mark.parametrize("path", sorted(RENAMED))
def test_every_old_path_still_resolves(path: str) -> None:
    groups = {"constraints": "constraint", "loggers": "logger", "callbacks": "callbacks"}
    group = groups[RENAMED[path].split(".")[1]]
    assert locate(path, group).__name__ == path.rpartition(".")[2]
