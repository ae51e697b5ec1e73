"""Deaths and their traces, shared by the tests of what interrupted, resumed and damaged runs leave."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sslmanifold.training.module import SSLModule

# how a command is told to end: the signals, and whether they reach its whole process group as Ctrl-C does
DEATHS: dict[str, tuple[list[int], bool]] = {
    "SIGKILL": ([signal.SIGKILL], True),
    "SIGINT": ([signal.SIGINT], True),
    "SIGTERM": ([signal.SIGTERM], False),
    "SIGINT twice": ([signal.SIGINT, signal.SIGINT], True),
    "SIGTERM twice": ([signal.SIGTERM, signal.SIGTERM], False),
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the run's own code may answer it."""


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], type[BaseException]]:
    """``die_at(step)``: training now dies in the middle of this step (None: lives), of what is returned."""
    original = SSLModule.training_step

    def arm(step: int | None) -> type[BaseException]:
        def training_step(self: SSLModule, batch: Any, batch_idx: int) -> Any:
            if self.steps_done == step:
                raise Killed
            return original(self, batch, batch_idx)

        monkeypatch.setattr(SSLModule, "training_step", training_step)
        return Killed

    return arm


class Command:
    """``sslmanifold <arguments>`` in a process of its own."""

    def __init__(
        self, forge: "Forge", arguments: tuple[str, ...], cwd: Path, options: dict[str, Any]
    ) -> None:
        self._forge = forge
        self.log = cwd / f".log{time.monotonic_ns()}"
        request = {"arguments": arguments, "cwd": str(cwd), "log": str(self.log), **options}
        self.pid: int = forge.ask(request)
        self._status: int | None = None  # a process can be waited for once

    def wait(self, timeout: float = 120.0) -> int:
        """Its exit status, negative for a signal."""
        status = self.ended(timeout)
        assert status is not None, f"still running after {timeout} s: {self.said()}"
        return status

    def ended(self, timeout: float = 0.0) -> int | None:
        """Its exit status, None while it runs."""
        if self._status is None:
            self._status = self._forge.ask({"wait": self.pid, "timeout": timeout})
        return self._status

    def said(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def die(self, death: str, between: float = 0.05) -> int:
        """Send it the signals of a death, some time apart; its exit status."""
        numbers, group = DEATHS[death]
        for index, number in enumerate(numbers):
            if index and (status := self.ended(between)) is not None:
                return status
            (os.killpg if group else os.kill)(self.pid, number)
        return self.wait()


class Forge:
    """Starts commands in milliseconds: see forge.py."""

    def __init__(self) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forge.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._answer() == "ready"

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def start(self, *arguments: str, cwd: Path, **options: Any) -> Command:
        return Command(self, arguments, cwd, options)

    def run(self, *arguments: str, cwd: Path, **options: Any) -> tuple[int, str]:
        """Exit status and output."""
        command = self.start(*arguments, cwd=cwd, **options)
        return command.wait(), command.said()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    """Commands as processes of their own."""
    opened = Forge()
    yield opened
    opened.close()


def hidden_files(folder: Path) -> list[str]:
    """What killed processes had begun to write."""
    return sorted(
        str(p.relative_to(folder))
        for p in folder.rglob(".*")
        if p.is_file() and not p.name.startswith(".log")
    )


@pytest.fixture(scope="session")
def partial_files() -> Callable[[Path], list[str]]:
    return hidden_files


@pytest.fixture(scope="session")
def deaths() -> list[str]:
    return list(DEATHS)
