"""Every example runs as it stands, on a folder of images, and is short enough to read in one sitting."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK = {
    "steps": 2,
    "batch_size": 8,
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
}


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 small images in two classes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(16):
        path = folder / f"class_{index % 2}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


def test_every_example_is_short() -> None:
    paths = sorted(EXAMPLES.glob("*.py"))
    assert [p.stem for p in paths] == ["lightly_module", "own_module", "plain_torch"]
    for path in paths:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 80, path.name


def test_own_module(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("own_module").main(images, **QUICK | {"log_every_n_steps": 1}, default_root_dir=tmp_path)
    shown = capsys.readouterr().out
    assert "rank/effective/backbone" in shown
    residual = [line.split()[-1] for line in shown.splitlines() if line.startswith("constraint/residual")]
    assert float(residual[0]) < 1e-5


def test_lightly_module(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightly", reason="lightly is not installed: sslmanifold[lightly]")
    example("lightly_module").main(images, **QUICK | {"log_every_n_steps": 1}, default_root_dir=tmp_path)
    shown = capsys.readouterr().out
    assert "rank/lidar" in shown
    assert "constraint/residual" in shown


def test_plain_torch(capsys: pytest.CaptureFixture[str]) -> None:
    module = example("plain_torch")
    coarse, fine = module.main(steps=50, lr=0.04), module.main(steps=100, lr=0.02)
    assert 1.8 < coarse / fine < 2.2  # training follows the exact dynamics at first order in the step
