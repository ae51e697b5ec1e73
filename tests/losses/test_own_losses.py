"""A loss of one's own: by loss=own, with as little as a __call__, and refused early where it cannot train."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sslmanifold import train
from sslmanifold.errors import UserError
from sslmanifold.runs import Run

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar
import torch

class Bare:
    """−Σ u·u⁺ + (‖u‖² − 1)², and nothing said of itself."""
    def __call__(self, u, u_pos, u_neg=None):
        return ((u.square().sum(-1) - 1).square() - (u * u_pos).sum(-1)).mean(-1)

@dataclass(kw_only=True)
class TripletMargin:
    contrastive: ClassVar[bool] = True
    margin: float = 1.0
    def __call__(self, u, u_pos, u_neg=None):
        near, far = (u - u_pos).square().sum(-1), (u - u_neg).square().sum(-1)
        return torch.relu(near - far + self.margin).mean(-1)

class Steps(Bare):
    """Every step another weight."""
    def at(self, step):
        return lambda u, u_pos, u_neg=None: (1 + step % 3) * self(u, u_pos)

class Trace:
    quadratic = True
    reduction = "mean"
    def __call__(self, u, u_pos, u_neg=None):
        return -(u * u_pos).sum(-1).mean(-1)

class Scalar:
    def __call__(self, u, u_pos, u_neg=None):
        return (u - u_pos).square().mean()

class Mixed:
    def __call__(self, u, u_pos, u_neg=None):
        return (u - u_pos).square().mean() * torch.ones(len(u), dtype=u.dtype)

class Constant:
    def __call__(self, u, u_pos, u_neg=None):
        return u.detach().mean((-2, -1))

class TwoArguments:
    def __call__(self, u, u_pos):
        return (u - u_pos).square().mean((-2, -1))

class NeedsNegatives:
    def __call__(self, u, u_pos, u_neg=None):
        return (u * u_neg).sum(-1).mean(-1)

class NotQuadratic(Bare):
    quadratic = True

class WrongReduction(Bare):
    reduction = "none"

@dataclass(frozen=True)
class Frozen(Bare):
    pass

class Slots:
    __slots__ = ()
    __call__ = Bare.__call__
'''


@pytest.fixture(scope="module", autouse=True)
def own_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_losses.py").write_text(MODULE, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("my_losses", None)


def fit(name: str, folder: Path, *more: str) -> Run:
    return train(
        "loss=own", f"loss._target_=my_losses.{name}", "data=half_moons", "data.n=40", "trainer.max_steps=20",
        "callbacks=[spectrum,ode]", *more, run_dir=folder,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "called", "more"),
    [
        ("Bare", "bare", ()),
        ("Frozen", "frozen", ()),
        ("TripletMargin", "triplet_margin", ("+loss.margin=2.0",)),
        ("Steps", "steps", ("data.batch_size=16", "replicas=2")),
    ],
)
def test_it_trains(name: str, called: str, more: tuple[str, ...], tmp_path: Path) -> None:
    run = fit(name, tmp_path / "run", *more)
    assert (run.summary["status"], run.summary["loss"]) == ("completed", called)
    loss = run.metrics["train/loss"]
    if not more or "margin" in more[0]:
        assert loss.iloc[-1] < loss.iloc[0]
    assert run.config["loss"].get("margin") == (2.0 if "margin" in str(more) else None)


def test_one_that_is_quadratic_has_its_flow(tmp_path: Path) -> None:
    run = fit("Trace", tmp_path / "own")
    assert 0 < run.summary["ode/deviation_max"] < 0.1
    ours = train(
        "loss=noncontrastive", "loss.reduction=mean", "loss.evaluate=samples", "data=half_moons", "data.n=40",
        "trainer.max_steps=20", "callbacks=[spectrum,ode]", run_dir=tmp_path / "ours",
    )  # fmt: skip
    assert run.summary["train/loss"] == pytest.approx(ours.summary["train/loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Scalar", "gives shape () for 2 replicas: define __call__"),
        ("Mixed", "mixes replicas"),
        ("Constant", "does not depend on u"),
        ("TwoArguments", "define __call__(self, u, u_pos, u_neg=None)"),
        ("NeedsNegatives", "add contrastive = True"),
        ("NotQuadratic", "is not Eq. 2 with reduction=mean"),
        ("Slots", "add name: ClassVar = 'slots'"),
        ("WrongReduction", "WrongReduction.reduction='none'"),
    ],
)
def test_what_cannot_train_is_refused_before(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        fit(name, tmp_path / "run")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_a_class_the_line_to_write_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set loss\._target_=package\.module\.Class"):
        train("loss=own", run_dir=tmp_path / "run")


def test_a_folder_of_such_a_run_is_opened_with_trust(tmp_path: Path) -> None:
    fit("Bare", tmp_path / "run")
    resumed = train(ckpt_path=str(tmp_path / "run"), trust="my_losses", trainer={"max_steps": 25})
    assert resumed.summary["steps"] == 25
    with pytest.raises(UserError, match="trust=my_losses"):
        train(ckpt_path=str(tmp_path / "run"), trainer={"max_steps": 30})
