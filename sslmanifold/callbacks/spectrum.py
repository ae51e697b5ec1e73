"""Is the embedding collapsing? Effective rank and its relatives, and how feasible the weights are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sslmanifold.callbacks.collapse import CollapseWarning, CollapseWatch
from sslmanifold.callbacks.observer import Observer, Recorded
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.callbacks.tap import Place, Tap
from sslmanifold.errors import UserError
from sslmanifold.geometry import residual
from sslmanifold.metrics import lidar
from sslmanifold.metrics.alpha_req import power_law_exponent
from sslmanifold.metrics.effective_rank import entropy_rank
from sslmanifold.metrics.participation_ratio import participation
from sslmanifold.metrics.rankme import rankme
from sslmanifold.metrics.spectrum import singular_values
from sslmanifold.metrics.stable_rank import frobenius_over_spectral

MetricName = Literal["effective_rank", "stable_rank", "rankme", "alpha_req", "lidar", "participation_ratio"]
KEYS = {
    "effective_rank": "rank/effective",
    "stable_rank": "rank/stable",
    "rankme": "rank/rankme",
    "alpha_req": "rank/alpha_req",
    "lidar": "rank/lidar",
    "participation_ratio": "rank/participation",
}


@dataclass(kw_only=True)
class SpectrumMonitor(Observer):
    """Logs the rank of an embedding, ``rank/effective``, ``rank/stable``, …, and ``constraint/residual``.

    In sslmanifold's own module it measures the training embedding, exactly. In any other LightningModule it
    listens to a submodule or asks a function (``on``), keeps the outputs of the last ``samples`` training samples
    of each process, and logs through Lightning (``log_dict``), so that every logger, EarlyStopping and
    ModelCheckpoint see the values. It touches neither the module's loss nor its forward pass nor its gradients.

    A warning (:class:`CollapseWarning`), once, where collapse begins or is foreseen:
    :class:`~sslmanifold.callbacks.collapse.CollapseWatch`.

    Attributes:
        on: the name of a submodule, a function of (module, batch), or several of them, as a list or as name →
            place: then each has its own keys, ``rank/effective/<name>``.
        metrics: which numbers; one singular value decomposition serves all centred ones.
        every: optimizer steps between measurements in other modules; None for ``trainer.log_every_n_steps``. What
            reaches the loggers is Lightning's ``log_every_n_steps``.
        samples: how many of the last samples, in other modules.
        centered: subtract the mean embedding first (the default), except for RankMe, which never does.
        collapse: the fraction of (largest rank − 1) under which the embedding has collapsed; None: no warning.

    Raises:
        UserError: at the start, for a submodule that does not exist, or LiDAR of samples without views.
    """

    on: Any = None
    metrics: Sequence[MetricName] = ("effective_rank", "stable_rank")
    every: Annotated[int, Field(gt=0)] | None = None
    samples: Annotated[int, Field(gt=1)] = 2048
    centered: bool = True
    collapse: Annotated[float, Field(gt=0, lt=1)] | None = 0.2

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in KEYS]
        if unknown:
            raise UserError(f"metrics={unknown[0]} is unknown: choose from {', '.join(KEYS)}")
        self._taps = {} if self.on is None else _taps(self.on, self.samples)
        self._watches: dict[str, CollapseWatch] = {}
        self._last_step = float("inf")
        self._measured: int | None = None

    # -- measuring --------------------------------------------------------------------------------------

    def measure(self, snapshot: Snapshot) -> dict[str, Tensor]:
        embedding = snapshot.embedding
        spectrum = singular_values(embedding, centered=self.centered)
        values: dict[str, Tensor] = {}
        for name in self.metrics:
            if name == "effective_rank":
                value = entropy_rank(spectrum)
            elif name == "stable_rank":
                value = frobenius_over_spectral(spectrum)
            elif name == "alpha_req":
                value = power_law_exponent(spectrum.square())
            elif name == "participation_ratio":
                value = participation(spectrum)
            elif name == "rankme":
                value = rankme(embedding)
            else:
                value = lidar(_with_views(snapshot))
            values[KEYS[name]] = value
        if snapshot.residual is not None:
            values["constraint/residual"] = snapshot.residual
        return values

    def arrays(self, snapshot: Snapshot) -> dict[str, np.ndarray]:
        """Singular values of the training embedding, (S, z), as centred as the ranks are."""
        embedding = snapshot.embedding
        if self.centered:
            embedding = embedding - embedding.mean(-2, keepdim=True)
        scale = embedding.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        scaled = embedding / scale
        # a diverging run can have finite weights and an embedding that is not: LAPACK refuses that
        finite = torch.isfinite(scaled).all(-1).all(-1)[..., None]  # (S, 1)
        values = torch.linalg.svdvals(torch.where(finite[..., None], scaled, 0.0)) * scale.squeeze(-1)
        values = torch.where(finite, values, torch.nan)
        return {"singular_values": values.numpy()}

    def after(self, snapshot: Snapshot, values: Mapping[str, Tensor]) -> None:
        if self.collapse is None:
            return
        for key, value in values.items():
            if key == "rank/effective" or key.startswith("rank/effective/"):
                watch = self._watches.setdefault(key, CollapseWatch(self.collapse))
                said = watch.see(snapshot.step, float(value.min()), self._last_step)
                if said:
                    place = key.removeprefix("rank/effective").removeprefix("/")
                    warnings.warn(f"{place}: {said}" if place else said, CollapseWarning, stacklevel=2)

    def summary(self) -> dict[str, Any]:
        return {
            f"{entry}{key.removeprefix('rank/effective')}": value
            for key, watch in self._watches.items()
            for entry, value in watch.summary().items()
        }

    @property
    def state_key(self) -> str:
        """Several monitors in one Trainer keep their states apart."""
        if not self._taps:
            return super().state_key
        return self._generate_state_key(on=list(self._taps), metrics=list(self.metrics), every=self.every)

    def state_dict(self) -> dict[str, Any]:
        return {key: watch.state_dict() for key, watch in self._watches.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key, state in state_dict.items():
            self._watches[key] = CollapseWatch(self.collapse or 0.2)
            self._watches[key].load_state_dict(state)

    # -- listening to anybody's module ------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if not self._taps and not isinstance(pl_module, Recorded):
            parts = ", ".join(name for name, _ in pl_module.named_children())
            raise UserError(
                f"SpectrumMonitor: which output of {type(pl_module).__name__}? set on= the name of a submodule "
                f"({parts}), or a function of (module, batch)"
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        steps = trainer.estimated_stepping_batches
        self._last_step = float(steps) if steps and steps > 0 else float("inf")
        self._measured = None
        for tap in self._taps.values():
            tap.attach(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for tap in self._taps.values():
            tap.open_batch()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._taps:
            return
        step, every = trainer.global_step, self.every or trainer.log_every_n_steps or 1
        due = step > 0 and step % every == 0 and step != self._measured
        for tap in self._taps.values():
            tap.close_batch(pl_module, batch, 0 if due else -step % every)
        if due:
            self._log(pl_module, step)

    def _log(self, module: Any, step: int) -> None:
        for name, tap in self._taps.items():
            if not tap.heard:
                raise UserError(
                    f"on={tap.name!r} was not called in a training step of {type(module).__name__}: name a submodule "
                    "that training calls, or pass a function of (module, batch)"
                )
            snapshot = Snapshot(
                step=step,
                previous=self._measured,
                embedding=tap.embedding,
                views=tap.views,
                residual=lambda: _worst_residual(module),
            )
            values = self.measure(snapshot)
            if len(self._taps) > 1:
                values = {_named(key, name): value for key, value in values.items()}
            module.log_dict(
                {key: value.squeeze() for key, value in values.items()}, on_step=True, on_epoch=False
            )
            if module.trainer.is_global_zero:
                self.after(snapshot, values)
        self._measured = step

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._release()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        for tap in self._taps.values():
            tap.detach()


def _named(key: str, name: str) -> str:
    return f"{key}/{name}" if key.startswith("rank/") else key


def _taps(on: Any, samples: int) -> dict[str, Tap]:
    if isinstance(on, Mapping):
        return {name: Tap(place, samples) for name, place in on.items()}
    places: list[Place] = [on] if isinstance(on, str) or callable(on) else list(on)
    taps = [Tap(place, samples) for place in places]
    names = [tap.name for tap in taps]
    if len(set(names)) < len(names):
        raise UserError(
            f"on: two places are named {max(names, key=names.count)}: give them names, on={{'a': …, 'b': …}}"
        )
    return dict(zip(names, taps, strict=True))


def _with_views(snapshot: Snapshot) -> Tensor:
    if snapshot.views is None:
        raise UserError(
            "metrics=lidar needs two or more views of each sample: tap a submodule that is called once a view, or "
            "pass on=lambda module, batch: … that gives (n, q, z)"
        )
    return snapshot.views


def _worst_residual(module: torch.nn.Module) -> Tensor | None:
    """Of every weight on a manifold, (1,) float64, or None where there is none."""
    worst = [
        residual(weight, weight.manifold).max()  # type: ignore[attr-defined]
        for weight in module.parameters()
        if hasattr(weight, "manifold")
    ]
    return torch.stack([value.double().cpu() for value in worst]).max()[None] if worst else None
