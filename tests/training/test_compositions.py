"""Every choice of every group trains with every other, by the names alone, and says what its ODE comparison is."""

import os
import struct
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from sslmanifold import train
from sslmanifold.config.compose import composed, plain
from sslmanifold.config.location import config_dir
from sslmanifold.errors import UserError
from sslmanifold.training.fit import run_training

# groups with one choice add nothing; the presets of `experiment` and `sweep` have tests of their own
GROUPS = ("data", "model", "loss", "constraint", "optimizer", "scheduler", "logger", "callbacks")
# what the names alone do not reach: nonlinear nets, wide weights, minibatches, momentum
KEYS = {
    "model": ("model=two_layer model.activation=tanh",),
    "constraint": (
        "constraint=orthogonal constraint.w1=rows",
        "constraint=orthogonal constraint.metric=canonical",
    ),
    "optimizer": ("optimizer=sgd optimizer.momentum=0.9",),
    "batches": ("", "data.batch_size=24", "data.resample=step"),
}
OWN = "loss._target_=sslmanifold.losses.NTXent"  # loss=own names no class by itself
SMALL = {
    "half_moons": "data.n=40",
    "gaussian": "data.n=40",
    "digits": "data.per_class=6",
}  # names alone need minutes
Case = dict[str, str]
Pair = frozenset[tuple[str, str]]
# asked for by a key of its own, and refused by name: a head has no first layer of two
NEVER: frozenset[Pair] = frozenset(
    [
        frozenset([("model", "model=head"), ("constraint", "constraint=orthogonal constraint.w1=rows")]),
        # refused by name: an encoder takes images, and is no network of two weights
        *(
            frozenset([("model", "model=encoder"), other])
            for other in (
                ("data", "data=array"),
                ("data", "data=gaussian data.n=40"),
                ("data", "data=half_moons data.n=40"),
                ("constraint", "constraint=product"),
                ("constraint", "constraint=scaled"),
            )
        ),
    ]
)
# read as torchvision knows them alone, by the checksums of their archives
ARCHIVES = ("cifar10", "cifar100", "stl10")


def choices(group: str) -> list[str]:
    names = sorted(p.stem for p in (config_dir() / group).glob("*.yaml") if p.stem not in ARCHIVES)
    if group == "callbacks":
        return [f"callbacks=[{name}]" for name in names] + [f"callbacks=[{','.join(names)}]"]
    sizes = SMALL if group == "data" else {"own": OWN} if group == "loss" else {}
    return [f"{group}={name} {sizes.get(name, '')}".strip() for name in names]


def covering(factors: dict[str, list[str]]) -> list[Case]:
    """Cases that together hold every pair of values of two factors but ``NEVER``, greedily; the same at every call."""
    left = {
        frozenset([(a, x), (b, y)])
        for a, b in combinations(factors, 2)
        for x, y in product(factors[a], factors[b])
    } - NEVER
    cases = []
    while left:
        case: Case = dict(sorted(min(left, key=sorted)))
        for name, values in factors.items():
            pairs = [[frozenset([(name, v), pair]) for pair in case.items()] for v in values]
            gains = [-1 if NEVER & {*each} else sum(pair in left for pair in each) for each in pairs]
            case.setdefault(name, values[gains.index(max(gains))])
        left -= {frozenset(pair) for pair in combinations(case.items(), 2)}
        cases.append(case)
    return cases


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of data sets: IDX images of 12×12 under every name, and an array without labels."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST", "KMNIST"):
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for split, n in (("train", 40), ("t10k", 20)):
            x = generator.integers(0, 256, size=(n, 12, 12), dtype=np.uint8)
            y = (np.arange(n) % 10).astype(np.uint8)
            (raw / f"{split}-images-idx3-ubyte").write_bytes(
                struct.pack(">IIII", 2051, *x.shape) + x.tobytes()
            )
            (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + y.tobytes())
    for label in ("a", "b"):
        (root / "images" / label).mkdir(parents=True)
        for index in range(20):
            pixels = generator.integers(0, 256, size=(12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / label / f"{index}.png")
    np.save(root / "x.npy", generator.normal(size=(60, 6)))
    before = os.environ.get("SSLMANIFOLD_DATA")
    os.environ["SSLMANIFOLD_DATA"] = str(root)
    yield root
    os.environ.pop("SSLMANIFOLD_DATA")
    if before is not None:
        os.environ["SSLMANIFOLD_DATA"] = before


def assembled(base: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What Hydra composes of these overrides, from the groups' files alone: a twentieth of its time."""
    config = deepcopy(base)
    lines = sorted(
        (line.split("=", 1) for line in overrides), key=lambda line: "." in line[0]
    )  # groups first
    for key, value in lines:
        if "." in key:
            group, name = key.split(".")
            config[group][name] = OmegaConf.create(f"value: {value}").value
        elif key != "callbacks":
            config[key] = group_file(key, value)
        else:
            names = [name for name in value.strip("[]").split(",") if name]
            config.pop(key)
            config |= (
                {key: {n: o for name in names for n, o in group_file(key, name).items()}} if names else {}
            )
    return config


@cache
def loaded(group: str, name: str) -> DictConfig:
    return OmegaConf.load(config_dir() / group / f"{name}.yaml")  # type: ignore[return-value]


def group_file(group: str, name: str) -> dict[str, Any]:
    return OmegaConf.to_container(loaded(group, name))  # type: ignore[return-value]


def run(
    case: Case,
    files: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    base: dict[str, Any] | None = None,
) -> None:
    """20 steps of a case; what it says of the ODE is one of: compared, approximate in one line, absent in one line."""
    overrides = [line for value in case.values() for line in value.split()]
    where = " ".join(overrides)
    if "data=array" in overrides:
        overrides.append(f"data.path='{files / 'x.npy'}'")
    if "data=image_folder" in overrides:
        overrides.append(f"data.root='{files / 'images'}'")
    capsys.readouterr()
    try:
        config = plain(composed("train", overrides)) if base is None else assembled(base, overrides)
        config["trainer"]["max_steps"] = 20
        summary = run_training(config, folder).summary
    except UserError as error:
        pytest.fail(f"{where}: {error}")
    assert summary["status"] == "completed" or "constraint=none" in overrides, where
    assert np.isfinite(summary["train/loss"]), where
    lines = [line for line in capsys.readouterr().err.splitlines() if "exact dynamics" in line]
    if "callbacks" in case and "ode" not in case["callbacks"]:
        assert lines == [], where
        return
    meaning = summary.get("ode/meaning", "")
    assert len(lines) == ("absent" in meaning or "approximate" in meaning), where
    assert ("ode/time" in summary) == ("absent" not in meaning), where
    if "data=" in where and ("batch_size" in where or "resample" in where) and "absent" not in meaning:
        assert "realised batches" in meaning, where


def few(factors: dict[str, list[str]]) -> dict[str, list[str]]:
    """The factors without choices that differ in their files or their size alone, and without the loggers."""
    left_out = ("fashion_mnist", "kmnist", "digits", "canonical")
    kept = {
        g: [v for v in values if not any(name in v for name in left_out)]
        for g, values in factors.items()
        if g != "logger"
    }
    return kept | {"callbacks": ["callbacks=[]", factors["callbacks"][-1].replace("figures,", "")]}


def all_factors() -> dict[str, list[str]]:
    factors = {group: choices(group) for group in GROUPS}
    return {g: [*factors.get(g, []), *KEYS.get(g, ())] for g in (*GROUPS, "batches")}


def test_a_covering_array_covers() -> None:
    factors = {"a": ["1", "2", "3"], "b": ["4", "5"], "c": ["6", "7"]}
    cases = covering(factors)
    assert 6 <= len(cases) <= 8
    for one, other in combinations(factors, 2):
        assert {(case[one], case[other]) for case in cases} == set(product(factors[one], factors[other]))


def test_any_two_choices_compose(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = plain(composed("train", []))
    for index, case in enumerate(covering(few(all_factors()))):
        run(case, files, tmp_path / str(index), capsys, base)


def test_groups_assembled_from_their_files_are_what_hydra_composes() -> None:
    case = covering(few(all_factors()))[0]
    overrides = [line for value in case.values() for line in value.split()]
    overrides = [line.replace("data=array", "data=digits") for line in overrides]  # array needs a path
    assert assembled(plain(composed("train", [])), overrides) == plain(composed("train", overrides))


def pairs_of_groups() -> Sequence[Any]:
    return [pytest.param(*pair, id=f"{pair[0]}-{pair[1]}") for pair in combinations((*GROUPS, "batches"), 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), pairs_of_groups())
def test_every_pair_composes_beside_the_defaults(
    one: str, other: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    factors, base = all_factors(), plain(composed("train", []))
    for index, (x, y) in enumerate(product(factors[one], factors[other])):
        if frozenset([(one, x), (other, y)]) in NEVER:
            continue
        usual = "digits" if "model=encoder" in (x, y) else "half_moons"
        case = {"data": f"data={usual} {SMALL[usual]}"} if "data" not in (one, other) else {}
        run(case | {one: x, other: y}, files, tmp_path / str(index), capsys, base)


def test_without_their_files_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLMANIFOLD_DATA", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="MNIST"):
        train("data=mnist", run_dir=tmp_path / "run")
    with pytest.raises(Exception, match=r"data\.path"):
        train("data=array", run_dir=tmp_path / "run")
