"""Shell completion, asked the way the shell asks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sslmanifold.cli import COMMANDS, main


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)


def choices(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    with pytest.raises(SystemExit) as ended:
        main(["-sc", "query=bash"])
    assert not ended.value.code
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("sslmanifold ", sorted(COMMANDS)),
        ("sslmanifold re", ["report"]),
        ("sslmanifold train constraint=", ["constraint=frobenius", "constraint=orthogonal"]),
        ("sslmanifold train -m constraint=or", ["constraint=orthogonal"]),
        ("sslmanifold train data=half_moons data.po", ["data.positives=", "data.positive_variance="]),
        ("sslmanifold train optimizer.", ["optimizer.lr=", "optimizer.momentum="]),
    ],
)
def test_choices(
    line: str, some: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(some) <= set(choices(line, monkeypatch, capsys))


def test_the_install_script_is_valid_bash(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on PATH")
    with pytest.raises(SystemExit):
        main(["-sc", "install=bash"])
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    answer = subprocess.run(
        [bash, "--norc", "-c", f". {script}; complete -p sslmanifold"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hydra_bash_completion" in answer.stdout
