"""What is probed: the run's embedding, and the baselines it is measured against, on the same points."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from sslmanifold.models import ConstrainedNetwork, LinearMap
from sslmanifold.models.encoder import EncoderNetwork
from sslmanifold.probes.labelled import Labelled, LabelledImages
from sslmanifold.runs import Run

BASELINES = ("ode", "pca", "random", "raw")
WHITENED = 100  # principal components of pixels, beside image encoders


@dataclass(frozen=True)
class Embedding:
    """Embedded train and test points, (S, n, k) and (S, n_test, k) float64; S = 1 where nothing is random."""

    name: str
    train: np.ndarray
    test: np.ndarray

    @property
    def dim(self) -> int:
        """k."""
        return self.train.shape[-1]


@torch.no_grad()
def embed_exactly(network: ConstrainedNetwork | LinearMap, x: Tensor) -> Tensor:
    """The network's embedding of prepared inputs, computed in float64 from its weights: (n, d) → (S, n, z).

    A diverged float32 run overflows in its own precision long before its weights do.
    """
    weights = {
        name: value.detach().as_subclass(Tensor).double() for name, value in network.named_parameters()
    }
    return functional_call(network, weights, (x.double(),))


def _apply(name: str, data: Labelled, embed: Callable[[Tensor], Tensor]) -> Embedding:
    train, test = embed(data.train_x), embed(data.test_x)
    if train.ndim == 2:
        train, test = train.unsqueeze(0), test.unsqueeze(0)  # (n, k) -> (1, n, k)
    return Embedding(name, train.numpy(), test.numpy())


def run_embedding(run: Run, data: Labelled) -> Embedding:
    """The run's own; of an image encoder the features of its backbone."""
    network: Any = run.model
    if isinstance(data, LabelledImages):
        return encoded("run", network, data)
    return _apply("run", data, lambda x: embed_exactly(run.model, x))


def raw_input(data: Labelled) -> Embedding:
    """The input itself, (n, d): what there is to know."""
    return _apply("raw", data, lambda x: x)


def encoded(name: str, network: EncoderNetwork, data: LabelledImages) -> Embedding:
    """The features of an image encoder, without augmentation."""
    train, test = (
        network.embed(x).double().cpu()[None].numpy() for x in (data.train_images, data.test_images)
    )
    return Embedding(name, train, test)


def whitened_components(data: Labelled, components: int = WHITENED) -> Embedding:
    """Principal components of the pixels, each of variance 1: what an image encoder has to pass."""
    from sklearn.decomposition import PCA

    count = min(components, *data.train_x.shape)
    pca = PCA(count, whiten=True, svd_solver="covariance_eigh").fit(data.train_x.numpy())
    return _apply("pca", data, lambda x: torch.from_numpy(pca.transform(x.numpy())))


def untrained(run: Run, data: LabelledImages) -> Embedding:
    """The features of the run's own encoder before its first step."""
    from sslmanifold.training.encoder_experiment import EncoderExperiment

    unwatched = {"callbacks": None, "checkpoint": None, "logger": {"_target_": "sslmanifold.loggers.CSVOnly"}}
    network = EncoderExperiment(run.config | unwatched, run.opened).module.network
    return encoded("random", network.eval(), data)


def principal_components(data: Labelled, components: int) -> Embedding:
    """The first z principal components of the training points; fewer where there are not so many."""
    from sklearn.decomposition import PCA

    count = min(components, *data.train_x.shape)
    pca = PCA(count, svd_solver="full").fit(data.train_x.numpy())
    return _apply("pca", data, lambda x: torch.from_numpy(pca.transform(x.numpy())))


def random_orthogonal(data: Labelled, components: int, seed: int) -> Embedding:
    """A Haar-random orthogonal projection onto z dimensions: what no training at all gives."""
    from sslmanifold.geometry import haar

    dim = data.train_x.shape[1]
    generator = torch.Generator().manual_seed(seed)
    q = haar(max(dim, components), min(dim, components), generator=generator, dtype=torch.float64)
    q = q if dim >= components else q.mT
    return _apply("random", data, lambda x: x @ q)


def ode_embedding(run: Run, data: Labelled) -> tuple[Embedding | None, str]:
    """The embedding of the constraint's exact flow at the run's own time t = Σ lr, from its initial weights.

    Returns:
        The embedding and "", or None and why there is none.
    """
    from sslmanifold.geometry import RiemannianSGD
    from sslmanifold.models.restore import read_checkpoint
    from sslmanifold.theory.flows.base import FlowBlowUp
    from sslmanifold.training.experiment import Experiment

    if isinstance(run.model, LinearMap):
        return None, "this run is the exact dynamics"
    # what watches and logs a training has no part in its flow, and is not built
    unwatched = {"callbacks": None, "checkpoint": None, "logger": {"_target_": "sslmanifold.loggers.CSVOnly"}}
    experiment = Experiment(run.config | unwatched, run.opened)
    if experiment.moment is None:
        return None, "this loss, or data of this size, has no C"
    flow = experiment.constraint.flow(experiment.moment.double(), experiment.module.network.shape)
    if flow is None:
        return None, f"constraint={experiment.constraint.name} has no flow for this model"
    momentum = experiment.optimizer_options.get("momentum", 0)
    if experiment.optimizer_class is not RiemannianSGD or momentum:
        name = experiment.optimizer_class.__name__
        return None, f"its time is Σ lr of plain gradient descent, not of {name} with momentum={momentum:g}"
    flags = experiment.flags
    if flags.gradient_clip_val and (
        flags.gradient_clip_algorithm == "value" or experiment.options["replicas"] > 1
    ):
        return None, "its steps are clipped, so that no one time t is that of all its weights"
    time = read_checkpoint(run.checkpoint)["sslmanifold"]["time"]
    state = flow.start(*(weight.detach().double().cpu() for weight in experiment.module.network.weights))
    try:
        m = flow.advance(state, time).m
    except FlowBlowUp as blow_up:
        return None, str(blow_up)
    return _apply("ode", data, lambda x: x @ m), ""
