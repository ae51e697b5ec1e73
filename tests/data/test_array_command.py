"""What a run says and keeps about the files it was trained on."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from sslmanifold import load_run
from sslmanifold.cli import main
from sslmanifold.export import embed_with, write_npz
from sslmanifold.training.fit import run_training

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3)) * [1.0, 100.0, 1e-3] + [0.0, 5.0, 1.0]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    frame = pd.DataFrame(X, columns=list("abc")).assign(kind=["moon", "sun"] * 20)
    frame.to_csv(tmp_path / "f.csv")
    return tmp_path


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code, capsys.readouterr()


@pytest.mark.parametrize("name", ["train", "dynamics"])
def test_what_is_read_is_printed_once_and_kept(home, capsys, name):
    code, said = command(
        capsys,
        name,
        "data=array",
        "data.path=~/f.csv",
        "data.labels=kind",
        "data.scale=standard",
        "model.embedding=2",
        "trainer.max_steps=4",
        "callbacks=[spectrum]",
        f"hydra.run.dir={home}/run",
    )
    assert code == 0
    line = (
        f"data.path={home}/f.csv, n = 32 (8 more held out to test on), d = 3, float64, comma-separated, header line, "
        "labels in column kind, 2 classes: moon (16), sun (16); left out the first column as an index of the rows "
        "(it has no name; data.index=false keeps it as a feature)"
    )
    assert said.out.splitlines().count(f"data=array: {line}") == 1
    assert json.loads((home / "run" / "summary.json").read_text())["data/read"] == line


def test_a_scaled_run_embeds_raw_inputs_after_loading_and_export(home, compose_config):
    config = compose_config(
        "data=array",
        f"data.path={home}/f.csv",
        "data.labels=kind",
        "data.scale=standard",
        "data.pca=2",
        "model.embedding=2",
        "trainer.max_steps=4",
        "callbacks=[]",
    )
    run_training(config, home / "run")
    run = load_run(home / "run")
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    assert np.abs(scaled).max() < 10
    embedded = run.embed(X)
    affine = run.model.preprocessing
    prepared = ((torch.from_numpy(X) - affine.mean) / affine.scale) @ affine.components
    torch.testing.assert_close(embedded, run.model(prepared.to(embedded.dtype))[0], rtol=1e-5, atol=1e-5)
    path, difference = write_npz(run.model, home / "embedding.npz")
    assert difference < 1e-5
    with np.load(path) as stored:
        assert "scale" in stored.files
        np.testing.assert_allclose(embed_with(dict(stored), X), embedded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["~/g.csv", "[~/g.csv,~/f.csv]"])
def test_a_file_that_is_not_there_is_one_line(home, capsys, path):
    code, said = command(capsys, "train", "data=array", f"data.path={path}", f"hydra.run.dir={home}/run")
    assert code == 2
    assert said.err.splitlines() == [
        f"sslmanifold train: data.path={home}/g.csv: no such file (looked for {home}/g.csv); did you mean {home}/f.csv?"
    ]
