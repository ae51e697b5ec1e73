"""Every command line that the documentation shows is one that the program takes."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sslmanifold.cli import COMMANDS
from sslmanifold.config.arguments import folders_and_options
from sslmanifold.config.compose import composed
from sslmanifold.config.location import command_dir
from sslmanifold.reproduction.options import named_paper

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def lines(page: Path) -> list[list[str]]:
    """The words after ``sslmanifold`` of every line in a page's code blocks."""
    found = []
    for block in re.findall(
        r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.search(r"(?:^|&& uv run |\d |^PYTHONPATH=\S+ )sslmanifold (?!-)(.*)", line)
            if match:
                # <the folder it printed> is a placeholder, not a redirection
                found.append(shlex.split(re.sub(r"<[^>]*>", "DIR", match[1]), comments=True))
    return found


DOCUMENTED = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)}") for page in PAGES for words in lines(page)
]


def first_job(overrides: list[str]) -> list[str]:
    """A sweep's first job."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [
        f"{o.get_key_element()}={next(o.sweep_string_iterator())}" if o.is_sweep_override() else o.input_line
        for o in parsed
    ]


def test_the_pages_show_commands() -> None:
    shown = {param.values[0][0] for param in DOCUMENTED}
    assert shown == set(COMMANDS)
    assert len(DOCUMENTED) > 30


def test_only_the_tests_install_the_development_tools() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]
    assert tool["default-groups"] == []
    installing = {
        words
        for page in PAGES
        for words in re.findall(r"\buv (?:run|sync)\b[^&`#\n]*", page.read_text(encoding="utf-8"))
    }
    assert "uv run sslmanifold train" in {words.strip() for words in installing}
    needing = {words for words in installing if "sslmanifold" not in words}
    assert needing
    assert all("--group dev" in words for words in needing)


@pytest.mark.parametrize("words", DOCUMENTED)
def test_it_is_taken(words: list[str]) -> None:
    command, *arguments = words
    assert command in COMMANDS
    if not (command_dir(command) / f"{command}.yaml").exists():  # no configuration: folders and a few options
        keys = importlib.import_module(f"sslmanifold.commands.{command}").KEYS
        folders, _ = folders_and_options(arguments, keys)
        assert folders
        return
    config_dir = None
    if "--config-dir" in arguments:
        at = arguments.index("--config-dir")
        config_dir = ROOT / arguments[at + 1]
        del arguments[at : at + 2]
    if command == "reproduce":
        arguments = [named_paper(word) for word in arguments]
    overrides = [word for word in arguments if "=" in word and not word.startswith("hydra")]
    others = [word for word in arguments if "=" not in word]
    assert set(others) <= {"-m", "DIR", "MULTIRUN_DIR"}
    assert composed(command, first_job(overrides), config_dir)
