"""The schema of what is not a group's constructor: top-level keys and the learning rate."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from sslmanifold.config.check import validated
from sslmanifold.config.targets import Opened, locate, refuse_nested
from sslmanifold.errors import UserError


def run_options(
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
    replicas: Annotated[int, Field(gt=0)] = 1,
    threads: Annotated[int, Field(gt=0)] = 1,
    overwrite: bool = False,
    ckpt_path: str | None = None,
    resume: bool = False,
    optimized_metric: str | list[str] | None = None,
    trust: str | list[str] | None = None,
) -> dict[str, Any]:
    """The top-level keys of a run; its signature is their schema."""
    return {
        "seed": seed,
        "replicas": replicas,
        "threads": threads,
        "overwrite": overwrite,
        "ckpt_path": ckpt_path,
        "resume": resume,
        "optimized_metric": optimized_metric,
    }


def dynamics_options(
    time: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = "auto",
    points: Annotated[int, Field(ge=2)] = 201,
) -> dict[str, Any]:
    """The keys that ``dynamics`` has and ``train`` has not; its signature is their schema."""
    return {"time": time, "points": points}


def forecast_options(
    run: str | None = None,
    trust: str | list[str] | None = None,
    start: Literal["auto", "initial", "last", "best"] = "auto",
    constraints: Annotated[list[str], Field(min_length=1)] | str = "all",
    time: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = "auto",
    points: Annotated[int, Field(ge=2)] = 201,
    out: str | None = "auto",
) -> dict[str, Any]:
    """The keys that ``forecast`` has and ``train`` has not; its signature is their schema."""
    return {
        "run": run,
        "trust": trust,
        "start": start,
        "constraints": constraints,
        "time": time,
        "points": points,
        "out": out,
    }


def optimizer_options(
    group: Mapping[str, Any], opened: Opened | None = None
) -> tuple[Any, dict[str, Any], float | None]:
    """The optimizer's class, its options without lr, and lr (None for "auto"); ``opened`` as in ``build_group``.

    Raises:
        UserError: for an lr that is neither "auto" nor positive and finite, and for unknown or wrong options.
    """
    options = dict(group)
    options.pop("manifold_lr", None)  # for networks with free weights beside those on manifolds: encoders
    lr = options.pop("lr", "auto")
    number = isinstance(lr, (int, float)) and not isinstance(lr, bool)
    if lr != "auto" and not (number and math.isfinite(lr) and lr > 0):
        raise UserError(
            f"optimizer.lr={lr} is not valid: set a positive number, e.g. optimizer.lr=0.01, or auto"
        )
    target = locate(options.pop("_target_", None), "optimizer", opened)
    if opened is not None:
        refuse_nested(options, "optimizer", opened)
    checked = validated(target, options, "optimizer", skip=("params", "lr"))
    return target, checked, None if lr == "auto" else float(lr)
