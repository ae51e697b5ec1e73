"""scripts/probe_table.py, shortened."""

import importlib.util
from pathlib import Path

import pytest


def test_the_table_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[2] / "scripts" / "probe_table.py"
    spec = importlib.util.spec_from_file_location("probe_table", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.delenv("SSLMANIFOLD_DATA", raising=False)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{script.MARKS[0]}\nold\n{script.MARKS[1]}\nafter\n")
    table = script.main(["--steps", "150", "--embedding", "5", "--write", str(page)])
    assert page.read_text() == f"before\n{script.MARKS[0]}\n{table}\n{script.MARKS[1]}\nafter\n"
    accuracy = {
        line.split("|")[1].strip(" `"): float(line.split("|")[2].split("±")[0])
        for line in table.splitlines()[3:]
    }
    assert len(accuracy) == 9
    assert accuracy["none"] < accuracy["random orthogonal"] < accuracy["orthogonal"]
    assert accuracy["orthogonal"] == pytest.approx(accuracy["orthogonal`, its exact dynamics"], abs=1)


def test_the_page_holds_the_marks() -> None:
    text = (Path(__file__).parents[2] / "docs" / "probes.md").read_text()
    assert "<!-- table: scripts/probe_table.py -->\n| z = 10 |" in text
