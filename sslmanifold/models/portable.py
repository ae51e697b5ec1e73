"""The embedding as plain torch operations: what is left of a network without manifolds and without this package."""

import torch
from torch import Tensor, nn

from sslmanifold.models.activation import ACTIVATIONS
from sslmanifold.models.linear_map import LinearMap
from sslmanifold.models.network import ConstrainedNetwork


class PortableEmbedding(nn.Module):
    """Raw inputs (n, d_raw) → embeddings (n, z), or (S, n, z) with S > 1 replicas, in the weights' dtype.

    The arithmetic of ``ConstrainedNetwork.embed`` step by step: centring, scaling and PCA in float64, then the layers.
    """

    mean: Tensor | None
    components: Tensor | None
    scale: Tensor | None

    def __init__(self, network: ConstrainedNetwork | LinearMap) -> None:
        super().__init__()
        for name in ("mean", "components", "scale"):
            value = getattr(network.preprocessing, name)
            # constants, but parameters for torch.export, which miscounts a module that has buffers alone
            fixed = (
                None if value is None else nn.Parameter(value.detach().double().clone(), requires_grad=False)
            )
            self.register_parameter(name, fixed)
        if isinstance(network, LinearMap) or len(network.weights) == 1:  # a head is its map
            m = network.map().detach().clone().cpu()
            self.register_parameter(
                "map", nn.Parameter(m[0] if network.replicas == 1 else m, requires_grad=False)
            )
            self.layers, self.activation = 0, "linear"
            return
        weights = [weight.detach().as_subclass(Tensor).clone().cpu() for weight in network.weights]
        if network.replicas == 1:
            weights = [weight[0] for weight in weights]
        for index, weight in enumerate(weights):
            self.register_parameter(f"w{index + 1}", nn.Parameter(weight, requires_grad=False))
        self.layers = len(weights)
        self.activation = network.activation

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float64)
        if self.mean is not None:
            x = x - self.mean
        if self.scale is not None:
            x = x / self.scale
        if self.components is not None:
            x = x @ self.components
        if self.layers == 0:
            return x.to(self.get_parameter("map").dtype) @ self.get_parameter("map")  # (n, d) @ (…, d, z)
        weights = [self.get_parameter(f"w{index + 1}") for index in range(self.layers)]
        hidden = ACTIVATIONS[self.activation](x.to(weights[0].dtype) @ weights[0].mT)  # (n, d) @ (…, d, h)
        for weight in weights[1:-1]:
            hidden = hidden @ weight.mT  # (…, n, h) @ (h, h)
        return hidden @ weights[-1]  # (…, n, h) @ (h, z)
