"""Everything one training run is made of, built and checked before anything is trained."""

import inspect
from typing import Any

import numpy as np
import torch

from sslmanifold.config.check import build, build_group, validated
from sslmanifold.config.targets import Opened
from sslmanifold.constraints import Constraint, Unconstrained
from sslmanifold.data import PairDataModule
from sslmanifold.errors import UserError
from sslmanifold.loggers.base import RunLogger
from sslmanifold.losses.own import completed, require_loss
from sslmanifold.models import Affine
from sslmanifold.runs.keys import OPTIMUM
from sslmanifold.theory.moment_product import LARGEST_MOMENT
from sslmanifold.training.checkpointing import Checkpointing
from sslmanifold.training.clipping import require_flat
from sslmanifold.training.learning_rate import AutomaticRate, adaptive_rate, curvature_rate, moment_rate
from sslmanifold.training.lightning_callbacks import accumulated_batches, build_callbacks
from sslmanifold.training.module import SSLModule
from sslmanifold.training.options import optimizer_options, run_options
from sslmanifold.training.trainer_flags import TrainerFlags

GROUPS = (
    "data",
    "augment",
    "model",
    "loss",
    "constraint",
    "optimizer",
    "scheduler",
    "trainer",
    "callbacks",
    "checkpoint",
    "logger",
)


class Experiment:
    """Everything one run is made of, built and checked before anything is written or trained.

    Args:
        config: the resolved configuration as plain containers (the groups of ``conf/`` and the top-level keys).
        opened: the run folder that the configuration was read from, None where the user typed it: see ``build_group``.

    Raises:
        UserError: for every mistake that can be known before training.
    """

    steps: int
    batch_size: int | None

    def __init__(self, config: dict[str, Any], opened: Opened | None = None) -> None:
        self.config = config
        top = {key: value for key, value in config.items() if key not in GROUPS}
        self.options = run_options(**validated(run_options, top, ""))
        torch.set_num_threads(self.options["threads"])
        self.flags: TrainerFlags = build(TrainerFlags, config["trainer"], "trainer")
        self.dtype = self.flags.dtype

        data = build_group(config.get("data"), "data", opened)
        spec = build_group(config.get("model"), "model", opened)
        if config.get("augment"):
            raise UserError(
                "augment= draws the views of images for model=encoder; the other models draw x⁺ = x + noise: leave it "
                "out, and set data.positive_variance"
            )
        self.loss = completed(build_group(config.get("loss"), "loss", opened))
        self.constraint: Constraint = build_group(config.get("constraint"), "constraint", opened)
        schedule = build_group(config.get("scheduler"), "scheduler", opened)
        self.factor = schedule.factor  # of a step, in a run of so many
        self.schedule = lambda step: schedule.factor(step, self.steps)
        self.logger: RunLogger = build_group(config.get("logger"), "logger", opened)
        self.named_callbacks = build_callbacks(config.get("callbacks") or {}, self.flags, opened)
        self.accumulate = accumulated_batches(self.flags, self.named_callbacks)
        self.callbacks = list(self.named_callbacks.values())
        checkpoint = config.get("checkpoint")
        self.checkpointing = build_group(checkpoint, "checkpoint", opened) if checkpoint else Checkpointing()
        self.optimizer_class, self.optimizer_options, lr = optimizer_options(config["optimizer"], opened)
        self.adaptive = "betas" in inspect.signature(self.optimizer_class).parameters  # Adam and its kin

        self.datamodule = PairDataModule(
            data,
            seed=self.options["seed"],
            steps=0,
            contrastive=self.loss.contrastive,
            reduction=self.loss.reduction,
            dtype=self.dtype,
        )
        self.datamodule.limit = lambda n: self.flags.samples(n, data.batch_size)
        self.datamodule.setup()
        self._plan_steps()
        self.full_batch = self.batch_size is None and data.resample == "never"
        require_loss(self.loss, anchors=self._fewest(), positives=data.positives, negatives=data.negatives)
        self.constraint.check(spec.shape(self.datamodule.dim, self.constraint))
        self.moment = self._moment()
        self.linear = spec.activation == "linear"
        self.through_moment = self._through_moment()
        self.datamodule.without_samples = self.through_moment
        self.module = self._module(spec)
        if self.flags.gradient_clip_val and self.flags.gradient_clip_algorithm == "value":
            require_flat(list(self.module.network.weights), self.flags.gradient_clip_val)
        rate = AutomaticRate(lr, "") if lr is not None else self._automatic_learning_rate()
        self.learning_rate, self.learning_rate_rule = rate
        self.notices = self._notices(spec)
        self.names = self._names()

    # -- building ---------------------------------------------------------------------------------------

    def _plan_steps(self) -> None:
        """How many optimizer steps there will be, and of how many batches each."""
        stream = self.datamodule.train_dataloader()
        self.batch_size = stream.batch_size  # None for full batches, also where data.batch_size is n
        per_pass = self.flags.batches_per_pass(stream.steps_per_pass)
        self.steps = self.flags.steps(per_pass, self.accumulate)
        self.least_steps = self.flags.least_steps(per_pass, self.accumulate)
        self.datamodule.steps = self.steps * self.accumulate
        self.datamodule.batches_per_pass = per_pass

    def _fewest(self) -> int:
        """Anchors of the smallest batch that will be seen: the last of a pass, unless it is left out."""
        n, size, used = self.datamodule.n, self.batch_size, self.datamodule.batches_per_pass
        if size is None:
            return n
        return size if used is not None and used <= n // size else n % size or size

    def _moment(self) -> torch.Tensor | None:
        """C as one step differentiates it: with minibatches and sums, b/n of the whole."""
        if not self.loss.quadratic or self.datamodule.dim > LARGEST_MOMENT:
            return None
        moment = self.datamodule.moment()
        if self.batch_size is not None and self.loss.reduction != "mean":
            moment = moment * (self.batch_size / self.datamodule.n)
        return moment

    def _through_moment(self) -> bool:
        able = self.linear and self.full_batch and self.moment is not None
        if self.loss.evaluate == "moment" and not able:
            raise UserError(
                "loss.evaluate=moment needs a linear model, a quadratic loss and frozen full batches: "
                "set model.activation=linear data.batch_size=null data.resample=never, or loss.evaluate=auto"
            )
        return able and self.loss.evaluate != "samples"

    def _automatic_learning_rate(self) -> AutomaticRate:
        """By the optimizer and by what is known of the loss: see :mod:`sslmanifold.training.learning_rate`."""
        if self.adaptive:
            return adaptive_rate(self.module)
        if self.moment is not None:
            return moment_rate(self.moment, self.constraint)
        return curvature_rate(self.module, self.datamodule)

    def _notices(self, spec: Any) -> list[str]:
        """What was chosen for this run in another way than for most, one line each."""
        shape, found = self.module.network.shape, []
        usual = Unconstrained().width(shape.dim, shape.embedding)
        if getattr(spec, "hidden", None) == "auto" and shape.hidden != usual:
            found.append(
                f"model.hidden=auto: {shape.hidden}, what constraint={self.constraint.name} has room for"
            )
        found += self.constraint.notices(shape)
        if self.learning_rate_rule and (self.moment is None or self.adaptive):
            found.append(f"optimizer.lr=auto: {self.learning_rate:.3g}; {self.learning_rate_rule}")
        return found

    def generators(self) -> list[torch.Generator]:
        """Of initial weights, one stream per (seed, replica): replica 0 of many is the single run of the same seed."""
        streams = np.random.SeedSequence(self.options["seed"]).spawn(self.options["replicas"])
        return [torch.Generator().manual_seed(int(s.generate_state(1, np.uint64)[0] >> 1)) for s in streams]

    def _module(self, spec: Any) -> SSLModule:
        samples = self.datamodule.samples
        network = spec.build(
            self.datamodule.dim,
            self.constraint,
            self.generators(),
            self.dtype,
            Affine(samples.mean, samples.components, samples.scale),
        )
        module = SSLModule(
            network,
            self.loss,
            self.constraint,
            lambda params: self.optimizer_class(params, lr=self.learning_rate, **self.optimizer_options),
            self.schedule,
            samples.train_x,
            self.moment,
            through_moment=self.through_moment,
            full_batch=self.full_batch,
            hyperparameters=self.config,
        )
        return module

    @property
    def labels(self) -> torch.Tensor | None:
        """Of the points on which embeddings are measured."""
        return self.datamodule.samples.train_y

    def effects(self) -> dict[str, str]:
        """Which of Lightning's flags are given and what they do to this run."""
        return self.flags.effects()

    def facts(self) -> dict[str, Any]:
        """What the summary of a run of this experiment says, whether it is trained or solved."""
        shape, samples = self.module.network.shape, self.datamodule.samples
        entries: dict[str, Any] = {**self.names, **{key: self.options[key] for key in ("seed", "replicas")}}
        entries["optimizer/lr"] = self.learning_rate
        if self.learning_rate_rule:
            entries["optimizer/lr_rule"] = self.learning_rate_rule
        entries |= {
            "dim": shape.dim,
            **({} if shape.hidden is None else {"hidden": shape.hidden}),
            "embedding": shape.embedding,
            "n": self.datamodule.n,
        }
        if samples.described:
            entries["data/read"] = samples.described
        optimum = self.module.optimum()
        return entries if optimum is None else entries | {OPTIMUM: optimum}

    def _names(self) -> dict[str, str]:
        """What was chosen, by name: for the summary, the tags and the tables."""
        target = self.config["model"]["_target_"].rsplit(".", 1)[-1]
        model = "".join(f"_{c.lower()}" if c.isupper() else c for c in target).strip("_")
        return {
            "data": self.datamodule.samples.name,
            "model": model,
            "loss": self.loss.name,
            "constraint": self.constraint.name,
        }
