"""What a release says of itself says the same everywhere: version, changelog, citation, names that have moved."""

import re
from pathlib import Path

import yaml

from sslmanifold import __version__
from sslmanifold.config.targets import RENAMED

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere() -> None:
    (newest, *_) = re.findall(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE)
    assert newest == __version__
    assert f"version = {{{__version__}}}" in text("README.md")
    assert yaml.safe_load(text("CITATION.cff"))["version"] == __version__


def test_the_citation_names_the_software_and_the_paper() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    (paper,) = citation["references"]
    assert citation["type"] == "software"
    assert paper["type"] == "article"
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in text("README.md")
    assert paper["title"] in text("README.md")


def test_every_name_that_has_moved_is_in_the_table() -> None:
    rows = re.findall(
        r"^\| `(sslmanifold\.\S+)` \| `(sslmanifold\.\S+)` \|$", text("docs/moved.md"), re.MULTILINE
    )
    assert dict(rows) == RENAMED
