"""``sslmanifold forecast``: which constraint keeps which effective rank at which loss, before anything is trained."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sslmanifold.commands.application import run_application
from sslmanifold.config.compose import plain
from sslmanifold.errors import UserError

if TYPE_CHECKING:
    from sslmanifold.training.forecast import Forecast

KEYS = ("run", "trust", "start", "constraints", "time", "points", "out", "threads")


def forecast_run(config: dict[str, Any]) -> "tuple[Forecast, Path | None]":
    """Forecast what ``config`` (as composed from ``conf/forecast.yaml``) describes, or the run folder it names.

    Returns:
        The forecast, and the file that it was written to, if any.

    Raises:
        UserError: for a mistake in the configuration, and for a folder that holds no run.
        OutputError: where the file cannot be written.
    """
    from sslmanifold.config.check import validated
    from sslmanifold.runs import atomic
    from sslmanifold.runs.folder import finite_json
    from sslmanifold.training.forecast_source import forecast_folder, forecast_line
    from sslmanifold.training.options import forecast_options

    own = {key: config[key] for key in KEYS if key in config and key != "threads"}
    options = forecast_options(**validated(forecast_options, own, ""))
    training = {key: value for key, value in config.items() if key not in own}
    with _turns() as progress:
        if options["run"] is None:
            found, usual = forecast_line(training, options, progress), None
        else:
            found, usual = forecast_folder(training, options, progress)
    out = usual if options["out"] == "auto" else options["out"]
    if out is None:
        return found, None
    with atomic(Path(out)) as temporary:
        text = json.dumps(finite_json(found.to_dict()), indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return found, Path(out)


def _turns() -> "AbstractContextManager[Any]":
    """Calls with a constraint's name show whose turn it is, where somebody watches."""
    from sslmanifold.console import TextConsole

    console = TextConsole(stderr=True)
    return _Turns(console) if console.is_terminal else nullcontext(lambda name: None)


class _Turns:
    """A line on a terminal that says which flow is being solved, gone at the end."""

    def __init__(self, console: Any) -> None:
        self.status = console.status("reading the data")

    def __enter__(self) -> "_Turns":
        self.status.start()
        return self

    def __call__(self, name: str) -> None:
        self.status.update(f"solving constraint={name}")

    def __exit__(self, *error: object) -> None:
        self.status.stop()


def _only_own_keys(overrides: list[str]) -> None:
    """Raise UserError where a folder is forecast and the line says, too, what is trained."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key not in KEYS:
            raise UserError(
                f"{override}: the run folder says what was trained: leave it out, or leave out the folder and write "
                f"the whole line; beside a folder the keys are {', '.join(KEYS)}"
            )


def task(config: DictConfig) -> None:
    """Forecast and print the table."""
    from threadpoolctl import threadpool_limits

    from sslmanifold.report.forecast import print_forecast

    options = plain(config)
    if options.get("run") is not None:
        _only_own_keys(list(HydraConfig.get().overrides.task))
    threads = options.get("threads")
    with threadpool_limits(threads if isinstance(threads, int) and threads > 0 else 1):
        found, written = forecast_run(options)
    print_forecast(found)
    if written is not None:
        print(f"written: {written}")


def main(arguments: list[str]) -> int:
    return run_application("forecast", task, arguments, folder_key="run")
