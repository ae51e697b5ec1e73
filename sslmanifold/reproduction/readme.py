"""``README.md`` of a reproduction: the statements as a table, then the figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from sslmanifold.reproduction.part import Part, Settings

_MARK = {"holds": "holds", "holds as corrected": "holds *as corrected*", "fails": "**fails**"}


def tally(claims: Sequence[Mapping[str, Any]]) -> str:
    """ "51 statements: 32 hold, 18 hold as corrected, 1 fails"."""
    counts = {verdict: sum(c["verdict"] == verdict for c in claims) for verdict in _MARK}
    words = {
        "holds": ("holds", "hold"),
        "holds as corrected": ("holds as corrected", "hold as corrected"),
        "fails": ("fails", "fail"),
    }
    parts = [f"{counts[v]} {words[v][0] if counts[v] == 1 else words[v][1]}" for v in _MARK if counts[v]]
    return f"{len(claims)} statement{'s' * (len(claims) != 1)}: {', '.join(parts)}"


def readme_text(
    finished: Mapping[str, Mapping[str, Any]],
    parts: Mapping[str, Part],
    figures: Mapping[str, Sequence[str]],
    settings: Settings,
    title: str,
) -> str:
    """The page of this title, from the records of the finished parts."""
    claims = [(name, claim) for name, record in finished.items() for claim in record["claims"]]
    quick = ", quick sizes" if settings.quick else ""
    lines = [
        f"# {title}: reproduction",
        "",
        f"Seed {settings.seed}{quick}. {tally([claim for _, claim in claims])}. "
        "Every value was computed in this run; a verdict follows from the values, their tolerances and "
        "directions alone. A claim holds where all "
        "its checks as printed pass, holds as corrected where those of its corrected form do. The table shows "
        "the check that decides; `claims.json` has all of them.",
        "",
        f"{len(finished)} of {len(parts)} parts done, "
        f"{sum(record['cpu_seconds'] for record in finished.values()):.0f} s of processor time in all.",
        "",
        "| statement | verdict | deciding number | value | tolerance | evidence |",
        "|---|---|---|---|---|---|",
    ]
    for _, claim in claims:
        correction = (
            f" **Corrected:** {claim['correction']}" if claim["verdict"] == "holds as corrected" else ""
        )
        direction = {"<=": "≤", ">=": "≥"}[claim["direction"]]
        cells = [
            claim["statement"] + correction,
            _MARK[claim["verdict"]],
            claim["quantity"],
            _number(claim["value"]),
            f"{direction} {_number(claim['tolerance'])}",
            f"{claim['evidence']}<br>`{claim['command']}`",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "## Figures", ""]
    for name, record in finished.items():
        for figure in figures[name]:
            lines += [
                f"### {parts[name].title}",
                "",
                f"![{parts[name].title}](figures/{figure}.png)",
                "",
                f"{record['caption']}. `{record['command']}` ({record['seconds']:.0f} s). "
                f"[PDF](figures/{figure}.pdf)",
                "",
            ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
