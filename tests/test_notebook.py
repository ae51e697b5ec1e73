"""The notebook kept in docs/ is what its script makes, and runs."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs_and_its_pictures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)  # a kernel draws into the notebook unless told otherwise
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    spec = importlib.util.spec_from_file_location("make_notebook", ROOT / "scripts" / "make_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    fresh = json.loads(script.main(tmp_path / "fresh.ipynb").read_text(encoding="utf-8"))
    kept = json.loads((ROOT / "docs" / "collapse.ipynb").read_text(encoding="utf-8"))
    assert ["".join(c["source"]) for c in kept["cells"]] == [text for _, text in script.CELLS]
    for notebook in (fresh, kept):
        assert [c["execution_count"] for c in code(notebook)] == [1, 2, 3, 4, 5, 6]
        pictures = [o for c in code(notebook) for o in c["outputs"] if "image/png" in o.get("data", {})]
        assert len(pictures) == 3
    table = "".join(code(fresh)[1]["outputs"][0]["data"]["text/plain"])
    assert "diverged" in table.splitlines()[1]
    assert table.splitlines()[1].startswith("none")
