"""``sslmanifold <command>``: dispatch first, import after, so that help is instant."""

import os
import site
import sys
from importlib import import_module

# nothing more here: what is imported before leave_current_directory() may come from that directory
from sslmanifold.version import __version__

COMMANDS = {
    "train": "train a constrained model next to its exact dynamics",
    "dynamics": "solve those dynamics instead of training: the same folder, much faster",
    "forecast": "before training, or from a run: which constraint keeps which effective rank, at which loss",
    "probe": "accuracy of simple classifiers, or of fine-tuning, on a run's embedding",
    "export": "write a run's embedding for use without this package: torch, ONNX, .npz",
    "reproduce": "the paper: every figure and every statement, with a verdict each",
    "report": "one self-contained page about a run, a sweep or several",
    "compare": "one figure of many runs, for a paper: mean and band over seeds, a colour a constraint",
    "runs": "a table of runs, sorted and filtered; watch=true follows a sweep",
    "sync": "upload offline W&B runs",
}

HELP = """sslmanifold {version}: self-supervised models whose weights live on manifolds, next to their exact dynamics.

usage: sslmanifold <command> [key=value ...]

commands:
{commands}

first result, offline, in under a minute:
  sslmanifold train

then by override, or as a sweep:
  sslmanifold train data=half_moons constraint=none
  sslmanifold train -m constraint=none,frobenius,operator_norm,scaled,orthogonal seed=0,1

options of a command: sslmanifold <command> --help        the whole configuration: sslmanifold train --cfg job
"""


def usage() -> str:
    """The text of ``sslmanifold --help``."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return HELP.format(version=__version__, commands=lines)


def leave_current_directory() -> None:
    """Take the current directory off the import path, unless PYTHONPATH names it.

    ``python -m`` puts it first and an empty part of PYTHONPATH anywhere: a file there that is named like a library
    would then be imported in its place. Processes that are started from here leave it out too.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # a directory that has been deleted holds no modules
        return
    named = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    libraries = [os.path.dirname(os.__file__), *site.getsitepackages(), site.getusersitepackages()]
    if here in map(os.path.realpath, [*named, *libraries]):
        return
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [entry for entry in sys.path if entry and os.path.realpath(entry) != here]
    if package not in sys.path:  # a checkout that is not installed, started from within: after every library
        sys.path.append(package)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script and of ``python -m sslmanifold``."""
    own_process = arguments is None
    if arguments is None:
        leave_current_directory()
        arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0)
    if arguments[0] in ("-V", "--version"):
        print(f"sslmanifold {__version__}")
        sys.exit(0)
    if arguments[0] in ("-sc", "--shell-completion"):
        sys.exit(import_module("sslmanifold.config.completion").complete(arguments, list(COMMANDS)))
    command, *rest = arguments
    if command not in COMMANDS:
        names = ", ".join(COMMANDS)
        print(f"sslmanifold: unknown command {command!r}: the commands are {names}", file=sys.stderr)
        sys.exit(2)
    try:
        rest = import_module("sslmanifold.config.location").at_home(rest)
        status = import_module(f"sslmanifold.commands.{command}").main(rest)
        if own_process and status == 0:
            import_module("sslmanifold.commands.application").only_note_a_signal()
        sys.exit(status)
    except KeyboardInterrupt:  # while it was still being imported
        print(f"sslmanifold {command}: interrupted", file=sys.stderr)
        sys.exit(130)
