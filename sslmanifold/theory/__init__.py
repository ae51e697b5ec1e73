"""Exact learning dynamics of self-supervised linear models, equation by function. torch, NumPy and SciPy only."""

from sslmanifold.theory.any_loss import solve_loss
from sslmanifold.theory.arrival import steps_to_tolerance, time_to_tolerance
from sslmanifold.theory.dimensional_collapse import contrast_matrix, layer_balance
from sslmanifold.theory.flows.base import Flow, FlowBlowUp
from sslmanifold.theory.flows.deep_linear import DeepLinearFlow
from sslmanifold.theory.flows.free import FreeFlow, blow_up_time
from sslmanifold.theory.flows.frobenius import FrobeniusFlow, FrobeniusScaledFlow
from sslmanifold.theory.flows.operator_norm import OperatorNormFlow
from sslmanifold.theory.flows.orthogonal import OrthogonalFlow
from sslmanifold.theory.flows.product import ProductFlow, project_product
from sslmanifold.theory.flows.scaled import ScaledFlow
from sslmanifold.theory.frame import FrameState
from sslmanifold.theory.gradient import LossGradient, SampleLoss
from sslmanifold.theory.kernels import empirical_ntk, kernel_dynamics, linear_dynamics
from sslmanifold.theory.limits import (
    default_step,
    frobenius_optimum,
    largest_stable_head_step,
    largest_stable_step,
    limit_rank,
    limit_subspace,
    operator_norm_optimum,
    optimum,
    rates,
)
from sslmanifold.theory.linearity import linearity_gap, linearity_scan
from sslmanifold.theory.moment_spectrum import eigenbasis, eigenvalues
from sslmanifold.theory.moments import MomentAccumulator, cross_moment
from sslmanifold.theory.operator import MomentOperator
from sslmanifold.theory.siamese import SiameseTrajectory, solve_siamese, view_moments
from sslmanifold.theory.siamese_modes import SiameseModes, direct_predictor, solve_siamese_modes
from sslmanifold.theory.solve import solve
from sslmanifold.theory.state import GramState, State, gram_state
from sslmanifold.theory.stepwise import (
    StepwiseTrajectory,
    kernel_correlation,
    pair_correlation,
    solve_stepwise,
)
from sslmanifold.theory.trajectory import Solution, Trajectory
from sslmanifold.theory.velocities import loss_velocity, orthogonal_flow

__all__ = [
    "DeepLinearFlow",
    "Flow",
    "FlowBlowUp",
    "FrameState",
    "FreeFlow",
    "FrobeniusFlow",
    "FrobeniusScaledFlow",
    "GramState",
    "LossGradient",
    "MomentAccumulator",
    "MomentOperator",
    "OperatorNormFlow",
    "OrthogonalFlow",
    "ProductFlow",
    "SampleLoss",
    "ScaledFlow",
    "SiameseModes",
    "SiameseTrajectory",
    "Solution",
    "State",
    "StepwiseTrajectory",
    "Trajectory",
    "blow_up_time",
    "contrast_matrix",
    "cross_moment",
    "default_step",
    "direct_predictor",
    "eigenbasis",
    "eigenvalues",
    "empirical_ntk",
    "frobenius_optimum",
    "gram_state",
    "kernel_correlation",
    "kernel_dynamics",
    "largest_stable_head_step",
    "largest_stable_step",
    "layer_balance",
    "limit_rank",
    "limit_subspace",
    "linear_dynamics",
    "linearity_gap",
    "linearity_scan",
    "loss_velocity",
    "operator_norm_optimum",
    "optimum",
    "orthogonal_flow",
    "pair_correlation",
    "project_product",
    "rates",
    "solve",
    "solve_loss",
    "solve_siamese",
    "solve_siamese_modes",
    "solve_stepwise",
    "steps_to_tolerance",
    "time_to_tolerance",
    "view_moments",
]
