"""Exact learning dynamics of self-supervised linear models: equation → function. torch, NumPy and SciPy only."""

from sslmanifold.theory.deep_linear import DeepLinearFlow
from sslmanifold.theory.flow import Flow, FlowBlowUp
from sslmanifold.theory.flows import orthogonal_flow
from sslmanifold.theory.limits import (
    default_step,
    largest_stable_step,
    limit_rank,
    limit_subspace,
    optimum,
    rates,
    steps_to_tolerance,
    time_to_tolerance,
)
from sslmanifold.theory.moments import MomentAccumulator, cross_moment, eigenbasis
from sslmanifold.theory.orthogonal import OrthogonalFlow
from sslmanifold.theory.solve import solve
from sslmanifold.theory.state import FrameState, GramState, State, gram_state
from sslmanifold.theory.trajectory import Trajectory

__all__ = [
    "DeepLinearFlow",
    "Flow",
    "FlowBlowUp",
    "FrameState",
    "GramState",
    "MomentAccumulator",
    "OrthogonalFlow",
    "State",
    "Trajectory",
    "cross_moment",
    "default_step",
    "eigenbasis",
    "gram_state",
    "largest_stable_step",
    "limit_rank",
    "limit_subspace",
    "optimum",
    "orthogonal_flow",
    "rates",
    "solve",
    "steps_to_tolerance",
    "time_to_tolerance",
]
