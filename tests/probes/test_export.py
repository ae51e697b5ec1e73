"""Exported embeddings are the run's, and need nothing of this package."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold.commands.export import export_run
from sslmanifold.errors import UserError
from sslmanifold.runs import Run

CASES = {
    "linear": ("model.embedding=3",),
    "tanh, pca, replicas": ("model.activation=tanh", "data.pca=7", "replicas=2"),
    "head, centred": ("model=head", "data.center=true"),
    "head, pca, replicas": ("model=head", "data.pca=7", "replicas=2", "constraint=scaled"),
    "deep, centred": ("model=deep_linear", "data.center=true", "trainer.precision=64-true"),
}


@pytest.fixture(scope="module", params=CASES)
def exported(
    request: pytest.FixtureRequest, train: Callable[..., Run], compose_config: Callable[..., Any]
) -> Run:
    run = train(*CASES[request.param], "trainer.max_steps=20", callbacks="[spectrum]")
    export_run(compose_config(f"run='{run.path}'", config="export"))
    return run


@pytest.fixture(scope="module")
def raw() -> np.ndarray:
    from sslmanifold.data import Digits

    return Digits().load(0).test_x.numpy().astype(np.float32)


def close(found: np.ndarray, run: Run, raw: np.ndarray) -> None:
    expected = run.embed(raw).double().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def test_torch(exported: Run, raw: np.ndarray) -> None:
    module = torch.export.load(exported.path / "export" / "embedding.pt2").module()
    close(module(torch.from_numpy(raw)).detach().double().numpy(), exported, raw)


def test_onnx(exported: Run, raw: np.ndarray) -> None:
    import onnx
    import onnxruntime

    path = exported.path / "export" / "embedding.onnx"
    assert {o.domain: o.version for o in onnx.load(path).opset_import}[""] == 18
    session = onnxruntime.InferenceSession(str(path))
    close(session.run(["embedding"], {"x": raw})[0].astype(np.float64), exported, raw)


def test_npz(exported: Run, raw: np.ndarray) -> None:
    with np.load(exported.path / "export" / "embedding.npz") as stored:
        x = raw.astype(np.float64)
        if "mean" in stored:
            x = x - stored["mean"]
        if "components" in stored:
            x = x @ stored["components"]
        if "map" in stored:
            close(x @ stored["map"], exported, raw)
        assert ("map" in stored) or ("w2" in stored)
        if "w2" in stored and "w3" not in stored:
            hidden = x @ np.swapaxes(stored["w1"], -1, -2)
            hidden = np.tanh(hidden) if stored["activation"] == "tanh" else hidden
            close(hidden @ stored["w2"], exported, raw)


def test_without_this_package(exported: Run, tmp_path: Path) -> None:
    """In a process that cannot import it."""
    if exported.config["replicas"] == 1:  # a process costs seconds: one case is enough
        return
    program = (
        "import sys; sys.modules['sslmanifold'] = sys.modules['geoopt'] = sys.modules['lightning'] = None\n"
        "import torch\n"
        f"m = torch.export.load({str(exported.path / 'export' / 'embedding.pt2')!r}).module()\n"
        "print(tuple(m(torch.zeros(5, 64)).shape))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "(2, 5, 2)"


def test_refusals(compose_config: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        export_run(compose_config(f"run='{tmp_path}'", config="export"))
    with pytest.raises(UserError, match=r"opset=9 is not valid"):
        export_run(compose_config(f"run='{tmp_path}'", "opset=9", config="export"))
    with pytest.raises(UserError, match=r"formats"):
        export_run(compose_config(f"run='{tmp_path}'", "formats=[tflite]", config="export"))
