"""What run folders say stays text, in the terminal, in HTML, Markdown and spreadsheets."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sslmanifold.cli import main
from sslmanifold.report.write import write_report
from sslmanifold.runs import RunFolder

# a colour, a title, a cursor that moves up and erases, a carriage return, 8-bit CSI, a line that turns around
STEERING = "\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b[1A\x1b[2K\rgone\x9b31m\u202egpj.exe"
MARKUP = "[bold red]loud[/] [link=file:///etc/passwd]x[/link] [/]"
TAGS = "<img src=x onerror=window.hit=1><script>window.hit=1</script>\"'><b>bold</b>"


def changed(folder: Path, name: str, **values: Any) -> None:
    """Values put into a file of a run by hand."""
    path = folder / name
    if name.endswith(".json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    else:
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


@pytest.fixture
def loud(write_run: Callable[..., RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose every text tries to steer a terminal, to be markup, or to be HTML."""
    everything = f"{STEERING} {MARKUP} {TAGS}"
    monkeypatch.setattr(sys, "argv", sys.argv)
    folder = write_run(tmp_path / "runs" / "foreign").path
    changed(
        folder, "summary.json", status=everything, reason=everything, data=everything, constraint=[everything]
    )
    changed(
        folder, "summary.json", **{"train/loss": everything, "versions": everything, everything: everything}
    )
    changed(folder, "config.yaml", seed=everything, **{MARKUP + TAGS: STEERING})
    (folder / "probes").mkdir()
    (folder / "probes" / f"{TAGS.replace('/', '')}.json").write_text(json.dumps({"accuracy": everything}))
    other = folder.with_name("sweep") / "javascript:alert(1)" / " " / f"x{MARKUP.replace('/', '')}\x1b[31m"
    shutil.copytree(folder, other)
    changed(other, "config.yaml", seed=3)
    changed(other, "summary.json", status="failed")
    return folder.parent


COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # rich's own


@pytest.mark.parametrize("command", ["runs", "report"])
def test_no_text_of_a_folder_steers_the_terminal(
    command: str, loud: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, str(loud)])
    assert ended.value.code == 0
    printed = capfd.readouterr()
    for stream in (printed.out, printed.err):
        plain = COLOURS.sub("", stream) if command == "runs" else stream
        assert not set(plain) & {"\x1b", "\r", "\x07", "\x9b", "\u202e"}
    if command == "runs":
        assert "link=file" in printed.out.replace("\n", "")  # brackets are text, not markup


def test_markdown_and_csv(loud: Path) -> None:
    changed(
        loud / "foreign",
        "summary.json",
        reason="=cmd|'/C calc'!A0 ![x](http://example.org/pixel)",
        data="@SUM(1)",
    )
    write_report([loud])
    text = (loud / "report.md").read_text()
    assert "<img" not in text
    assert "<script" not in text
    assert "](http" not in text
    assert re.findall(r"\]\(<([^>]*)>\)", text)
    assert all(target.startswith("./") for target in re.findall(r"\]\(<([^>]*)>\)", text))
    table = (loud / "table.csv").read_text()
    assert "'=cmd" in table
    assert "'@SUM" in table
    assert not re.search(r'(^|,)"?[=@]', table)


def test_html_in_a_browser(browser: Any, loud: Path) -> None:
    """No tag of a folder becomes an element, no name an address, and nothing of it runs or is fetched."""
    (page, _, _), _ = write_report([loud])
    browser.open(page, 1280, 900)
    found = browser.evaluate(
        """(async () => {
          for (const div of document.querySelectorAll(".chart")) {
            div.scrollIntoView();
            for (let i = 0; i < 100 && !div.querySelector(".main-svg"); i++)
              await new Promise(done => setTimeout(done, 20));
          }
          for (const link of document.querySelectorAll("main a")) link.protocol;
          return {
            hit: window.hit === undefined,
            images: document.querySelectorAll("main img").length,
            scripts: document.querySelectorAll("main script:not([type])").length,
            bold: [...document.querySelectorAll("main b")].filter(b => b.textContent === "bold").length,
            protocols: [...document.querySelectorAll("main a")].map(a => a.protocol),
            inside: [...document.querySelectorAll("main a")].every(a => decodeURI(a.href).includes("/foreign/")
              || decodeURI(a.href).includes("/sweep/")),
            text: document.querySelector("main").textContent.includes("<img src=x onerror"),
          };
        })()"""
    )
    assert found["hit"]
    assert (found["images"], found["scripts"], found["bold"]) == (0, 0, 0)
    assert set(found["protocols"]) == {"file:"}
    assert found["inside"]
    assert found["text"], "the values are not shown as text either"
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_html_without_a_browser(loud: Path) -> None:
    (page, _, _), _ = write_report([loud])
    library = r'<script type="text/plain" id="library">[A-Za-z0-9+/=]+</script>'
    own, found = re.subn(library, "", page.read_text(encoding="utf-8"))
    assert found == 1
    assert "<img" not in own
    assert "<b>bold" not in own
    assert own.count("<script") == own.count('<script type="application/json"') + 1
    assert all(target.startswith("./") for target in re.findall(r'href="([^"]*)"', own) if target != "data:,")
