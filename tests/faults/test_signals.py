"""A signal at any moment of a run: the exit status and the summary agree, and the run goes on from there."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

from sslmanifold.cli import main
from sslmanifold.report import terminal
from sslmanifold.runs import Run
from sslmanifold.sweeps.job import run_job
from sslmanifold.training import fit
from sslmanifold.training.checkpointing import Checkpointing
from sslmanifold.training.figures import Figures
from sslmanifold.training.fit import run_training
from sslmanifold.training.interruption import Interruption
from sslmanifold.training.module import SSLModule

LINE = ("data=half_moons", "data.n=40", "trainer.max_steps=30", "callbacks=[spectrum,ode,figures]")


def signalled(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *numbers: int, at: int = 0) -> None:
    """From now on the ``at``-th call of a method first sends these signals to this process."""
    original, calls = getattr(owner, name), [0]

    def method(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == at + 1:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, method)


@pytest.fixture
def config(compose_config: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return compose_config(*LINE)


def complete(run: Run) -> bool:
    figures = {path.stem for path in run.folder.figures.glob("*.png")}
    return run.summary["status"] == "completed" and {"loss", "effective_rank", "embedding"} <= figures


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_step_in_hand(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    signalled(monkeypatch, SSLModule, "training_step", number, at=11)
    run = run_training(config, tmp_path)
    assert run.summary["status"] == "interrupted"
    assert run.summary["reason"] == f"stopped by {signal.Signals(number).name} at step 12"
    monkeypatch.undo()
    assert complete(run_training(config | {"ckpt_path": str(tmp_path)}, tmp_path))


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM)])
def test_a_second_signal_is_an_interruption_too(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...]
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    signalled(monkeypatch, SSLModule, "training_step", *numbers, at=11)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path)
    summary = Run(tmp_path).summary
    assert summary["status"] == "interrupted"
    assert "at step 11" in summary["reason"]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.undo()
    assert complete(run_training(config | {"ckpt_path": str(tmp_path)}, tmp_path))


@pytest.mark.parametrize(("owner", "name", "at"), [(Figures, "draw", 0), (Checkpointing, "save", 1)])
def test_after_the_last_step_a_signal_is_noted_and_the_end_is_finished(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int
) -> None:
    signalled(monkeypatch, owner, name, signal.SIGTERM, at=at)
    run = run_training(config, tmp_path)
    assert complete(run)
    assert run.signals == (signal.SIGTERM,)


def test_two_signals_at_the_end_leave_an_interrupted_run_that_ends_when_resumed(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled(monkeypatch, Figures, "draw", signal.SIGTERM, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path)
    assert Run(tmp_path).summary["status"] == "interrupted"
    monkeypatch.undo()
    assert complete(run_training(config | {"ckpt_path": str(tmp_path)}, tmp_path))


def test_before_the_first_step_there_is_nothing_to_finish(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a shell's background job, and all that it starts, ignores SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    signalled(monkeypatch, fit, "Experiment", signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_training(config, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert Run(tmp_path).summary["status"] == "interrupted"
    monkeypatch.undo()
    assert complete(run_training(config | {"ckpt_path": str(tmp_path)}, tmp_path))


def test_killed_while_figures_are_drawn(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def draw(*arguments: Any, **options: Any) -> None:
        raise Killed

    monkeypatch.setattr(Figures, "draw", draw)
    # nothing of the run's own answers SIGKILL
    monkeypatch.setattr(fit._Training, "_leave", lambda self, error: error)
    with pytest.raises(Killed):
        run_training(config, tmp_path)
    assert Run(tmp_path).summary == {}  # the summary does not say that all is done
    monkeypatch.undo()
    assert complete(run_training(config | {"ckpt_path": str(tmp_path)}, tmp_path))


def test_figures_that_are_missing_are_drawn_by_the_resume_of_a_complete_run(
    config: dict[str, Any], tmp_path: Path
) -> None:
    run = run_training(config, tmp_path)
    kept = run.folder.figures / "loss.png"
    before = kept.stat().st_mtime_ns
    (run.folder.figures / "embedding.png").unlink()
    assert complete(run_training(config | {"ckpt_path": str(tmp_path)}, tmp_path))
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_table_is_printed_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    signalled(monkeypatch, terminal, "print_run", number)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["train", *LINE, f"hydra.run.dir={tmp_path / 'run'}"])
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    finally:
        signal.signal(signal.SIGINT, before)
    assert not ended.value.code
    assert "run folder" in capsys.readouterr().out
    assert complete(Run(tmp_path / "run"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_summary_is_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    end = Interruption.__exit__

    def late(self: Interruption, *exception: Any) -> None:
        end(self, *exception)
        os.kill(os.getpid(), number)
        time.sleep(0.01)

    monkeypatch.setattr(Interruption, "__exit__", late)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["train", *LINE, f"hydra.run.dir={tmp_path / 'run'}"])
        assert not ended.value.code
        assert "run folder" in capsys.readouterr().out
        assert complete(Run(tmp_path / "run"))
        # a line that has written nothing yet is interrupted, whatever an earlier one left in the folder
        signalled(monkeypatch, fit, "claimed", number)
        with pytest.raises(SystemExit) as ended:
            main(["train", *LINE, f"hydra.run.dir={tmp_path / 'run'}", "overwrite=true"])
        assert ended.value.code == 130
        assert complete(Run(tmp_path / "run"))
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_falls_into_a_finaliser_of_a_job_comes_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], compose_config: Callable[..., dict[str, Any]]
) -> None:
    class Finalised:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def train(options: dict[str, Any], folder: Path) -> Any:
        Finalised()
        time.sleep(5)  # the signal comes again and ends this

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_job(OmegaConf.create(compose_config(*LINE)), tmp_path / "0", tmp_path, {}, train)
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == ""


def test_a_signal_while_hydra_composes_is_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OmegaConf cleans up after it with an error of its own, which Hydra takes for a configuration at fault."""
    wrap = BaseContainer._wrap_value_and_set

    def interrupted(self: Any, key: Any, value: Any, type_hint: Any) -> None:
        if key == "callbacks":
            try:
                raise KeyboardInterrupt
            finally:
                None._invalidate_flags_cache()  # type: ignore[attr-defined]
        wrap(self, key, value, type_hint)

    monkeypatch.setattr(BaseContainer, "_wrap_value_and_set", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["train", *LINE, f"hydra.run.dir={tmp_path / 'run'}"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "sslmanifold train: interrupted\n"
    assert not (tmp_path / "run").exists()


def test_an_interrupt_that_falls_into_a_finaliser_comes_again(
    config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Finalised:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.001)  # the handler runs here, where nothing can be raised

    original = SSLModule.training_step

    def step(self: SSLModule, batch: Any, batch_idx: int) -> Any:
        if self.steps_done == 2:
            object.__setattr__(self, "_finalised", Finalised())
            object.__delattr__(self, "_finalised")
        time.sleep(0.02)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SSLModule, "training_step", step)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path)
    assert "Traceback" not in capsys.readouterr().err
    assert Run(tmp_path).summary["reason"] == "stopped by SIGTERM, SIGTERM at step 2"
    monkeypatch.undo()
    assert complete(run_training(config | {"ckpt_path": str(tmp_path)}, tmp_path))


def test_a_signal_that_compiled_code_turns_into_an_error_of_its_own_is_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pydantic's schemas answer a KeyboardInterrupt with a SchemaError that has neither cause nor context."""

    def swallowing(*arguments: Any) -> None:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        raise RuntimeError("Error building `model` serializer")

    monkeypatch.setattr(fit, "Experiment", swallowing)
    with pytest.raises(SystemExit) as ended:
        main(["train", *LINE, f"hydra.run.dir={tmp_path / 'run'}"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "sslmanifold train: interrupted\n"
    assert Run(tmp_path / "run").summary["status"] == "interrupted"
    monkeypatch.undo()
    with pytest.raises(SystemExit) as ended:  # and nothing remembers it
        main(["train", *LINE, f"hydra.run.dir={tmp_path / 'run'}", "overwrite=true", "trainer.max_steps=-3"])
    assert ended.value.code == 2
