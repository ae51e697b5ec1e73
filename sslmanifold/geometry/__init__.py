"""Manifolds, retractions and Riemannian optimizers, inside geoopt's interfaces."""

from sslmanifold.geometry._geoopt import SUPPORTED_GEOOPT
from sslmanifold.geometry.adam import RiemannianAdam
from sslmanifold.geometry.balls import FrobeniusBall, SpectralBall
from sslmanifold.geometry.feasibility import assert_feasible, residual
from sslmanifold.geometry.flattened import Flattened
from sslmanifold.geometry.haar import haar
from sslmanifold.geometry.level import lower_to_level
from sslmanifold.geometry.parameter import ManifoldAveragedModel, ManifoldParameter, project_
from sslmanifold.geometry.precision import feasibility_tolerance
from sslmanifold.geometry.require import is_riemannian, require_riemannian
from sslmanifold.geometry.sgd import RiemannianSGD
from sslmanifold.geometry.singular import top_singular
from sslmanifold.geometry.stiefel import Stiefel

__all__ = [
    "SUPPORTED_GEOOPT",
    "Flattened",
    "FrobeniusBall",
    "ManifoldAveragedModel",
    "ManifoldParameter",
    "RiemannianAdam",
    "RiemannianSGD",
    "SpectralBall",
    "Stiefel",
    "assert_feasible",
    "feasibility_tolerance",
    "haar",
    "is_riemannian",
    "lower_to_level",
    "project_",
    "require_riemannian",
    "residual",
    "top_singular",
]
