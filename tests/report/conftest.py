"""A browser without a window, spoken to over a pipe, and run folders to report on."""

import json
import math
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslmanifold.runs import RunFolder

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-pipe --disable-dev-shm-usage"
)


class Browser:
    """One page of a headless Chromium, driven by its DevTools protocol over file descriptors 3 and 4."""

    def __init__(self, executable: str, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # the browser expects to read from 3 and to write to 4
        launch = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        command = ["bash", "-c", launch, "bash", str(to_browser), str(from_browser), executable]
        self.process = subprocess.Popen(
            [*command, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        # a browser that hangs must not hang the tests: closing its end ends the reading below
        self._guard = threading.Timer(120, self.process.kill)
        self._guard.start()
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "the browser went away"
            self._buffer += chunk
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(raw)
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(str(params["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return message

    def open(self, path: Path, width: int, height: int) -> None:
        """Load a file at a size and wait until it has loaded."""
        self.errors.clear()
        self.requests.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Page.navigate", url=path.resolve().as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def close(self) -> None:
        self._guard.cancel()
        self.process.kill()
        self.process.wait()
        os.close(self._write)
        os.close(self._read)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A headless Chromium."""
    executable = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if executable is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    opened = Browser(executable, tmp_path / "profile")
    yield opened
    opened.close()


def _config(constraint: str, data: str, seed: int, hidden: int, steps: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "replicas": 1,
        "threads": 1,
        "data": {"_target_": f"sslmanifold.data.{data}", "n": 200},
        "model": {"_target_": "sslmanifold.models.TwoLayer", "hidden": hidden, "embedding": 2},
        "loss": {"_target_": "sslmanifold.losses.Contrastive"},
        "constraint": {"_target_": f"sslmanifold.constraints.{constraint}"},
        "trainer": {"max_steps": steps},
        **{group: {} for group in ("optimizer", "scheduler", "logger")},
    }


@pytest.fixture(scope="session")
def write_run() -> Callable[..., RunFolder]:
    """``write_run(path, constraint=…, seed=…, status=…, rank=…)``: a run folder written by hand."""

    def write(
        path: Path,
        constraint: str = "orthogonal.Orthogonal",
        data: str = "HalfMoons",
        seed: int = 0,
        hidden: int = 128,
        status: str | None = "completed",
        rank: float = 1.9,
        rows: int = 100,
        reason: str = "",
        **extra: Any,
    ) -> RunFolder:
        folder = RunFolder(path)
        folder.write_config(_config(constraint, data, seed, hidden, 10 * (rows - 1)))
        steps = 10 * np.arange(rows)
        folder.write_metrics(
            [
                {
                    "step": int(s),
                    "train/loss": -100 * (1 - math.exp(-s / 200)),
                    "train/optimality_gap": math.exp(-s / 200),
                    "rank/effective": rank + (1.5 - rank) * math.exp(-s / 100),
                    "ode/deviation": 1e-3 + 0.1 * math.exp(-s / 50),
                }
                for s in steps
            ]
        )
        rng = np.random.default_rng(seed)
        folder.write_trajectory(
            {
                "steps": steps,
                "ode_loss": -100 * (1 - np.exp(-steps[:, None] / 190)),
                "embedding_final": rng.normal(size=(1, 200, 2)),
                "labels": np.arange(200) % 2,
            }
        )
        names = {"HalfMoons": "half_moons", "Digits": "digits"}
        if status is not None:
            folder.write_summary(
                {
                    "status": status, "reason": reason, "data": names[data], "model": "two_layer",
                    "loss": "contrastive", "constraint": constraint.split(".")[0], "seed": seed, "replicas": 1,
                    "dim": 2, "embedding": 2, "train/loss": -99.0, "train/optimum": -100.0,
                    "train/optimality_gap": 0.01, "rank/effective": rank, "ode/deviation_max": 0.1,
                    "predicted/steps_to_tolerance": 400 + seed, "seen/steps_to_tolerance": 402 + seed,
                    "wall_seconds": 1.5, "versions": {"torch": "2"}, **extra,
                }
            )  # fmt: skip
        return folder

    return write


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., RunFolder]) -> Path:
    """A sweep of two constraints, two data sets and three seeds; one job collapsed everywhere, one failed."""
    root = tmp_path_factory.mktemp("sweep")
    job = 0
    for constraint in ("frobenius.Frobenius", "orthogonal.Orthogonal"):
        for data in ("HalfMoons", "Digits"):
            for seed in range(3):
                rank = 1.02 + 0.01 * seed if constraint.startswith("frobenius") else 1.8 + 0.1 * seed
                write_run(root / str(job), constraint=constraint, data=data, seed=seed, rank=rank)
                job += 1
    RunFolder(root / str(job)).write_config(_config("orthogonal.Orthogonal", "HalfMoons", 3, 10, 990))
    RunFolder(root / str(job)).write_summary(
        {"status": "failed", "reason": "orthogonal W1 needs h ≥ d <b>& more</b>", "seed": 3}
    )
    return root
