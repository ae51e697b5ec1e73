"""Probing a run: every probe on the run's embedding and on the baselines, scored on the test split."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sslmanifold.errors import UserError
from sslmanifold.models import LinearMap
from sslmanifold.probes.classifiers import EmbeddingProbe
from sslmanifold.probes.embeddings import (
    BASELINES,
    Embedding,
    ode_embedding,
    principal_components,
    random_orthogonal,
    raw_input,
    run_embedding,
    untrained,
    whitened_components,
)
from sslmanifold.probes.finetune import FineTune
from sslmanifold.probes.labelled import Labelled, LabelledImages, labelled
from sslmanifold.probes.scores import score
from sslmanifold.runs import Run

Probe = EmbeddingProbe | FineTune


@dataclass(frozen=True)
class Settings:
    """How to probe, whatever the probe.

    Attributes:
        validation: fraction of the training split on which hyper-parameters are chosen.
        bootstrap: samples of the interval.
        seed: of the validation split, the bootstrap and the random baseline.
        baselines: which of ``ode``, ``pca``, ``random``, ``raw`` to probe too.
    """

    validation: float = 0.2
    bootstrap: int = 1000
    seed: int = 0
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))

    def __post_init__(self) -> None:
        for name in self.baselines:
            if name not in BASELINES:
                raise UserError(f"baselines={name} is none of: {', '.join(BASELINES)}")


def probe_embedding(
    probe: EmbeddingProbe, embedding: Embedding, data: Labelled, settings: Settings
) -> dict[str, Any]:
    """Accuracy, interval and the rest of one probe on one embedding; replicas are probed one by one."""
    fits = [
        probe.fit(train, data.train_y, test, validation=settings.validation, seed=settings.seed)
        for train, test in zip(embedding.train, embedding.test, strict=True)
    ]
    return record(
        np.stack([fit.predicted for fit in fits]),
        data,
        settings,
        hyperparameters=[fit.hyperparameters for fit in fits],
        validation=[fit.validation for fit in fits],
        dim=embedding.dim,
    )


def record(predicted: np.ndarray, data: Labelled, settings: Settings, **extra: Any) -> dict[str, Any]:
    """The entries of ``probes/<name>.json`` for predictions (S, n_test)."""
    scores = score(predicted, data.test_y, data.classes, bootstrap=settings.bootstrap, seed=settings.seed)
    entries: dict[str, Any] = asdict(scores)
    entries["interval"] = list(scores.interval)
    if len(scores.per_replica) == 1:
        # one replica is the rule: its entries are not lists
        del entries["per_replica"]
        extra = {key: value[0] if isinstance(value, list) else value for key, value in extra.items()}
    return {
        **entries,
        "n_train": len(data.train_y),
        "n_test": len(data.test_y),
        "classes": [str(name) for name in data.classes],
        **extra,
    }


class Session:
    """Probes one or many runs with the same probes; baselines that runs share are fitted once."""

    def __init__(self, probes: dict[str, Probe], settings: Settings) -> None:
        self.probes, self.settings = probes, settings
        self._shared: dict[str, dict[str, Any]] = {}

    def run(self, run: Run) -> dict[str, dict[str, Any]]:
        """Probe name → the entries of its JSON file; other embeddings are under ``baselines``.

        Raises:
            UserError: where the run cannot be probed.
        """
        data = labelled(run)
        own = run_embedding(run, data)
        probes = self._able(run)
        results = {name: self._own(probe, run, own, data) for name, probe in probes.items()}
        on_embeddings = {n: p for n, p in self.probes.items() if isinstance(p, EmbeddingProbe)}
        if not on_embeddings:
            return results
        for baseline in self.settings.baselines:
            embedding, reason = self._baseline(baseline, run, data)
            for name, probe in on_embeddings.items():
                found = results[name].setdefault("baselines", {})
                if embedding is None:
                    found[baseline] = {"reason": reason}
                    continue
                own_only = baseline == "ode" or (baseline == "random" and isinstance(data, LabelledImages))
                key = "" if own_only else f"{name} {baseline} {_data_key(run, embedding)}"
                if key not in self._shared or not key:
                    self._shared[key] = probe_embedding(probe, embedding, data, self.settings)
                found[baseline] = self._shared[key]
        return results

    def _able(self, run: Run) -> dict[str, Probe]:
        """The probes that this run can have: fine-tuning is of networks that were trained."""
        network: Any = run.model
        if not isinstance(network, LinearMap):
            return self.probes
        able: dict[str, Probe] = {
            name: probe for name, probe in self.probes.items() if isinstance(probe, EmbeddingProbe)
        }
        if not able:
            raise UserError(
                f"{run.path} was solved, not trained: it has no weights to fine-tune; set probe=linear_svm, or train it"
            )
        return able

    def _own(self, probe: Probe, run: Run, own: Embedding, data: Labelled) -> dict[str, Any]:
        if isinstance(probe, EmbeddingProbe):
            return probe_embedding(probe, own, data, self.settings)
        from sslmanifold.probes.finetune_fit import fine_tune

        fit, fractions = fine_tune(
            probe,
            run.model,
            data,
            run.folder.probes / "finetune",
            validation=self.settings.validation,
            seed=self.settings.seed,
        )
        by_fraction = []
        for entry in fractions:
            scores = record(entry.pop("predicted"), data, self.settings)
            by_fraction.append(entry | {key: scores[key] for key in ("accuracy", "interval")})
        return record(
            fit.predicted,
            data,
            self.settings,
            hyperparameters=fit.hyperparameters,
            validation=fit.validation,
            dim=own.dim,
        ) | {"fractions": by_fraction}

    def _baseline(self, name: str, run: Run, data: Labelled) -> tuple[Embedding | None, str]:
        if isinstance(data, LabelledImages):
            if name == "ode":
                return None, "an image encoder has no exact flow"
            made = {"pca": whitened_components, "raw": raw_input}
            return (made[name](data) if name in made else untrained(run, data)), ""
        z = run.model.shape.embedding
        if name == "ode":
            return ode_embedding(run, data)
        if name == "pca":
            return principal_components(data, z), ""
        if name == "random":
            return random_orthogonal(data, z, self.settings.seed), ""
        return raw_input(data), ""


def _data_key(run: Run, embedding: Embedding) -> str:
    """What a baseline of the data alone depends on."""
    return f"{run.config['data']} {run.config.get('seed')} {embedding.dim}"
