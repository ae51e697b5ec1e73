"""Every script in scripts/ runs: a benchmark or a picture nobody runs is a benchmark nobody trusts."""

import importlib.util
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str) -> ModuleType:
    """A file of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_script_has_a_main() -> None:
    for path in SCRIPTS.glob("*.py"):
        assert callable(getattr(script(path.stem), "main", None)), path.name


def test_the_readme_picture(tmp_path: Path) -> None:
    out = script("readme_picture").main(out=str(tmp_path / "picture.png"), steps=60)
    assert out.stat().st_size > 20_000


def test_solving_and_training_arrive_at_the_same() -> None:
    """On half moons, trained to convergence for real: the same subspace, and the ratio is reported.

    Not how large it is: that is the benchmark's to say, on a machine that does nothing else.
    """
    (row,) = script("benchmark_dynamics").main(
        data="half_moons", hidden=16, embedding=1, full=True, metrics="canonical"
    )
    assert row["distance"] < 1e-3
    assert row["ratio"] == row["train_seconds"] / row["solve_seconds"]
