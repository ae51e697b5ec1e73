"""The W&B dashboard in code: a workspace and a report over the runs of a project (extra ``dashboard``).

``python -m sslmanifold.loggers.dashboard ENTITY [PROJECT]`` builds both online; the functions alone need no network.
"""

import sys
from typing import Any

from sslmanifold.errors import UserError
from sslmanifold.runs.keys import (
    DEVIATION,
    GAP,
    KEYS,
    LOSS,
    RANK,
    RESIDUAL,
    STABLE_RANK,
    SUBSPACE_DISTANCE,
    TIME,
)

# section → the summary keys drawn in it over the time of the flow
SECTIONS: dict[str, tuple[str, ...]] = {
    "Collapse": (RANK, STABLE_RANK),
    "Training against its ODE": (DEVIATION, SUBSPACE_DISTANCE),
    "Loss": (LOSS,),
    "Optimality gap": (GAP,),
    "Constraint": (RESIDUAL,),
}


def workspace(entity: str, project: str = "sslmanifold", name: str = "Learning dynamics") -> Any:
    """A workspace: one section a question, every curve over the flow's time, runs grouped by constraint.

    Raises:
        UserError: where wandb-workspaces is not installed.
    """
    workspaces, panels = _libraries()
    sections = [
        workspaces.Section(name=title, panels=_line_plots(panels, keys), is_open=True)
        for title, keys in SECTIONS.items()
    ]
    charts = [
        panels.CustomChart(
            query={"summaryTable": {"tableKey": f"charts/{key}_table"}},
            chart_name=f"wandb/{kind}/v0",
            chart_fields=fields,
            chart_strings={"title": title},
        )
        for kind, key, fields, title in _charts()
    ]
    media = panels.MediaBrowser(media_keys=["figures/embedding", "figures/singular_values", "figures/loss"])
    sections.append(workspaces.Section(name="Pictures", panels=[media, *charts], is_open=True))
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        runset_settings=workspaces.RunsetSettings(groupby=[workspaces.Config("constraint._target_")]),
    )


def report(entity: str, project: str = "sslmanifold") -> Any:
    """A W&B report with the same panels, grouped by constraint, and a line of text on what each answers.

    Raises:
        UserError: where wandb-workspaces is not installed.
    """
    _, panels = _libraries()
    blocks: list[Any] = [
        panels.P("Self-supervised training under weight constraints, next to its exact dynamics."),
        panels.TableOfContents(),
    ]
    for title, keys in SECTIONS.items():
        runset = panels.Runset(entity=entity, project=project, groupby=["config.constraint._target_"])
        grid = panels.PanelGrid(runsets=[runset], panels=_line_plots(panels, keys))
        blocks += [panels.H2(title), grid]
    return panels.Report(entity=entity, project=project, title="Learning dynamics", blocks=blocks)


def _line_plots(panels: Any, keys: tuple[str, ...]) -> list[Any]:
    return [panels.LinePlot(title=key, x=TIME, y=[key], log_y=KEYS[key].logarithmic) for key in keys]


def _charts() -> list[tuple[str, str, dict[str, str], str]]:
    """(kind of W&B chart, table, its fields, title) of the custom charts that a run logs."""
    series = {"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"}
    return [
        ("lineseries", "loss_against_ode", series, "Loss against the ODE"),
        ("lineseries", "singular_values", series, "Singular values of the embedding"),
        ("scatter", "embedding", {"x": "u1", "y": "u2"}, "Embedding at the end"),
    ]


def _libraries() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        raise UserError(
            "the dashboard needs wandb-workspaces: pip install 'sslmanifold[dashboard]'"
        ) from error
    return workspaces, panels


def main() -> None:
    """Save the workspace and the report to W&B and print where they are."""
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: python -m sslmanifold.loggers.dashboard ENTITY [PROJECT]")
    try:
        for built in (workspace(*sys.argv[1:]), report(*sys.argv[1:])):
            built.save()
            print(built.url)
    except UserError as error:
        raise SystemExit(f"sslmanifold.loggers.dashboard: {error}") from error


if __name__ == "__main__":
    main()
