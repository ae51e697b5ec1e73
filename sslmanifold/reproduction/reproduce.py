"""The whole reproduction: parts in turn, each kept when it is finished, then ``claims.json`` and ``README.md``."""

import json
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sslmanifold.errors import UserError
from sslmanifold.plots.style import figure_style
from sslmanifold.reproduction.papers import PAPERS
from sslmanifold.reproduction.part import FIRST, Part, Settings
from sslmanifold.reproduction.readme import readme_text
from sslmanifold.reproduction.store import FIGURE_KINDS, Store
from sslmanifold.reproduction.workers import Progress, in_processes
from sslmanifold.runs import atomic
from sslmanifold.runs.claim import claimed
from sslmanifold.runs.writing import remove_partials

# figures are some 7 inches wide, a page's width
PIXELS_PER_INCH = 220


def chosen_parts(figure: Any, paper: str = FIRST) -> list[Part]:
    """The parts of a paper that ``figure=`` asks for: all, a number, a name, or a list of them.

    Raises:
        UserError: for a name that is no part; the message lists them.
    """
    parts = PAPERS[paper].parts
    wanted = figure if isinstance(figure, (list, tuple)) else [figure]
    names: list[str] = []
    for item in wanted:
        name = f"fig{item}" if str(item).isdigit() else str(item)
        if name == "all":
            return list(parts.values())
        if name not in parts:
            whose, numbers = ("the paper", ", 1 to 6") if paper == FIRST else (f"paper={paper}", "")
            raise UserError(f"figure={item} is no part of {whose}: choose all{numbers}, {', '.join(parts)}")
        names.append(name)
    return [part for name, part in parts.items() if name in names]


def reproduce(
    parts: Sequence[Part],
    settings: Settings,
    *,
    force: bool,
    progress: Progress,
    jobs: int = 1,
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Compute what is not finished, draw, and write ``claims.json`` and ``README.md`` of all finished parts.

    Args:
        parts: what to do now; finished parts of earlier calls stay in the tables.
        force: compute finished parts again.
        progress: title → a context that gives (done, total) → None.
        jobs: how many processes compute parts at once; parts that measure times come last, alone, in this one.
        threads: torch and BLAS threads of each of those processes.

    Returns:
        The claims of every finished part, as written.
    """
    with claimed(settings.folder):
        for folder in (settings.folder, settings.folder / "parts", settings.folder / "figures"):
            remove_partials(folder)
        return _reproduce(parts, settings, force, progress, jobs, threads)


def _reproduce(
    parts: Sequence[Part], settings: Settings, force: bool, progress: Progress, jobs: int, threads: int
) -> list[dict[str, Any]]:
    store = Store(settings.folder)
    kept = {p.name for p in parts if store.finished(p.name, settings) and store.whole(p.name)}
    todo = [part for part in parts if force or part.name not in kept]
    for part in parts:
        if part not in todo and not store.drawn(part.name, settings.folder / "figures"):
            draw(part, settings, store)
    apart = [part for part in todo if not part.timed]
    if min(jobs, len(apart)) > 1:
        for _ in in_processes(apart, settings, min(jobs, len(apart)), threads, progress):
            write_tables(settings, store)
        todo = [part for part in todo if part.timed]
    for part in todo:
        with progress(part.title) as shown:
            finish(part, replace(settings, progress=shown))
        write_tables(settings, store)
    return write_tables(settings, store)


def finish(part: Part, settings: Settings) -> None:
    """Compute a part, keep it, draw it."""
    store = Store(settings.folder)
    start, cpu = time.monotonic(), time.process_time()
    result = part.compute(settings)
    store.save(part.name, settings, result, time.monotonic() - start, time.process_time() - cpu)
    draw(part, settings, store)


def figure_names(part: Part, settings: Settings) -> list[str]:
    """The figures of a part that lie in the folder."""
    folder = settings.folder / "figures"
    return sorted(
        p.stem for p in folder.glob("*.png") if p.stem == part.name or p.stem.startswith(f"{part.name}_")
    )


def figure_files(parts: Sequence[Part], settings: Settings) -> list[Path]:
    """The PNGs of these parts."""
    return [settings.folder / "figures" / f"{n}.png" for part in parts for n in figure_names(part, settings)]


def draw(part: Part, settings: Settings, store: Store) -> None:
    """Figures of a finished part as PNG and PDF, with data, seeds and command beneath and in the metadata.

    They are noted in the part's record once all of them are there: a process that is killed on the way draws again.
    """
    if part.draw is None:
        store.note_drawn(part.name, [])
        return
    record, arrays = store.record(part.name), store.arrays(part.name)
    names: list[str] = []
    caption = f"{record['caption']}. Seed {settings.seed}. {record['command']}"
    with figure_style():
        import matplotlib.pyplot as plt

        for name, figure in part.draw(arrays, record["facts"]).items():
            columns = int(figure.get_figwidth() * 15.5)
            lines = textwrap.fill(caption, columns, break_long_words=False)
            figure.text(0.01, -0.015, lines, fontsize=7.5, color="#444444", va="top", ha="left")
            for kind, key in zip(FIGURE_KINDS, ("Description", "Subject"), strict=True):
                with atomic(settings.folder / "figures" / f"{name}.{kind}") as temporary:
                    metadata = {"Title": part.title, key: caption}
                    figure.savefig(temporary, format=kind, dpi=PIXELS_PER_INCH, metadata=metadata)
                figure.set_layout_engine("none")  # laid out once; the second file takes it over
            plt.close(figure)
            names.append(name)
    store.note_drawn(part.name, names)


def write_tables(settings: Settings, store: Store) -> list[dict[str, Any]]:
    """``claims.json`` and ``README.md`` of all parts finished with these settings."""
    paper = PAPERS[settings.paper]
    finished: dict[str, Mapping[str, Any]] = {
        name: store.record(name) for name in paper.parts if store.finished(name, settings)
    }
    claims = [claim for record in finished.values() for claim in record["claims"]]
    with atomic(settings.folder / "claims.json") as temporary:
        text = json.dumps(claims, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    figures = {name: figure_names(paper.parts[name], settings) for name in finished}
    with atomic(settings.folder / "README.md") as temporary:
        temporary.write_text(
            readme_text(finished, paper.parts, figures, settings, paper.title), encoding="utf-8"
        )
    return claims


def read_claims(folder: str | Path) -> list[dict[str, Any]]:
    """``claims.json`` of an output folder."""
    return json.loads((Path(folder) / "claims.json").read_text(encoding="utf-8"))
