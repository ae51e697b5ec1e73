"""Constraints on the weights, one file each: geometry and theory of none, norm balls and orthogonality."""

from sslmanifold.constraints.base import Constraint, NetworkShape
from sslmanifold.constraints.constrain import constrain, describe, release
from sslmanifold.constraints.frobenius import Frobenius
from sslmanifold.constraints.none import Unconstrained
from sslmanifold.constraints.operator_norm import OperatorNorm
from sslmanifold.constraints.orthogonal import Orthogonal
from sslmanifold.constraints.product import Product
from sslmanifold.constraints.registry import available_constraints, make_constraint
from sslmanifold.constraints.scaled import Scaled

__all__ = [
    "Constraint",
    "Frobenius",
    "NetworkShape",
    "OperatorNorm",
    "Orthogonal",
    "Product",
    "Scaled",
    "Unconstrained",
    "available_constraints",
    "constrain",
    "describe",
    "make_constraint",
    "release",
]
