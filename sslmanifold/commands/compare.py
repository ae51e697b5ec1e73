"""``sslmanifold compare DIR``: one figure of many runs, for a paper."""

from collections.abc import Sequence
from pathlib import Path

from sslmanifold.commands.application import EXIT_MISTAKE, complain, status_of
from sslmanifold.config.arguments import dashed_options, folders_and_options
from sslmanifold.errors import UserError, printable

KEYS = {
    "x": "time, step or a column of metrics.csv",
    "y": "a column of metrics.csv, several joined by commas: a panel each",
    "band": "true or std, range, false: what is shaded about the mean",
    "size": "single or double: the width of a column, or of the page",
    "xscale": "auto, linear, log or symlog",
    "yscale": "auto, linear, log or symlog",
    "out": "file to write; without a suffix, one of each format",
    "formats": "of png, pdf, svg, joined by commas",
}
# what an option that stands alone may be followed by: anything else is a folder
BARE = {"band": ("true", "false", "std", "range", "none")}

HELP = """usage: sslmanifold compare DIR [DIR ...] [x=time] [y=rank/effective] [band=true] [size=single] [out=FILE]

One figure of every run at or below the folders: mean and band over seeds and replicas, one colour a constraint.
  y=rank/effective,train/optimality_gap    a panel each (any columns of metrics.csv)
  x=step                                   in place of the flow's time Σ lr
  band=std | range | false                 one standard deviation, smallest to largest, none
  size=single | double                     3.25 or 6.75 inches wide
  xscale=log yscale=linear                 auto by default
  out=figures/rank.pdf                     else compare_<y>.pdf, .png and .svg in the first DIR
  formats=pdf,png,svg                      fonts are embedded (type 42)
Every option is also a flag: --x time --y rank/effective --band.
Exit status: 0, 2 for a mistake.
"""


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0 if arguments else EXIT_MISTAKE
    try:
        folders, options = folders_and_options(dashed_options(arguments, KEYS, BARE), KEYS)
        if not folders:
            raise UserError("which runs? pass folders: sslmanifold compare DIR")
        paths = _compare(folders, options)
    except UserError as error:
        return complain("compare", str(error), status_of(error))
    for path in paths:
        print(printable(str(path)))
    return 0


def _compare(folders: Sequence[str], options: dict[str, str]) -> list[Path]:
    from sslmanifold.plots import compare
    from sslmanifold.plots.save import save

    columns = [part.strip() for part in options.get("y", "rank/effective").split(",") if part.strip()]
    target, formats = _target(folders[0], columns, options.get("out"), options.get("formats"))
    band = options.get("band", "std").lower()
    if band not in BARE["band"]:
        raise UserError(f"band={options['band']} is none of: {', '.join(BARE['band'])}")
    chosen = {key: options[key] for key in ("size", "xscale", "yscale") if key in options}
    figure = compare(
        folders,
        options.get("x", "time"),
        columns,
        band={"true": "std", "false": "none"}.get(band, band),
        **chosen,
    )
    return save(figure, target, formats, f"{', '.join(columns)} of {', '.join(folders)}")


def _target(
    folder: str, columns: Sequence[str], out: str | None, formats: str | None
) -> tuple[Path, list[str]]:
    """Where the figure goes, without its suffix, and in which formats."""
    from sslmanifold.plots.save import FORMATS

    wanted = (
        [part.strip() for part in formats.split(",") if part.strip()] if formats else ["pdf", "png", "svg"]
    )
    for name in wanted:
        if name not in FORMATS:
            raise UserError(f"formats={name} is none of: {', '.join(FORMATS)}")
    if out is None:
        name = "_".join(column.replace("/", "-") for column in columns)
        return Path(folder) / f"compare_{name}", wanted
    path = Path(out)
    if path.is_dir():
        raise UserError(f"out={out} is a folder: name a file in it, out={path / 'compare.pdf'}")
    suffix = path.suffix.removeprefix(".").lower()
    if suffix in FORMATS and (formats is None or wanted == [suffix]):
        return path.with_suffix(""), [suffix]
    if suffix in FORMATS:
        raise UserError(f"out={out} and formats={formats} say two things: leave the suffix or formats out")
    return path, wanted
