"""Embeddings at one place of anybody's module: what makes a measurement possible that knows nothing of it."""

from __future__ import annotations

import difflib
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from sslmanifold.errors import UserError

Place = str | Callable[[Any, Any], Tensor]


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no graph, and neither buffers nor random generators moved: training goes on as without it."""
    training = {name: part.training for name, part in module.named_modules()}
    # a data set's transforms may draw from these
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one
    devices = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})  # type: ignore[type-var]
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for name, part in module.named_modules():
            part.training = training.get(name, part.training)


def submodule(module: nn.Module, name: str, key: str) -> nn.Module:
    """The submodule of that dotted name.

    Raises:
        UserError: where there is none, naming the nearest.
    """
    names = [each for each, _ in module.named_modules() if each]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or [n for n in names if "." not in n]
        raise UserError(
            f"{key}={name!r}: {type(module).__name__} has no submodule of this name: choose e.g. "
            f"{', '.join(near[:8])}, or pass a function of (module, batch)"
        )
    return module.get_submodule(name)


class Tap:
    """The outputs (n, z) of a submodule, or of a function, over the last training samples.

    A submodule called several times a step, once a view, gives all its outputs; if they are of one size they are
    views of the same samples (for LiDAR). A function of (module, batch) is called after the step in evaluation
    mode, and only on the batches that the next measurement needs; it gives (n, z), or (n, q, z) for q views.

    The queue belongs to this object. Nothing of the module is rebound, and the hook is gone after training.

    Args:
        on: dotted name of a submodule, or a function.
        samples: how many rows the queue keeps, exactly, the newest; on each process of a distributed run.
    """

    def __init__(self, on: Place, samples: int = 2048) -> None:
        self.on, self.samples = on, samples
        self._batches: deque[list[Tensor]] = deque()  # per batch, one (n, z) a view
        self._count = 0
        self._armed = False
        self._handle: Any = None

    @property
    def name(self) -> str:
        """For keys and messages."""
        return self.on if isinstance(self.on, str) else getattr(self.on, "__name__", "function").strip("<>")

    def attach(self, module: nn.Module) -> None:
        """Start listening; a function needs no hook."""
        if isinstance(self.on, str) and self._handle is None:
            self._handle = submodule(module, self.on, "on").register_forward_hook(self._hear)

    def detach(self) -> None:
        """Stop listening; what was heard stays."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def open_batch(self) -> None:
        """A training step begins: validation and other forward passes are not heard."""
        self._armed = True
        self._batches.append([])

    def close_batch(self, module: nn.Module, batch: Any, steps_to_measure: int) -> None:
        """A training step is over; a function is called if this batch will be among the last samples."""
        self._armed = False
        newest = self._batches[-1]
        if callable(self.on) and not isinstance(self.on, str):
            rows = sum(len(view) for view in self._batches[-2]) if len(self._batches) > 1 else 0
            if steps_to_measure * rows < self.samples:
                with untouched(module):
                    output = self.on(module, batch)
                newest += self._views(output)
        self._count += sum(len(view) for view in newest)
        if not newest:
            self._batches.pop()
        while self._batches and self._count - sum(len(v) for v in self._batches[0]) >= self.samples:
            self._count -= sum(len(view) for view in self._batches.popleft())

    def _hear(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._armed:
            self._batches[-1] += self._views(output)

    def _views(self, output: Any) -> list[Tensor]:
        function = callable(self.on) and not isinstance(self.on, str)
        if not isinstance(output, Tensor) or output.ndim not in ((2, 3) if function else (2,)):
            what = f"of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"on={self.name!r} gives {what}, an embedding is (n, z): name a layer after pooling, or pass a "
                "function, on=lambda module, batch: module.backbone(batch[0]).flatten(1)"
            )
        output = output.detach()
        return list(output.clone().unbind(1)) if output.ndim == 3 else [output.clone()]

    @property
    def heard(self) -> bool:
        """Whether there is anything to measure."""
        return self._count > 0

    def embedding(self) -> Tensor:
        """The last ``samples`` rows of every process, (1, n, z), float64 on the CPU."""
        rows = torch.cat([view for batch in self._batches for view in batch])[-self.samples :]
        return _over_processes(rows)[None]

    def views(self) -> Tensor | None:
        """The samples of which every batch had q ≥ 2 views of one size, (1, n, q, z), or None."""
        counts = {len(batch) for batch in self._batches}
        if len(counts) != 1 or counts == {1}:
            return None
        if any(len({len(view) for view in batch}) != 1 for batch in self._batches):
            return None
        return _over_processes(torch.cat([torch.stack(batch, 1) for batch in self._batches]))[None]


def _over_processes(rows: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rows = torch.cat(gather_all_tensors(rows.contiguous()))
    return rows.double().cpu()
