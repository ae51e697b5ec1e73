"""What a measurement may read: the state of a training after one optimizer step, as values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Supplied = Tensor | Callable[[], Tensor | None] | None


class Snapshot:
    """The state after ``step`` optimizer steps. Frozen; a value given as a function is computed once, when read.

    Attributes:
        step: optimizer steps done.
        time: t = Σ lr, the time of the flows in :mod:`sslmanifold.theory`.
        previous: the step of the measurement before this one, None for the first.
        embedding: U (S, n, z), float64 on the CPU: S replicas, the same n points each.
        views: q ≥ 2 views of each of n samples, (S, n, q, z), or None where samples have one view.
        map: m = W1ᵀ … W_L (S, d, z) of a chain of weights, or None.
        linear: whether u(x) = mᵀx.
        loss: the objective as differentiated, (S,), or None.
        weights: the constrained weights, (S, rows, columns) each.
        residual: how far they are from feasible, worst layer, (S,), or None where nothing is constrained.
        embed: prepared inputs (n, d) → (S, n, z), or None where there is no such function.
    """

    __slots__ = ("_values", "embed", "linear", "previous", "step", "time", "weights")

    step: int
    time: float
    previous: int | None
    weights: tuple[Tensor, ...]
    _values: dict[str, Any]
    linear: bool
    embed: Callable[[Tensor], Tensor] | None

    def __init__(
        self,
        *,
        step: int,
        embedding: Tensor | Callable[[], Tensor],
        time: float = 0.0,
        previous: int | None = None,
        views: Supplied = None,
        map: Supplied = None,
        linear: bool = False,
        loss: Supplied = None,
        weights: Sequence[Tensor] = (),
        residual: Supplied = None,
        embed: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "step", step)
        put(self, "time", time)
        put(self, "previous", previous)
        put(self, "weights", tuple(weights))
        put(self, "linear", linear)
        put(self, "embed", embed)
        supplied = {"embedding": embedding, "views": views, "map": map, "loss": loss, "residual": residual}
        put(self, "_values", supplied)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Snapshot is frozen: {name} cannot be set; build another one")

    def _read(self, name: str) -> Any:
        value = self._values[name]
        if callable(value) and not isinstance(value, Tensor):
            value = self._values[name] = value()
        return value

    @property
    def embedding(self) -> Tensor:
        return self._read("embedding")

    @property
    def views(self) -> Tensor | None:
        return self._read("views")

    @property
    def map(self) -> Tensor | None:
        return self._read("map")

    @property
    def loss(self) -> Tensor | None:
        return self._read("loss")

    @property
    def residual(self) -> Tensor | None:
        return self._read("residual")
