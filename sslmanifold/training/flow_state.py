"""States of a flow as plain containers: what a checkpoint may hold without naming a class."""

from typing import Any

from torch import Tensor


def pack(state: Any) -> Any:
    """The tensors and numbers of a state, (nested) named tuples as lists."""
    if isinstance(state, tuple | list):
        return [pack(part) for part in state]
    return state.detach().clone() if isinstance(state, Tensor) else state


def unpack(packed: Any, like: Any) -> Any:
    """The state that was packed, rebuilt in the types of ``like``, any state of the same flow.

    Tensors and numbers may differ from ``like``'s in value and shape, tuples may not in their nesting.
    """
    if isinstance(like, tuple):
        # a plain tuple is a row of parts of one kind, a named one has its fields
        parts = [unpack(part, template) for part, template in zip(packed, like, strict=True)]
        return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)
    return packed
