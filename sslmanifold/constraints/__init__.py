"""Constraints on the weights, one file each: geometry and theory of none, norm balls and orthogonality."""

from sslmanifold.constraints.base import Constraint
from sslmanifold.constraints.registry import available_constraints, make_constraint
from sslmanifold.constraints.shape import NetworkShape

__all__ = ["Constraint", "NetworkShape", "available_constraints", "make_constraint"]
