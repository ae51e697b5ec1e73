"""Models: networks of constrained weights with leading replicas."""

from sslmanifold.models.deep_linear import DeepLinear
from sslmanifold.models.encoder import Encoder
from sslmanifold.models.head import Head
from sslmanifold.models.linear_map import LinearMap
from sslmanifold.models.network import ConstrainedNetwork
from sslmanifold.models.preprocessing import Affine
from sslmanifold.models.two_layer import TwoLayer

__all__ = ["Affine", "ConstrainedNetwork", "DeepLinear", "Encoder", "Head", "LinearMap", "TwoLayer"]
