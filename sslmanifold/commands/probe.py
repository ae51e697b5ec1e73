"""``sslmanifold probe``: simple classifiers on the embedding of one run, or of every run of a sweep."""

from typing import Annotated, Any, Literal

from omegaconf import DictConfig

from sslmanifold.commands.application import EXIT_FAILED, run_application
from sslmanifold.config.compose import plain


def probe_runs(config: dict[str, Any]) -> list[Any]:
    """Probe what ``config`` (as composed from ``conf/probe.yaml``) names; writes ``probes/`` into each run folder.

    Returns:
        The rows of ``probes/table.csv``.

    Raises:
        UserError: where there is no run, or none of a sweep's runs can be probed.
    """
    return _probed(config)[0]


def _probed(config: dict[str, Any]) -> tuple[list[Any], list[str]]:
    """The rows, and the runs of a sweep that could not be probed, each with its reason."""
    import torch
    from pydantic import Field

    from sslmanifold.config.check import build_group, validated
    from sslmanifold.errors import UserError
    from sslmanifold.probes.evaluate import Session, Settings
    from sslmanifold.probes.results import print_table, rows_of, write_results, write_table
    from sslmanifold.runs import Run, runs_below
    from sslmanifold.runs.writing import remove_partials

    def schema(
        run: str,
        trust: str | list[str] | None = None,
        weights: Literal["last", "best"] = "last",
        project: bool = False,
        validation: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        bootstrap: Annotated[int, Field(ge=100)] = 1000,
        seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
        baselines: list[str] | None = None,
        threads: Annotated[int, Field(gt=0)] = 1,
    ) -> None: ...

    options = validated(schema, {k: v for k, v in config.items() if k != "probe"}, "")
    torch.set_num_threads(options["threads"])
    probes = {name: build_group(group, f"probe.{name}") for name, group in config["probe"].items()}
    settings = Settings(
        options["validation"], options["bootstrap"], options["seed"], list(options["baselines"] or [])
    )
    folders, sweep = runs_below(options["run"])
    session = Session(probes, settings)
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    for folder in folders:
        try:
            run = Run(
                folder, checkpoint=options["weights"], project=options["project"], trust=options.get("trust")
            )
            run.folder.refuse_redirections()
            results = session.run(run)
        except UserError as error:
            if not sweep:
                raise
            failures.append(f"{folder.name}: {error}")
            continue
        remove_partials(run.folder.probes, older_than=60.0)
        write_results(run, results)
        new = rows_of(run, results)
        write_table(folder, new)
        rows += new
    if not rows:
        raise UserError("no run could be probed: " + "; ".join(failures))
    if sweep:
        write_table(sweep, rows)
    print_table(rows, sweep or folders[0], failures)
    return rows, failures


def task(config: DictConfig) -> None:
    """Probe and print the table."""
    from threadpoolctl import threadpool_limits

    options = plain(config)
    with threadpool_limits(options["threads"] if isinstance(options["threads"], int) else 1):
        failures = _probed(options)[1]
    if failures:  # named in the table's last lines; the others are done
        raise SystemExit(EXIT_FAILED)


def main(arguments: list[str]) -> int:
    return run_application("probe", task, arguments, folder_key="run")
