"""``sslmanifold report DIR``: one self-contained page about a run, a sweep or several."""

from sslmanifold.commands.application import EXIT_FAILED, EXIT_MISTAKE, complain, status_of
from sslmanifold.config.arguments import folders_and_options
from sslmanifold.errors import UserError, printable

KEYS = {"out": "folder the files are written into; by default the first DIR"}

HELP = """usage: sslmanifold report DIR [DIR ...] [out=FOLDER]        (or run=DIR)

Writes report.html (self-contained, interactive), report.md and table.csv (one row a job, all summary keys) about
every run at or below the folders: what was swept, best and worst, constraint × data tables, curves against the
ODE, collapse warnings, predicted against seen, failed jobs with reasons.
Exit status: 0, 1 where a run or one of its files could not be read (it is named), 2 for a mistake.
"""


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0 if arguments else EXIT_MISTAKE
    from sslmanifold.report.findings import damaged_files, failures, tally
    from sslmanifold.report.write import write_report
    from sslmanifold.runs import UNREADABLE

    try:
        folders, options = folders_and_options(arguments, KEYS)
        if not folders:
            raise UserError("which runs? pass a folder: sslmanifold report DIR")
        paths, records = write_report(folders, options.get("out"))
    except UserError as error:
        return complain("report", str(error), status_of(error))
    lines = [tally(records)]
    lines += [f"{record.name} {record.status}: {why}" for record, why in failures(records)[:20]]
    damaged = damaged_files(records)
    for line in [*lines, *damaged[:20], *map(str, paths)]:
        print(printable(line).replace("\n", " "))
    return EXIT_FAILED if damaged or any(record.status == UNREADABLE for record in records) else 0
