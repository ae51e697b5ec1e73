"""C = V Λ Vᵀ, found once for each matrix: a run asks for it from its learning rate, optimum, limit and flow."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class _Known(NamedTuple):
    """What has been found of a matrix, and which contents of it that was."""

    version: int
    values: Tensor | None = None
    basis: tuple[Tensor, Tensor] | None = None


# By identity, and gone with the matrix. Values and basis come from two routines of LAPACK whose last digits differ:
# kept apart, no result depends on which was asked for first.
_found: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def eigenvalues(moment: Tensor) -> Tensor:
    """Λ (…, d) ascending, float64, of symmetric C (…, d, d); not to be written into: the next caller gets the same."""
    known = _known(moment)
    if known.values is None:
        known = known._replace(values=torch.linalg.eigvalsh(moment.to(torch.float64)))
        _keep(moment, known)
    assert known.values is not None
    return known.values


def eigenbasis(moment: Tensor) -> tuple[Tensor, Tensor]:
    """C = V Λ Vᵀ: (…, d, d) symmetric -> eigenvalues (…, d) ascending and V (…, d, d), both float64.

    Not to be written into: the next caller gets the same.
    """
    known = _known(moment)
    if known.basis is None:
        values, vectors = torch.linalg.eigh(moment.to(torch.float64))
        known = known._replace(basis=(values, vectors))
        _keep(moment, known)
    assert known.basis is not None
    return known.basis


def _known(moment: Tensor) -> _Known:
    version = _version(moment)
    known = _found.get(moment)
    return known if known is not None and known.version == version else _Known(version)


def _keep(moment: Tensor, known: _Known) -> None:
    if known.version >= 0 and not moment.requires_grad:  # a graph belongs to one backward pass
        _found[moment] = known


def _version(moment: Tensor) -> int:
    """Counts the writes into a tensor; −1 for those made in inference mode, which do not count them."""
    return -1 if moment.is_inference() else moment._version
