"""The report in a browser: it draws everything, without errors, without the network, at both widths."""

import base64
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from sslmanifold.report.write import write_report
from sslmanifold.runs import RunFolder


@pytest.mark.parametrize(
    ("name", "width", "height"), [("phone", 390, 844), ("small", 420, 900), ("desktop", 1280, 900)]
)
def test_renders_at_width(
    browser: Any, sweep: Path, tmp_path: Path, name: str, width: int, height: int
) -> None:
    (page, _, _), _ = write_report([sweep], out=tmp_path / "report")
    browser.open(page, width, height)
    drawn = browser.evaluate(
        """(async () => {
          const divs = [...document.querySelectorAll(".chart")];
          for (const div of divs) {
            div.scrollIntoView();
            for (let i = 0; i < 200 && !div.querySelector(".main-svg"); i++)
              await new Promise(done => setTimeout(done, 20));
          }
          return {
            charts: divs.length,
            drawn: divs.filter(d => d.querySelector(".main-svg")).length,
            lines: document.querySelectorAll(".scatterlayer path.js-line").length,
            overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
            widest: Math.max(...divs.map(d => d.querySelector(".main-svg").getBoundingClientRect().right)),
            cloud: document.querySelectorAll('[data-title*="Share"], [data-title*="loud"]').length,
          };
        })()"""
    )
    assert drawn["charts"] == drawn["drawn"] >= 10
    assert drawn["lines"] > 20
    assert drawn["overflow"] <= 0, "the page scrolls sideways"
    assert drawn["widest"] <= width
    assert drawn["cloud"] == 0, "a button that would upload the chart"
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    picture = base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"])
    assert len(picture) > 10_000


def test_legend_toggles_and_tables_sort(browser: Any, sweep: Path, tmp_path: Path) -> None:
    (page, _, _), _ = write_report([sweep], out=tmp_path)
    browser.open(page, 1280, 900)
    hidden = browser.evaluate(
        """(async () => {
          const div = document.querySelectorAll(".chart")[2];
          div.scrollIntoView();
          while (!div.querySelector(".legendtoggle")) await new Promise(done => setTimeout(done, 20));
          const before = div.querySelectorAll(".scatterlayer .trace").length;
          const click = (type) =>
            div.querySelector(".legendtoggle").dispatchEvent(new MouseEvent(type, {bubbles: true}));
          click("mousedown"); click("mouseup");
          await new Promise(done => setTimeout(done, 700));
          return [before, div.data.filter(t => t.visible === "legendonly").length];
        })()"""
    )
    assert hidden[0] > 0
    assert hidden[1] > 0, "a click on the legend hides nothing"
    order = browser.evaluate(
        """(() => {
          const table = document.querySelector("table.sortable");
          const at = [...table.tHead.rows[0].cells].findIndex(c => c.textContent === "rank");
          const head = table.tHead.rows[0].cells[at];
          head.click(); head.click(); head.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}));
          if (head.getAttribute("aria-sort") !== "ascending") return [];
          return [...table.tBodies[0].rows].map(r => parseFloat(r.cells[at].dataset.value)).filter(x => !isNaN(x));
        })()"""
    )
    assert order == sorted(order)
    assert len(order) == 12
    links = browser.evaluate('[...document.querySelectorAll("table.sortable tbody a")].map((a) => a.href)')
    assert len(links) == 13
    assert all(Path(unquote(urlparse(link).path)).is_dir() for link in links)


def test_a_dark_screen_has_a_dark_page_and_charts_to_match(browser: Any, sweep: Path, tmp_path: Path) -> None:
    (page, _, _), _ = write_report([sweep], out=tmp_path)
    seen = {}
    for scheme in ("light", "dark"):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", features=media)
        browser.open(page, 420, 900)
        seen[scheme] = browser.evaluate(
            """(async () => {
              const div = document.querySelectorAll(".chart")[6];
              div.scrollIntoView();
              while (!div.querySelector(".main-svg")) await new Promise(done => setTimeout(done, 20));
              const light = (c) => { const m = c.match(/[0-9]+/g).map(Number); return (m[0] + m[1] + m[2]) / 765; };
              const of = (e) => light(getComputedStyle(e).backgroundColor);
              const names = [...div.data].filter(t => t.line && t.name).map(t => t.line.color);
              return {page: of(document.body), text: light(getComputedStyle(document.body).color),
                      chart: div.layout.paper_bgcolor, card: of(div.closest(".card")), colours: names};
            })()"""
        )
    light, dark = seen["light"], seen["dark"]
    assert light["page"] > 0.9 > 0.2 > dark["page"]
    assert light["text"] < 0.2 < 0.8 < dark["text"]
    assert light["card"] > 0.9 > 0.2 > dark["card"]
    assert light["chart"] != dark["chart"]
    assert light["colours"] == dark["colours"] != []  # a constraint has its colour in both
    assert browser.errors == []


def test_collapse_comes_first_and_every_chart_says_what_is_good(sweep: Path, tmp_path: Path) -> None:
    (page, _, _), _ = write_report([sweep], out=tmp_path)
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings[:2] == ["Collapse", "Where the effective rank ended"]
    for part in re.split("<h2>", text)[1:]:
        if 'class="chart"' in part:
            assert re.match(r'[^<]*</h2><p class="lead">[^<]+Good: [^<]+</p>', part), part[:200]


def test_a_run_that_did_not_collapse_says_so(tmp_path: Path, write_run: Callable[..., RunFolder]) -> None:
    write_run(tmp_path, rank=1.9)
    (page, _, _), _ = write_report([tmp_path])
    assert "No embedding has collapsed." in page.read_text(encoding="utf-8")


def test_nothing_is_fetched_and_text_is_escaped(sweep: Path, tmp_path: Path) -> None:
    (page, _, _), _ = write_report([sweep], out=tmp_path)
    text = page.read_text(encoding="utf-8")
    own, found = re.subn(r'id="library">[A-Za-z0-9+/=]+<', "<", text)  # without the plotting library
    assert found == 1
    assert "http://" not in own
    assert "https://" not in own
    assert "src=" not in own
    assert "<b>& more</b>" not in own
    assert "&lt;b&gt;&amp; more&lt;/b&gt;" in own


@pytest.mark.parametrize(("runs", "seconds", "size"), [(200, 5, 5e6), (500, 30, 5e6)])
def test_many_runs(
    tmp_path: Path, write_run: Callable[..., RunFolder], runs: int, seconds: float, size: float
) -> None:
    constraints = ("none.Unconstrained", "frobenius.Frobenius", "scaled.Scaled", "orthogonal.Orthogonal")
    first = write_run(tmp_path / "sweep" / "0", seed=0, rows=1000)
    metrics, trajectory = first.metrics.read_bytes(), first.trajectory.read_bytes()
    for job in range(1, runs):
        folder = write_run(
            tmp_path / "sweep" / str(job),
            constraints[job % 4],
            ("HalfMoons", "Digits")[job % 2],
            job // 8,
            rows=2,
        )
        folder.metrics.write_bytes(metrics)
        folder.trajectory.write_bytes(trajectory)
    started = time.process_time()
    (page, _, table), records = write_report([tmp_path / "sweep"])
    assert len(records) == runs
    assert time.process_time() - started < seconds
    assert page.stat().st_size < size
    assert len(table.read_text(encoding="utf-8").splitlines()) == runs + 1
