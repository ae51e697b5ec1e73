"""The networks: what they compute, and what a wrong input meets."""

import numpy as np
import pytest
import torch

from sslmanifold.constraints import make_constraint
from sslmanifold.errors import UserError
from sslmanifold.models import DeepLinear, Head, TwoLayer

ACTIVATIONS = {
    "linear": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("replicas", [1, 3])
def test_two_layers_against_numpy(activation: str, replicas: int) -> None:
    spec = TwoLayer(hidden=9, embedding=2, activation=activation)  # type: ignore[arg-type]
    network = spec.build(5, make_constraint("orthogonal"), generators(replicas), torch.float64)
    x = np.random.default_rng(0).normal(size=(7, 5))
    for replica in range(replicas):
        w1, w2 = (w[replica].detach().numpy() for w in network.weights)
        expected = ACTIVATIONS[activation](x @ w1.T) @ w2
        np.testing.assert_allclose(network(torch.from_numpy(x))[replica].detach(), expected, atol=1e-13)
    embedded = network.embed(x)
    assert embedded.shape == ((7, 2) if replicas == 1 else (replicas, 7, 2))
    assert network(torch.zeros(3, 4, 5, dtype=torch.float64)).shape == (replicas, 3, 4, 2)


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_a_deep_linear_network_is_its_map(layers: int) -> None:
    network = DeepLinear(hidden=8, embedding=2, layers=layers).build(
        5, make_constraint("orthogonal"), generators(2), torch.float64
    )
    assert len(network.weights) == layers
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(x), x @ network.map(), rtol=0, atol=1e-13)
    w1, *inner, last = (w[0].detach().numpy() for w in network.weights)
    expected = x.numpy() @ w1.T
    for weight in inner:
        expected = expected @ weight.T
    np.testing.assert_allclose(network(x)[0].detach(), expected @ last, atol=1e-13)


@pytest.mark.parametrize("layers", [2, 4])
def test_it_embeds_by_its_map_where_that_is_cheaper(layers: int) -> None:
    network = DeepLinear(hidden=8, embedding=2, layers=layers).build(
        5, make_constraint("orthogonal"), generators(2), torch.float64
    )
    for n in (1, 500):
        x = torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        hidden = x
        for weight in network.weights[:-1]:
            hidden = hidden @ weight.detach().mT
        torch.testing.assert_close(network(x), hidden @ network.weights[-1].detach(), rtol=0, atol=1e-12)
        assert network._map_first(n) == (n == 500)


@pytest.mark.parametrize("name", ["orthogonal", "none"])
def test_a_head_against_numpy(name: str) -> None:
    network = Head(embedding=2).build(5, make_constraint(name), generators(3), torch.float64)
    (weight,) = network.weights
    assert weight.shape == (3, 5, 2)
    x = np.random.default_rng(0).normal(size=(7, 5))
    expected = np.einsum("nd,sdz->snz", x, weight.detach().numpy())
    np.testing.assert_allclose(network(torch.from_numpy(x)).detach(), expected, atol=1e-13)
    assert network(torch.zeros(3, 4, 5, dtype=torch.float64)).shape == (3, 3, 4, 2)
    assert (network.shape.layers, network.shape.hidden, network.shape.rank) == (1, None, 2)


def test_the_map_of_a_head_is_a_copy_that_differentiates() -> None:
    network = Head().build(5, make_constraint("none"), generators(1), torch.float64)
    m = network.map()
    m.square().sum().backward()
    torch.testing.assert_close(network.weights[0].grad, 2 * network.weights[0].detach(), check_dtype=True)
    before = m.detach().clone()
    with torch.no_grad():
        network.weights[0].zero_()
    assert torch.equal(m, before)


def test_auto_width() -> None:
    assert TwoLayer().shape(64).hidden == 128
    assert TwoLayer(embedding=5).shape(784).hidden == 789


def test_embed_refuses_other_features() -> None:
    network = TwoLayer(hidden=9).build(5, make_constraint("none"), generators(1))
    with pytest.raises(UserError, match=r"inputs have 4 features, this model was trained on 5"):
        network.embed(np.zeros((2, 4)))
    assert network.embed([0.0, 0.0, 0.0, 0.0, 0.0]).shape == (2,)
