"""``sslmanifold reproduce``: what it writes, what it keeps, what it refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sslmanifold.errors import UserError
from sslmanifold.reproduction.options import settings_of
from sslmanifold.reproduction.parts import PARTS
from sslmanifold.reproduction.reproduce import chosen_parts, read_claims


def call(folder: Path, *overrides: str, data: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SSLMANIFOLD_DATA": str(data or folder / "nothing")}
    command = [sys.executable, "-m", "sslmanifold", "reproduce", "quick=true", f"hydra.run.dir={folder}/out"]
    return subprocess.run(
        [*command, *overrides],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    finished = call(folder, "figure=[naive,5,theorem3]", f"gallery={folder}/gallery")
    assert finished.returncode == 0, finished.stderr
    return folder


def test_figures_claims_and_readme(written: Path) -> None:
    out = written / "out"
    claims = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    assert len(claims) == 6
    for claim in claims:
        assert {"statement", "verdict", "value", "tolerance", "evidence", "command"} <= set(claim)
        assert claim["verdict"] in ("holds", "holds as corrected", "fails")
    readme = (out / "README.md").read_text(encoding="utf-8")
    for name in ("naive", "fig5"):
        assert f"(figures/{name}.png)" in readme
        assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(out / "figures" / f"{name}.png") as image:
            assert image.width > 1200
            assert "Seed 0" in image.info["Description"]
            assert "sslmanifold reproduce figure=" in image.info["Description"]
            assert "alf moons" in image.info["Description"]


def test_the_gallery_is_small_and_says_where_it_comes_from(written: Path) -> None:
    for name in ("naive", "fig5"):
        with (
            Image.open(written / "out" / "figures" / f"{name}.png") as full,
            Image.open(written / "gallery" / f"{name}.png") as small,
        ):
            assert small.width == min(1300, full.width)
            assert small.info["Description"] == full.info["Description"]
            assert abs(small.width / small.height - full.width / full.height) < 0.01


def test_the_readme_gallery_was_made_by_the_full_command() -> None:
    root = Path(__file__).parents[2]
    shown = re.findall(r"\((docs/gallery/\w+\.png)\)", (root / "README.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(f"docs/gallery/{path.name}" for path in (root / "docs/gallery").iterdir())
    drawn = [name for name, part in PARTS.items() if part.draw is not None]
    assert sorted(drawn) == sorted(Path(path).stem for path in shown)
    for path in shown:
        assert (root / path).stat().st_size < 200_000
        with Image.open(root / path) as image:
            command = image.info["Description"].rsplit("sslmanifold reproduce figure=", 1)[1]
            assert "seed=0" in command
            assert "quick" not in command


def test_a_finished_part_is_kept_unless_forced_or_asked_with_another_seed(written: Path) -> None:
    part = written / "out" / "parts" / "theorem3.json"
    before = part.stat().st_mtime_ns
    first = read_claims(written / "out")
    assert call(written, "figure=theorem3").returncode == 0
    assert part.stat().st_mtime_ns == before
    assert call(written, "figure=theorem3", "force=true").returncode == 0
    assert part.stat().st_mtime_ns > before
    assert read_claims(written / "out") == first
    assert call(written, "figure=theorem3", "seed=1").returncode == 0
    other = read_claims(written / "out")
    theorem3 = [c for c in first if c["statement"].startswith("Theorem 3")]
    assert [c["verdict"] for c in other] == [c["verdict"] for c in theorem3]
    assert [c["value"] for c in other] != [c["value"] for c in theorem3]


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="figure=7 is no part of the paper: choose all, 1 to 6, lemma1"):
        chosen_parts(7)
    options = {"seed": 0, "quick": True, "data": "mnist", "root": str(tmp_path)}
    with pytest.raises(UserError, match="train-images-idx3-ubyte"):
        settings_of(options, tmp_path)
    assert settings_of(options | {"data": "auto"}, tmp_path).data == "digits"
    failed = call(tmp_path, "figur=3")
    assert failed.returncode == 2
    assert "figure" in failed.stderr


def test_parts_are_chosen_by_number_name_and_list() -> None:
    assert [p.name for p in chosen_parts("all")] == list(PARTS)
    assert [p.name for p in chosen_parts(3)] == ["fig3"]
    assert [p.name for p in chosen_parts(["theorem2", 1])] == ["fig1", "theorem2"]
