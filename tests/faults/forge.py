"""A process that has imported everything and forks commands: they start in milliseconds, and die in the command rather
than in its imports. Reads one JSON request a line, answers with one."""

import json
import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress
from typing import Any


def _become(request: dict[str, Any]) -> None:
    """In the forked child: the command, as the installed script runs it. Never returns."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.chdir(request["cwd"])
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        if request.get("largest_file"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], request["largest_file"]))
        from sslmanifold.cli import main

        main(request["arguments"])
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _ended(pid: int, timeout: float) -> int | None:
    """The exit status, negative for a signal; None where it still runs."""
    end = time.monotonic() + timeout
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def serve() -> None:
    # under a limit on file sizes Python keeps half a module's bytecode, and reads it ever after
    sys.dont_write_bytecode = True
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    import sslmanifold.commands.probe
    import sslmanifold.commands.reproduce
    import sslmanifold.commands.train
    import sslmanifold.plots.run_figures
    import sslmanifold.probes.evaluate
    import sslmanifold.report.terminal
    import sslmanifold.reproduction.reproduce
    import sslmanifold.training.dynamics
    import sslmanifold.training.fit  # noqa: F401

    started: list[int] = []
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer: Any = _ended(request["wait"], request["timeout"])
        else:
            answer = os.fork()
            if answer == 0:
                _become(request)
            started.append(answer)
        print(json.dumps(answer), flush=True)
    for pid in started:  # the tests have ended, and so does what they left
        with suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
