"""Runs a command under Hydra and turns a user's mistake into one message."""

import functools
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sslmanifold.config.arguments import named_folder, require_plain, split_flags, unquoted
from sslmanifold.config.compose import composition_message, of_no_choice, reason
from sslmanifold.config.location import command_dir
from sslmanifold.errors import OutputError, UserError, printable
from sslmanifold.interrupts import Interrupted, is_of_a_signal, none_lost
from sslmanifold.runs import ENDED

# also the status of a usage error in argparse and in most shells' built-ins
EXIT_MISTAKE = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def run_application(
    command: str, task: Callable[[DictConfig], Any], arguments: list[str], folder_key: str | None = None
) -> int:
    """Compose ``conf/<command>.yaml`` with the overrides and call ``task``; returns the exit status.

    With a ``folder_key`` an argument that is no override names a folder: ``DIR`` is ``run=DIR``.

    A folder name is made unique here rather than by the clock alone: two starts in the same second must not
    share one.
    """
    try:
        require_plain(Path())
        flags, overrides = split_flags(arguments)
        if folder_key is not None:
            overrides = [named_folder(argument, folder_key) for argument in overrides]
        _refuse_redirections(overrides)
    except UserError as error:
        return complain(command, str(error), EXIT_MISTAKE)
    arguments = [*flags, *overrides]
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
        return complain(
            command,
            f"{batched[0]}: after a batch with a failed job Hydra would not start the next; leave it out, and set "
            "hydra/launcher=joblib hydra.launcher.n_jobs=N for N jobs at once",
            EXIT_MISTAKE,
        )
    try:
        with _sigterm_interrupts():
            application()
    except (HydraException, OmegaConfBaseException) as error:
        if is_of_a_signal(error):
            return _interrupted(command)
        # a grid is composed as a whole before its first job: a choice that does not exist stops it here
        return complain(command, composition_message(error, command, arguments), EXIT_MISTAKE)
    except KeyboardInterrupt:
        return _interrupted(command)
    except UserError as error:
        status = _end_of_sweep(command)
        if status is None:
            return complain(command, str(error), status_of(error))
        # every job has its result, and yet something is wrong: with optimized_metric, say, or the folder
        return status or complain(command, str(error), EXIT_FAILED)
    except Exception as error:
        if is_of_a_signal(error):
            return _interrupted(command)
        if of_no_choice(error):
            return complain(command, composition_message(error, command, arguments), EXIT_MISTAKE)
        line = _of_the_disk(error)
        if line is not None and _end_of_sweep(command) is None:
            return complain(command, line, EXIT_FAILED)
        # in a sweep jobs only raise UserError: this is the launcher's, e.g. a worker killed for its memory
        if _end_of_sweep(command) is None:
            raise
        return complain(command, f"the sweep stopped: {reason(error)}", EXIT_FAILED)
    return _end_of_sweep(command) or 0


def _interrupted(command: str) -> int:
    Interrupted.came = False
    _end_of_sweep(command)
    return complain(command, "interrupted", EXIT_INTERRUPTED)


def _refuse_redirections(overrides: list[str]) -> None:
    """Hydra writes into the folder that it is given before any job starts: no link there may lead elsewhere."""
    given = {
        key: value
        for key, _, value in (argument.lstrip("+").partition("=") for argument in overrides)
        if key in ("hydra.run.dir", "hydra.sweep.dir")
    }
    if not given:
        return
    from sslmanifold.runs import RunFolder

    for key, value in given.items():
        try:
            folder = Path(unquoted(value))
        except UserError:  # made of what is composed: a new folder
            continue
        jobs = [folder] if key == "hydra.run.dir" else folder.iterdir() if folder.is_dir() else []
        for job in jobs:
            RunFolder(job).refuse_redirections()


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
    open_jobs = {status: n for status, n in counts.items() if status not in ENDED}
    if not open_jobs:
        return 0
    tally = ", ".join(f"{n} {status}" for status, n in sorted(open_jobs.items()))
    return complain(
        command,
        f"{tally}: run the same line with resume=true to do only what is missing or failed",
        EXIT_FAILED,
    )


def _job(command: str, task: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """One job. In a sweep a mistake is raised, so that the other jobs go on; alone it ends the program here,
    before Hydra adds lines of its own."""
    log = logging.getLogger("sslmanifold")
    said = _Printed()
    log.addHandler(said)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        return task(config)
    except (UserError, MissingMandatoryValue) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        raise SystemExit(complain(command, reason(error), status_of(error))) from error
    except OSError as error:
        line = None if HydraConfig.get().mode == RunMode.MULTIRUN else _of_the_disk(error)
        if line is None:
            raise
        raise SystemExit(complain(command, line, EXIT_FAILED)) from error
    finally:
        log.removeHandler(said)
        log.setLevel(level)


class _Printed(logging.Handler):
    """What the package has to say while a command runs, such as what was read, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


def status_of(error: Exception) -> int:
    """The exit status that an error ends a command with: 1 where the disk is the trouble, 2 for a mistake."""
    return EXIT_FAILED if isinstance(error, OutputError) else EXIT_MISTAKE


def _of_the_disk(error: Exception) -> str | None:
    """One line for what Hydra or a job meets where it makes a folder on a full or read-only disk; else None."""
    from sslmanifold.runs.writing import cannot_write, is_of_the_disk

    if not (isinstance(error, OSError) and is_of_the_disk(error)):
        return None
    return str(cannot_write(error.filename or "the output", error))


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Outside training, which has an answer of its own, SIGTERM ends a command as Ctrl-C does, and it is noted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    Interrupted.came = False
    for number, handler in before.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, Interrupted.answer)
    try:
        with none_lost():
            yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that C installed cannot be put back, and was not replaced
                signal.signal(number, handler)


def only_note_a_signal() -> None:
    """Once a run is written as a whole, a signal changes nothing of it: the first is passed over, the next ends all."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, Interrupted.answer):
            signal.signal(number, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def complain(command: str, message: str, status: int) -> int:
    """Print why a command ends, and return the status it ends with."""
    print(printable(f"sslmanifold {command}: {message}"), file=sys.stderr)
    return status
