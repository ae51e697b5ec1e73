"""What lies in the folder where a command is started is never imported, whatever library it is named like."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sslmanifold.runs import Run

PACKAGE = Path(__file__).parents[2] / "sslmanifold"
OWN = Path(__file__).parents[2] / "docs" / "own_groups"
# libraries that the commands import, and modules of Python's own that they are first to import
NAMES = (
    "yaml", "torch", "sklearn", "numpy", "rich", "hydra", "omegaconf", "plotly", "pandas", "pydantic", "scipy",
    "joblib", "geoopt", "lightning", "matplotlib", "wandb", "threadpoolctl", "json", "csv", "typing", "dataclasses",
    "pathlib", "inspect", "tempfile", "shutil", "zipfile", "secrets", "hydra_plugins", "sitecustomize",
)  # fmt: skip
SCRIPT = Path(sys.executable).with_name("sslmanifold")
PROGRAMS = {
    "sslmanifold": [str(SCRIPT)],
    "python -m sslmanifold": [sys.executable, "-m", "sslmanifold"],
}


@pytest.fixture
def trap(real: Run, tmp_path: Path) -> Path:
    """A stranger's folder: a run, and beside it modules that leave a mark when they are imported."""
    folder = tmp_path / "trap"
    shutil.copytree(real.path, folder / "run")
    for name in NAMES:
        mark = f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r} + ' ')\n"
        if name in ("sklearn", "hydra_plugins"):
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(mark)
        else:
            (folder / f"{name}.py").write_text(mark)
    return folder


def started(program: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")
    } | variables
    if program == "sslmanifold" and not SCRIPT.exists():
        pytest.skip("sslmanifold is not installed as a command here")
    return subprocess.run(
        [*PROGRAMS[program], *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


slow = pytest.mark.slow  # a program takes seconds to start, and all of them take the same way in
COMMANDS = [
    ("python -m sslmanifold", ("--help",)),
    ("python -m sslmanifold", ("report", ".")),
    ("sslmanifold", ("runs", ".")),
    pytest.param("python -m sslmanifold", ("runs", "."), marks=slow),
    pytest.param("python -m sslmanifold", ("export", "run", "formats=[npz]"), marks=slow),
    pytest.param("python -m sslmanifold", ("probe", "run", "probe=ridge", "baselines=[ode]"), marks=slow),
    pytest.param("sslmanifold", ("report", "."), marks=slow),
    pytest.param("sslmanifold", ("train", "ckpt_path=run", "trainer.max_steps=30"), marks=slow),
]


@pytest.mark.parametrize(("program", "arguments"), COMMANDS)
def test_nothing_in_the_current_directory_is_imported(
    program: str, arguments: tuple[str, ...], trap: Path
) -> None:
    done = started(program, *arguments, cwd=trap)
    assert done.returncode == 0, done.stderr
    assert not (trap.parent / "imported").exists(), (trap.parent / "imported").read_text()


@pytest.mark.parametrize("name", ["__init__", "__main__", "cli", "version"])
def test_what_is_imported_before_the_directory_is_left_is_loaded_already(name: str) -> None:
    """Python itself has imported these, or they lie in the package: the directory is not asked for them."""
    loaded = {"os", "site", "sys", "importlib", "sslmanifold.version", "sslmanifold.cli"}
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    found = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert found <= loaded


@slow
def test_nor_by_the_workers_of_a_sweep(trap: Path) -> None:
    line = ["-m", "data=half_moons", "data.n=20", "trainer.max_steps=2", "seed=0,1", "callbacks=[spectrum]"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = started("python -m sslmanifold", "train", *line, *launcher, cwd=trap)
    assert done.returncode == 0, done.stderr
    assert not (trap.parent / "imported").exists(), (trap.parent / "imported").read_text()


def test_an_empty_part_of_pythonpath_is_not_the_current_directory(trap: Path) -> None:
    (trap / "sitecustomize.py").unlink()  # Python itself imports that one before any line of a program
    done = started("sslmanifold", "runs", ".", cwd=trap, PYTHONPATH=f"{os.pathsep}{OWN}")
    assert done.returncode == 0, done.stderr
    assert not (trap.parent / "imported").exists(), (trap.parent / "imported").read_text()


@slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_module_of_ones_own_is_found_through_pythonpath(program: str, tmp_path: Path) -> None:
    arguments = [
        "train", "--config-dir", "conf", "data=spiral", "data.n=20", "loss=logistic_pairs", "constraint=unit_rows",
        "optimizer.lr=3e-4", "trainer.max_steps=2", "callbacks=[spectrum]", f"hydra.run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    shutil.copytree(OWN, tmp_path / "own")
    done = started(program, *arguments, cwd=tmp_path / "own")
    assert done.returncode == 2
    assert "my_ssl" in done.stderr
    assert "PYTHONPATH=" in done.stderr
    # the folder is named, so it is the user's choice: the current directory, too
    done = started(program, *arguments, "overwrite=true", cwd=tmp_path / "own", PYTHONPATH=".")
    assert done.returncode == 0, done.stderr


def test_a_deleted_directory_does_not_matter(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        f"import os, sys; os.rmdir({str(gone)!r}); sys.argv = ['sslmanifold', '--version']\n"
        "from sslmanifold.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=gone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
