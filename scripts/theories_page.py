"""The tables of docs/theories_reproduced.md, from the claims that `sslmanifold reproduce` has written.

First `sslmanifold reproduce paper=NAME hydra.run.dir=DIR gallery=docs/theories` for each paper, then
`python scripts/theories_page.py folder=DIR`.
"""

import re
import sys
from pathlib import Path

from sslmanifold.reproduction.papers import PAPERS
from sslmanifold.reproduction.part import FIRST
from sslmanifold.reproduction.readme import tally
from sslmanifold.reproduction.reproduce import read_claims


def table(folder: Path, paper: str) -> str:
    """The claims of one paper: statement, verdict, the number that decides and its tolerance, the part that checks."""
    claims = read_claims(folder / paper)
    lines = [
        f"{tally(claims)}.",
        "",
        "| statement | verdict | deciding number | value | part |",
        "|---|---|---|---|---|",
    ]
    for claim in claims:
        corrected = (
            f" **Corrected:** {claim['correction']}" if claim["verdict"] == "holds as corrected" else ""
        )
        sign = {"<=": "≤", ">=": "≥"}[claim["direction"]]
        part = re.search(r"figure=(\w+)", claim["command"])
        cells = [
            claim["statement"] + corrected,
            f"**{claim['verdict']}**" if claim["verdict"] == "fails" else claim["verdict"],
            claim["quantity"],
            f"{claim['value']:.3g} ({sign} {claim['tolerance']:.3g})",
            f"`{part[1]}`" if part else "",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def main(folder: str = "reproduction", page: str = "docs/theories_reproduced.md") -> Path:
    """Write each paper's table between its two markers; returns the page's path."""
    path = Path(page)
    text = path.read_text(encoding="utf-8")
    for paper in (name for name in PAPERS if name != FIRST):
        begin, end = f"<!-- {paper} -->", f"<!-- end of {paper} -->"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n{table(Path(folder), paper)}\n{end}{after}"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    print(main(**dict(argument.split("=", 1) for argument in sys.argv[1:])))
