"""The time of the flow that a training follows, before anything is trained: t = Σ lr over its steps."""

import math
from itertools import accumulate

from sslmanifold.callbacks.effective_step import EffectiveStep
from sslmanifold.errors import notice
from sslmanifold.training.experiment import Experiment
from sslmanifold.training.learning_rate import curvature_rate, moment_rate


def time_of_training(experiment: Experiment) -> float:
    """Σ lr over the steps of the training, with momentum Σ lr·w; Adam has no time, gradient steps stand in for it."""
    factors = [experiment.schedule(step) for step in range(experiment.steps)]
    if experiment.adaptive:
        lr = _gradient_rate(experiment)
        notice(
            f"time=auto: the steps of {experiment.optimizer_class.__name__} have no time, lr={lr:.3g} stands in"
        )
        return lr * math.fsum(factors)
    if experiment.flags.gradient_clip_val:
        notice("time=auto: which steps training would clip is not known in advance; Σ lr stands in")
    elif experiment.optimizer_options.get("momentum"):
        return math.fsum(_momentum_steps(experiment, factors))
    return experiment.learning_rate * math.fsum(factors)


def step_at(experiment: Experiment, time: float) -> int | None:
    """How many steps of the training take the flow to this time or past it.

    None where its schedule never gets there (a rate that has come down to 0).
    """
    if time <= 0:
        return 0
    if experiment.adaptive or experiment.flags.gradient_clip_val:
        momentum, lr = False, _gradient_rate(experiment) if experiment.adaptive else experiment.learning_rate
    else:
        momentum, lr = bool(experiment.optimizer_options.get("momentum")), experiment.learning_rate
    count = max(experiment.steps, 1)
    factors = [experiment.schedule(step) for step in range(count)]
    steps = _momentum_steps(experiment, factors) if momentum else [lr * factor for factor in factors]
    for index, reached in enumerate(accumulate(steps)):
        if reached >= time * (1 - 1e-12):
            return index + 1
    # beyond its own end the schedule stays where it is
    last = steps[-1] / factors[-1] * experiment.schedule(count) if factors[-1] > 0 else 0.0
    return count + math.ceil((time - math.fsum(steps)) / last) if last > 0 else None


def _gradient_rate(experiment: Experiment) -> float:
    """What gradient steps on the same loss would take for lr."""
    if experiment.moment is not None:
        return moment_rate(experiment.moment, experiment.constraint).value
    return curvature_rate(experiment.module, experiment.datamodule).value


def _momentum_steps(experiment: Experiment, factors: list[float]) -> list[float]:
    """lr·w_k of each step, w_k the weight of a momentum buffer."""
    optimizer = experiment.module.build_optimizer(experiment.module.network.weights)
    step = EffectiveStep()
    return [float(step(optimizer, experiment.learning_rate * factor)) for factor in factors]
