"""Runs a command under Hydra and turns a user's mistake into one message."""

import functools
import os
import re
import secrets
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sslmanifold.config.location import command_dir
from sslmanifold.errors import UserError

# also the status of a usage error in argparse and in most shells' built-ins
EXIT_MISTAKE = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain dicts and lists: what checkpoints and loggers can hold."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def run_application(command: str, task: Callable[[DictConfig], Any], arguments: list[str]) -> int:
    """Compose ``conf/<command>.yaml`` with the overrides and call ``task``; returns the exit status.

    A folder name is made unique here rather than by the clock alone: two starts in the same second must not
    share one.
    """
    os.environ["SSLMANIFOLD_RUN_ID"] = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach the handler below instead of being printed half-way
    completion = any(argument in ("-sc", "--shell-completion") for argument in arguments)
    sys.argv = ["sslmanifold" if completion else f"sslmanifold {command}", *arguments]
    application = hydra_main(version_base="1.3", config_path=str(command_dir(command)), config_name=command)(
        functools.partial(_job, command, task)
    )
    _forget_earlier_sweep()
    batched = [a for a in arguments if a.startswith("hydra.sweeper.max_batch_size=")]
    if batched and not batched[0].endswith("=null"):
        # Hydra's sweeper reads a batch's results before it starts the next, and one failed job ends it there
        return _complain(
            command,
            f"{batched[0]}: after a batch with a failed job Hydra would not start the next; leave it out, and set "
            "hydra/launcher=joblib hydra.launcher.n_jobs=N for N jobs at once",
            EXIT_MISTAKE,
        )
    try:
        application()
    except (HydraException, OmegaConfBaseException) as error:
        # a grid is composed as a whole before its first job: a choice that does not exist stops it here
        return _complain(command, composition_message(error, command, arguments), EXIT_MISTAKE)
    except KeyboardInterrupt:
        _end_of_sweep(command)
        return _complain(command, "interrupted", EXIT_INTERRUPTED)
    except UserError as error:
        status = _end_of_sweep(command)
        if status is None:
            return _complain(command, str(error), EXIT_MISTAKE)
        # every job has its result, and yet something is wrong: with optimized_metric, say, or the folder
        return status or _complain(command, str(error), EXIT_FAILED)
    except Exception as error:
        # in a sweep jobs only raise UserError: this is the launcher's, e.g. a worker killed for its memory
        if _end_of_sweep(command) is None:
            raise
        return _complain(command, f"the sweep stopped: {reason(error)}", EXIT_FAILED)
    return _end_of_sweep(command) or 0


def _forget_earlier_sweep() -> None:
    """Another command of the same process may have run a sweep."""
    if "sslmanifold.sweeps.start" in sys.modules:
        sys.modules["sslmanifold.sweeps.start"].SweepStart.folder = None


def _end_of_sweep(command: str) -> int | None:
    """Print the table of the sweep this process ran: 0 if every job has its result, else 1; None for no sweep."""
    start = sys.modules.get("sslmanifold.sweeps.start")  # loaded by Hydra where the command sweeps
    if start is None or start.SweepStart.folder is None:
        return None
    from sslmanifold.report.terminal import print_sweep

    manifest = start.SweepStart.manifest
    counts = print_sweep(start.SweepStart.folder, manifest.jobs)
    open_jobs = {status: n for status, n in counts.items() if status not in ("completed", "diverged")}
    if not open_jobs:
        return 0
    tally = ", ".join(f"{n} {status}" for status, n in sorted(open_jobs.items()))
    return _complain(
        command,
        f"{tally}: run the same line with resume=true to do only what is missing or failed",
        EXIT_FAILED,
    )


def _job(command: str, task: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """One job. In a sweep a mistake is raised, so that the other jobs go on; alone it ends the program here,
    before Hydra adds lines of its own."""
    try:
        return task(config)
    except (UserError, MissingMandatoryValue) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        raise SystemExit(_complain(command, reason(error), EXIT_MISTAKE)) from error


def reason(error: Exception) -> str:
    """What to tell the user about an error, in one message."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing: set {error.full_key}=…"
    return str(error) or type(error).__name__


def _complain(command: str, message: str, status: int) -> int:
    print(f"sslmanifold {command}: {message}", file=sys.stderr)
    return status


def composition_message(error: Exception, command: str, arguments: list[str]) -> str:
    """Hydra's reason for not composing, with the choices spelled out for an unknown key."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(str(c) for c in chain)
    unknown = re.search(r"Could not override '([\w.@/]+)'", text)
    if unknown and ("not in struct" in text or "not in '" in text):
        return _unknown_key(unknown.group(1), command, arguments)
    missing = re.search(r"Could not delete from config\. '([\w.]+)' does not exist", text)
    if missing:
        return _unknown_key(missing.group(1), command, arguments)
    if isinstance(error, MissingMandatoryValue):
        return reason(error)
    # of a list of options, callbacks=[a,b], Hydra does not say which there are
    absent = re.search(r"Could not load '(\w+)/([\w-]+)'", text)
    if absent:
        group, name = absent.groups()
        options = sorted(path.stem for path in (command_dir(command) / group).glob("*.yaml"))
        return f"{group}: there is no {name}: choose from {', '.join(options)}"
    lines = [line for line in str(error).split("Config search path:")[0].splitlines() if line.strip()]
    keep = [
        line for line in lines if not line.startswith(("See http", "Set the environment", "    full_key"))
    ]
    return "\n".join(keep)


def _unknown_key(key: str, command: str, arguments: list[str]) -> str:
    from hydra import compose, initialize_config_dir

    from sslmanifold.config.check import unknown_key

    name = key.split("=")[0]
    # the same composition without plain values: groups still choose which keys there are
    groups = [
        a
        for a in arguments
        if "=" in a and not a.startswith(("-", "+", "~", "hydra")) and "." not in a.split("=")[0]
    ]
    groups = [a for a in groups if "," not in a and a.split("=")[0] != name]
    with initialize_config_dir(str(command_dir(command)), version_base="1.3"):
        try:
            config = compose(command, overrides=groups)
        except Exception:
            config = compose(command)
    parent, _, leaf = name.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not OmegaConf.is_dict(node):
        return f"unknown key {name}: {parent or 'the configuration'} has no keys of its own"
    choices = [str(k) for k in node if str(k) not in ("_target_", "hydra")]
    return str(unknown_key(parent, leaf, choices))
