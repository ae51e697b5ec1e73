"""`sslmanifold probe` on real runs: what it finds, what it writes, and what it says when it cannot."""

import csv
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslmanifold.commands.probe import probe_runs
from sslmanifold.config.arguments import named_folder, split_flags
from sslmanifold.errors import UserError
from sslmanifold.probes.embeddings import embed_exactly
from sslmanifold.runs import Run

Compose = Callable[..., dict[str, Any]]


def config_for(compose_config: Compose, run: Path, *overrides: str) -> dict[str, Any]:
    return compose_config(named_folder(f"run={run}"), *overrides, config="probe")


@pytest.fixture(scope="module")
def orthogonal(train: Callable[..., Run]) -> Run:
    return train("model.embedding=10", "trainer.max_steps=2500", callbacks="[spectrum]")


@pytest.fixture(scope="module")
def all_probes(orthogonal: Run, compose_config: Compose) -> tuple[list[dict[str, Any]], float]:
    config = config_for(compose_config, orthogonal.path, "probe=all")
    start = time.process_time()
    rows = probe_runs(config)
    return rows, time.process_time() - start


def accuracy(rows: list[dict[str, Any]], probe: str, embedding: str) -> float:
    return next(row["accuracy"] for row in rows if (row["probe"], row["embedding"]) == (probe, embedding))


def test_the_embedding_is_worth_what_theory_says(all_probes: tuple[list[dict[str, Any]], float]) -> None:
    """Within a point of its own ODE, within two standard errors of PCA with the same z; about 92 % on digits."""
    rows, _ = all_probes
    for probe in ("linear_svm", "logistic"):
        run, ode, pca = (accuracy(rows, probe, name) for name in ("run", "ode", "pca"))
        assert abs(run - ode) <= 0.01
        error = np.sqrt(pca * (1 - pca) / 450)
        assert abs(run - pca) <= 2 * np.sqrt(2) * error
        assert accuracy(rows, probe, "random") < run < accuracy(rows, probe, "raw")
    assert accuracy(rows, "logistic", "run") == pytest.approx(0.92, abs=0.03)
    assert accuracy(rows, "finetune", "run") > accuracy(rows, "linear_svm", "run") - 0.02


def test_all_probes_are_quick(all_probes: tuple[list[dict[str, Any]], float]) -> None:
    assert all_probes[1] < 20


def test_collapse_costs_accuracy(
    train: Callable[..., Run], compose_config: Compose, all_probes: tuple[list[dict[str, Any]], float]
) -> None:
    run = train("model.embedding=10", "constraint=none", callbacks="[spectrum]")
    config = config_for(compose_config, run.path, "probe=logistic", "baselines=[]")
    assert run.summary["status"] == "diverged"
    assert accuracy(probe_runs(config), "logistic", "run") < 0.5 < accuracy(all_probes[0], "logistic", "run")


def test_what_is_written(orthogonal: Run, all_probes: tuple[list[dict[str, Any]], float]) -> None:
    for name in ("linear_svm", "logistic", "ridge", "knn", "finetune"):
        entries = json.loads((orthogonal.path / "probes" / f"{name}.json").read_text())
        low, high = entries["interval"]
        assert 0 < low <= entries["accuracy"] <= high <= 1
        assert (entries["n_train"], entries["n_test"], len(entries["classes"])) == (1347, 450, 10)
        assert np.trace(entries["confusion"]) / 450 == pytest.approx(entries["accuracy"])
        assert sum(c["support"] for c in entries["per_class"].values()) == 450
        assert entries["hyperparameters"]
    with (orthogonal.path / "probes" / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4 * 5 + 1
    assert {float(r["accuracy"]) for r in table} == {row["accuracy"] for row in all_probes[0]}


def test_the_folder_is_enough_and_the_result_the_same(
    orthogonal: Run, compose_config: Compose, tmp_path: Path, all_probes: tuple[list[dict[str, Any]], float]
) -> None:
    moved = tmp_path / "elsewhere, moved=1"
    shutil.copytree(orthogonal.path, moved)
    probe_runs(config_for(compose_config, moved, "probe=[linear_svm,knn]"))
    for name in ("linear_svm", "knn"):
        ours, theirs = (path / "probes" / f"{name}.json" for path in (moved, orthogonal.path))
        assert ours.read_text() == theirs.read_text()


def test_replicas_and_nonlinear_networks(train: Callable[..., Run], compose_config: Compose) -> None:
    run = train("data=half_moons", "replicas=3", "model.activation=tanh", "trainer.max_steps=50")
    only = ("probe=[knn,finetune]", "probe.finetune.fractions=[1.0]")
    rows = probe_runs(config_for(compose_config, run.path, *only))
    entries = json.loads((run.path / "probes" / "knn.json").read_text())
    assert len(entries["per_replica"]) == 3
    assert entries["accuracy"] == pytest.approx(np.mean(entries["per_replica"]))
    assert accuracy(rows, "knn", "raw") > 0.9
    from sslmanifold.probes.labelled import load_samples

    x = load_samples(run).test_x
    np.testing.assert_allclose(embed_exactly(run.model, x), run.embed(x), atol=1e-5)


def test_a_sweep_gives_a_row_a_job(
    train: Callable[..., Run], compose_config: Compose, tmp_path: Path
) -> None:
    for job, constraint in enumerate(("orthogonal", "frobenius")):
        train(
            "data=half_moons", f"constraint={constraint}", "trainer.max_steps=30", folder=tmp_path / str(job)
        )
    with pytest.raises(UserError, match="needs h ≥ d"):
        train("model.hidden=10", folder=tmp_path / "2")
    rows = probe_runs(config_for(compose_config, tmp_path, "probe=ridge"))
    own = [row for row in rows if row["embedding"] == "run"]
    assert [(row["job"], row["constraint"]) for row in own] == [("0", "orthogonal"), ("1", "frobenius")]
    # what depends on the data alone is the same in every job
    assert len({row["accuracy"] for row in rows if row["embedding"] == "raw"}) == 1
    assert (tmp_path / "probes" / "table.csv").exists()
    assert (tmp_path / "0" / "probes" / "ridge.json").exists()


def _array_run(train: Callable[..., Run], path: Path, y: np.ndarray | None, **files: Any) -> Run:
    x = np.random.default_rng(0).normal(size=(40, 6))
    if y is not None:
        x += 3 * (y == y[0])[:, None]
    np.savez(path, x=x, **({} if y is None else {"y": y}))
    labels = [] if y is None else ["data.labels=y"]
    return train("data=array", f"data.path='{path}'", *labels, *files.get("more", ()), "trainer.max_steps=5")


def test_refusals_are_one_message(train: Callable[..., Run], compose_config: Compose, tmp_path: Path) -> None:
    def refused(run: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            probe_runs(config_for(compose_config, run, "probe=knn"))
        assert "\n" not in str(error.value)

    refused(tmp_path / "nowhere", "is not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is not a run folder")
    with pytest.raises(UserError):
        train("model.hidden=10", folder=tmp_path / "failed")
    refused(tmp_path / "failed", r"no checkpoints/last\.ckpt \(the run failed")

    unlabelled = _array_run(train, tmp_path / "a.npz", None)
    refused(unlabelled.path, "needs labels, and data=array has none")
    untested = _array_run(train, tmp_path / "b.npz", np.repeat([0, 1], 20), more=["data.test_fraction=0"])
    refused(untested.path, "has none: train with data.test_fraction")
    np.savez(tmp_path / "test.npz", x=np.ones((4, 6)), y=["a", "b", "a", "b"])
    own_test = [f"data.test_path='{tmp_path}/test.npz'"]
    single = _array_run(
        train, tmp_path / "c.npz", np.array([*(["a"] * 19), *(["b"] * 20), "c"]), more=own_test
    )
    refused(single.path, "class 'c' has [01] training example")
    alone = _array_run(train, tmp_path / "d.npz", np.zeros(40, int))
    refused(alone.path, "there is only 0")

    labelled = _array_run(train, tmp_path / "e.npz", np.repeat([0, 1], 20))
    np.savez(tmp_path / "e.npz", x=np.ones((40, 5)), y=np.repeat([0, 1], 20))
    refused(labelled.path, "its data now have 5 features, its model takes 6")


def test_settings_are_checked(orthogonal: Run, compose_config: Compose) -> None:
    for override, message in (
        ("validation=1.5", "validation=1.5 is not valid"),
        ("baselines=[pca,magic]", "baselines=magic is none of"),
        ("probe.knn.k=[0]", r"probe\.knn\.k"),
        ("weights=first", "weights=first is not valid"),
        ("+probe.knn.weights=distance", r"unknown key probe\.knn\.weights"),
    ):
        with pytest.raises(UserError, match=message):
            probe_runs(config_for(compose_config, orthogonal.path, "probe=knn", override))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["DIR"], ["run='DIR'"]),
        (["run=DIR", "probe=all"], ["run='DIR'", "probe=all"]),
        (["a/b c,d=1", "probe=knn"], ["run='a/b c,d=1'", "probe=knn"]),
        (["outputs/x=1/y", "--cfg", "job"], ["--cfg", "job", "run='outputs/x=1/y'"]),
        (["--config-dir", "mine", "DIR"], ["--config-dir", "mine", "run='DIR'"]),
        (["run='a b'", "+probe.knn.x=1", "~hydra.job"], ["run='a b'", "+probe.knn.x=1", "~hydra.job"]),
        (["it's"], [r"run='it\'s'"]),
        (["--help"], ["--help"]),
    ],
)
def test_a_folder_may_be_given_either_way(
    given: list[str], meant: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outputs" / "x=1" / "y").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    flags, others = split_flags(given)
    assert [*flags, *map(named_folder, others)] == meant


@pytest.mark.parametrize("command", ["probe", "export"])
def test_a_mistake_is_one_line_and_status_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from importlib import import_module

    try:
        status = import_module(f"sslmanifold.commands.{command}").main([str(tmp_path / "no, such=run")])
    except SystemExit as end:
        status = end.code
    assert status == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"sslmanifold {command}: ")
    assert "no, such=run is not a folder" in lines[0]


def test_exact_dynamics_are_probed_and_exported(compose_config: Compose, tmp_path: Path) -> None:
    """A folder of `sslmanifold dynamics` holds a map and no weights."""
    from sslmanifold.commands.export import export_run
    from sslmanifold.training.dynamics import solve_dynamics

    overrides = ("data=half_moons", "trainer.max_steps=50", "callbacks=[]")
    run = solve_dynamics(compose_config(*overrides, config="dynamics"), tmp_path / "solved")
    rows = probe_runs(config_for(compose_config, run.path, "probe=[knn,finetune]", "baselines=[ode,raw]"))
    assert {(row["probe"], row["embedding"]) for row in rows} == {("knn", "run"), ("knn", "raw")}
    with pytest.raises(UserError, match="no weights to fine-tune"):
        probe_runs(config_for(compose_config, run.path, "probe=finetune"))
    assert len(export_run(compose_config(f"run='{run.path}'", config="export"))) == 3
