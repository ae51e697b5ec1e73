"""Everything one training run of an image encoder is made of, built and checked before anything is trained."""

import inspect
from typing import Any

import numpy as np
import torch

from sslmanifold.callbacks.observer import Observer
from sslmanifold.callbacks.ode import ODEComparison
from sslmanifold.callbacks.online_probe import OnlineProbe
from sslmanifold.callbacks.spectrum import SpectrumMonitor
from sslmanifold.config.check import build, build_group, validated
from sslmanifold.config.targets import Opened
from sslmanifold.constraints import Constraint
from sslmanifold.data import Augmentation, PairData
from sslmanifold.data.image_stream import ImageDataModule
from sslmanifold.data.images import read_images
from sslmanifold.errors import UserError
from sslmanifold.loggers.base import RunLogger
from sslmanifold.losses.own import completed, require_loss
from sslmanifold.models.encoder import Encoder
from sslmanifold.training.allocator import keep_freed_memory
from sslmanifold.training.checkpointing import Checkpointing
from sslmanifold.training.encoder_module import EncoderModule
from sslmanifold.training.experiment import GROUPS
from sslmanifold.training.lightning_callbacks import accumulated_batches, build_callbacks
from sslmanifold.training.options import optimizer_options, run_options
from sslmanifold.training.parameter_groups import manifold_rate, parameter_groups
from sslmanifold.training.trainer_flags import TrainerFlags

BATCH_SIZE = 256
POINTS = 1000  # training images on which embeddings are measured
# of data=…: what pairs of rows are drawn by, which images have augmentations for
OF_PAIRS = ("positive_variance", "positives", "scale", "center", "pca", "resample")


def encodes(config: dict[str, Any], opened: Opened | None = None) -> bool:
    """Whether a configuration's model is an image encoder."""
    spec = config.get("model")
    if not isinstance(spec, dict) or not isinstance(spec.get("_target_"), str):
        return False
    return spec["_target_"].rpartition(".")[2] == "Encoder" and spec["_target_"].startswith("sslmanifold.")


def in_epochs(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with ``trainer.max_epochs``, where it is given, as the length of the run.

    ``trainer.max_steps`` has a default, which is the length of a run of full batches.
    """
    trainer = config.get("trainer") or {}
    if trainer.get("max_epochs") not in (None, -1) and trainer.get("max_steps") == TrainerFlags.max_steps:
        return config | {"trainer": trainer | {"max_steps": -1}}
    return config


class EncoderExperiment:
    """Everything one run of an encoder is made of; the same attributes as :class:`Experiment` has for a fit.

    Args:
        config: the resolved configuration as plain containers.
        opened: the run folder that the configuration was read from, None where the user typed it.

    Raises:
        UserError: for every mistake that can be known before training.
    """

    steps: int
    batch_size: int

    def __init__(self, config: dict[str, Any], opened: Opened | None = None) -> None:
        self.config = config
        top = {key: value for key, value in config.items() if key not in GROUPS}
        self.options = run_options(**validated(run_options, top, ""))
        if self.options["replicas"] > 1:
            raise UserError(
                f"replicas={self.options['replicas']} trains small networks side by side, an encoder fills a machine "
                "alone: leave it out, and sweep seeds, -m seed=0,1,2"
            )
        torch.set_num_threads(self.options["threads"])
        keep_freed_memory()
        self.flags: TrainerFlags = build(TrainerFlags, config["trainer"], "trainer")
        data: PairData = build_group(config.get("data"), "data", opened)
        self.spec: Encoder = build_group(config.get("model"), "model", opened)
        self.loss = completed(build_group(config.get("loss"), "loss", opened))
        self.constraint: Constraint = build_group(config.get("constraint"), "constraint", opened)
        augment = config.get("augment")
        self.augmentation: Augmentation = (
            build_group(augment, "augment", opened) if augment else Augmentation()
        )
        schedule = build_group(config.get("scheduler"), "scheduler", opened)
        self.factor = schedule.factor
        self.schedule = lambda step: schedule.factor(step, self.steps)
        self.logger: RunLogger = build_group(config.get("logger"), "logger", opened)
        self.notices: list[str] = []
        self.meaning = ""  # of the comparison with a flow
        self.named_callbacks = build_callbacks(config.get("callbacks") or {}, self.flags, opened)
        self.accumulate = accumulated_batches(self.flags, self.named_callbacks)
        checkpoint = config.get("checkpoint")
        self.checkpointing = build_group(checkpoint, "checkpoint", opened) if checkpoint else Checkpointing()
        group = dict(config["optimizer"])
        self.manifold_lr = manifold_rate(group.pop("manifold_lr", "match"))
        self.optimizer_class, self.optimizer_options, lr = optimizer_options(group, opened)

        self.images = read_images(data, self.options["seed"])
        self._limit_batches(data)
        self._plan_steps()
        self._require_equal_pixels()
        require_loss(
            self.loss,
            anchors=self.batch_size,
            positives=self.augmentation.views - 1,
            negatives=data.negatives,
        )
        self.learning_rate_rule = ""
        self.learning_rate = lr if lr is not None else self._automatic_learning_rate()
        self._observe()
        self.callbacks = list(self.named_callbacks.values())
        self.module = self._module(data)
        self._say(data)
        self.names = self._names()

    # -- building ---------------------------------------------------------------------------------------

    def _limit_batches(self, data: PairData) -> None:
        n = self.images.n
        self.batch_size = min(data.batch_size or BATCH_SIZE, n)
        if self.batch_size < 2:
            raise UserError(
                f"data.batch_size={self.batch_size}: batch statistics and losses compare the images of a batch: set "
                "data.batch_size=256"
            )
        if self.flags.overfit_batches:
            raise UserError(
                f"trainer.overfit_batches={self.flags.overfit_batches} with an encoder: set "
                "trainer.limit_train_batches for fewer batches, or data.per_class for fewer images"
            )

    def _plan_steps(self) -> None:
        """How many optimizer steps there will be, and of how many batches each."""
        self.datamodule = ImageDataModule(
            self.images, self.augmentation, seed=self.options["seed"], batch_size=self.batch_size
        )
        per_pass = self.flags.batches_per_pass(self.datamodule.train_dataloader().steps_per_pass)
        self.steps = self.flags.steps(per_pass, self.accumulate)
        self.least_steps = self.flags.least_steps(per_pass, self.accumulate)
        self.datamodule.steps = self.steps * self.accumulate
        self.datamodule.batches_per_pass = per_pass
        self.steps_per_pass = max(1, per_pass // self.accumulate)

    def _require_equal_pixels(self) -> None:
        height, width = self.images.train_x.shape[-2:]
        if height != width:
            raise UserError(
                f"data={self.images.name}: images of {width}×{height} are not square: set "
                f"data.size={min(height, width)}"
            )

    def _automatic_learning_rate(self) -> float:
        if "betas" in inspect.signature(self.optimizer_class).parameters:
            self.learning_rate_rule = "0.003·√(batch/256), of Adam on an encoder"
            return 3e-3 * (self.batch_size / 256) ** 0.5
        momentum = float(self.optimizer_options.get("momentum", 0) or 0)
        scale = 1.0 if self.loss.reduction == "mean" else 1 / self.batch_size
        self.learning_rate_rule = "0.3·(1 − momentum)·batch/256 of a mean over images, of SGD on an encoder"
        return 0.3 * (1 - momentum) * scale * self.batch_size / 256

    def _observe(self) -> None:
        """The observers that an encoder can have, and probes where there are labels."""
        usable = (SpectrumMonitor, OnlineProbe)
        for name, callback in list(self.named_callbacks.items()):
            if isinstance(callback, Observer) and not isinstance(callback, usable):
                del self.named_callbacks[name]
                if isinstance(callback, ODEComparison):
                    self.meaning = "absent: an encoder is no linear map, of which the exact flows are"
                    self.notices.append(f"the comparison with the exact dynamics is {self.meaning}")
        labelled = (
            self.images.train_y is not None and self.images.test_y is not None and len(self.images.test_x)
        )
        if labelled and not any(isinstance(c, OnlineProbe) for c in self.named_callbacks.values()):
            epochs = -(-self.steps // self.steps_per_pass)
            self.named_callbacks["online_probe"] = OnlineProbe(
                k=20, metric="cosine", every_n_epochs=max(1, epochs // 10), points=50_000
            )

    def _say(self, data: PairData) -> None:
        changed = [
            key for key in OF_PAIRS if getattr(data, key) != type(data).__dataclass_fields__[key].default
        ]
        if changed:
            self.notices.append(
                f"data.{changed[0]}={getattr(data, changed[0])} is not read: model=encoder draws its views by augment="
            )
        if self.images.described:
            self.notices.append(f"data={self.images.name}: {self.images.described}")
        left = self.images.n % self.batch_size
        passes = (
            f"{self.steps} steps of {self.batch_size} images, {self.steps / self.steps_per_pass:.3g} epochs"
        )
        self.notices.append(
            passes + (f"; {left} images are left out of each, others each time" if left else "")
        )
        if self.learning_rate_rule:
            self.notices.append(f"optimizer.lr=auto: {self.learning_rate:.3g}; {self.learning_rate_rule}")

    def _module(self, data: PairData) -> EncoderModule:
        mean, std = self.images.channel_moments()
        stream = np.random.SeedSequence(self.options["seed"]).spawn(1)[0]
        generator = torch.Generator().manual_seed(int(stream.generate_state(1, np.uint64)[0] >> 1))
        network = self.spec.build(self.images.train_x.shape[-1], mean, std, self.constraint, generator)
        network = network.to(self.flags.dtype)
        chosen = np.unique(np.linspace(0, self.images.n - 1, POINTS).astype(int))
        self.labels = None if self.images.train_y is None else self.images.train_y[chosen]
        decay = float(self.optimizer_options.get("weight_decay", 0.0) or 0.0)
        options = {key: value for key, value in self.optimizer_options.items() if key != "weight_decay"}

        def optimizer(module: torch.nn.Module) -> torch.optim.Optimizer:
            groups = parameter_groups(
                module,
                self.optimizer_class,
                lr=self.learning_rate,
                weight_decay=decay,
                manifold=self.manifold_lr,
            )
            return self.optimizer_class(groups, lr=self.learning_rate, **options)

        return EncoderModule(
            network,
            self.loss,
            self.constraint,
            self.augmentation,
            optimizer,
            self.schedule,
            self.images.train_x[chosen],
            penalised=self.spec.penalised(network),
            penalty=self.spec.penalty,
            negatives=data.negatives,
            hyperparameters=self.config,
        )

    # -- what a summary says ----------------------------------------------------------------------------

    def effects(self) -> dict[str, str]:
        """Which of Lightning's flags are given and what they do to this run."""
        said = {
            "accumulate_grad_batches": "each step averages the gradients of so many batches",
            "gradient_clip_val": "the gradient of all parameters together is no longer",
            "limit_train_batches": "so many batches of each pass, of other images each time",
            "max_epochs": "passes over the images: the length of the run",
        }
        found = self.flags.effects()
        return {
            key: f"{getattr(self.flags, key)}: {said[key]}" if key in said else text
            for key, text in found.items()
        }

    def facts(self) -> dict[str, Any]:
        """What the summary of a run of this experiment says."""
        network = self.module.network
        entries: dict[str, Any] = {**self.names, **{key: self.options[key] for key in ("seed", "replicas")}}
        entries["optimizer/lr"] = self.learning_rate
        if self.learning_rate_rule:
            entries["optimizer/lr_rule"] = self.learning_rate_rule
        entries |= {
            "model/backbone": self.spec.backbone,
            "model/parameters": sum(p.numel() for p in network.parameters()),
            "model/constrained": len(network.weights),
            "embedding": self.spec.embedding if self.spec.layers else None,
            "n": self.images.n,
            "batch_size": self.batch_size,
            "epochs": self.steps / self.steps_per_pass,
        }
        if self.meaning:
            entries["ode/meaning"] = self.meaning
        if self.images.described:
            entries["data/read"] = self.images.described
        return {key: value for key, value in entries.items() if value is not None}

    def _names(self) -> dict[str, str]:
        constrained = self.constraint.name if self.module.network.weights else "none"
        return {
            "data": self.images.name,
            "model": "encoder",
            "loss": self.loss.name,
            "constraint": constrained,
        }
