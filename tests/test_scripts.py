"""Every script in scripts/ runs: a benchmark or a picture nobody runs is a benchmark nobody trusts."""

import importlib.util
from pathlib import Path
from types import ModuleType

from PIL import Image

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


def test_the_table_of_encoders_is_that_of_its_rows() -> None:
    table = script("encoder_table")
    text = table.main(["--rows", str(SCRIPTS.parent / "docs" / "encoder_table.csv")])
    assert text in (SCRIPTS.parent / "docs" / "encoders.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 2 + 16 + 1


def test_a_cell_of_the_table_of_encoders(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("test", 2)):
        for name in ("dark", "light"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for place in range(count):
                grey = 10 * place + (150 if name == "light" else 0)
                Image.new("RGB", (8, 8), (grey, grey, place)).save(folder / f"{place}.png")
    rows = tmp_path / "rows.csv"
    line = (
        "--root", str(tmp_path / "images"), "--rows", str(rows), "--epochs", "2", "--seeds", "0", "--threads", "1",
        "--losses", "NT-Xent", "--constraints", "orthogonal everywhere", "--extra", "model.width=2",
        "data.batch_size=8",
    )  # fmt: skip
    table = script("encoder_table")
    first = table.main(line)
    assert "| NT-Xent | orthogonal everywhere |" in first
    kept = rows.read_bytes()
    assert table.main(line) == first  # nothing is missing, nothing runs again
    assert rows.read_bytes() == kept


def test_the_checks_of_a_device_hold_on_the_cpu() -> None:
    checks = script("gpu_check").main(["--device", "cpu", "--steps", "10", "--rounds", "1"])
    assert [check.line() for check in checks if not check.holds] == []
    assert len(checks) == 48


def test_the_checks_of_a_device_tell_what_fails() -> None:
    check = script("gpu_check")._measured
    assert not check("too far", 1e-10, lambda: 1e-9).holds
    failed = check("broken", None, lambda: 1 / 0)
    assert not failed.holds
    assert "division by zero" in failed.line()


def test_what_constrained_layers_cost() -> None:
    rows = script("benchmark_encoders").main(
        ["--backbones", "small_resnet", "--batch", "8", "--rounds", "1", "--width", "2"]
    )
    assert [row.variant for row in rows] == ["adamw", "none", "projector", "all"]
    assert all(row.seconds > 0 for row in rows)
