"""Probes that are classifiers of a fixed embedding; their one hyper-parameter is chosen on validation rows."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from sslmanifold.probes.scaling import GlobalScale
from sslmanifold.probes.splits import validation_split

Positive = Annotated[float, Field(gt=0)]
Grid = Annotated[list[Positive], Field(min_length=1)]


@dataclass(frozen=True)
class Fitted:
    """What fitting a probe gave: test predictions (n_test,), the choice made, and accuracy on validation rows."""

    predicted: np.ndarray
    hyperparameters: dict[str, Any]
    validation: dict[str, float]


@dataclass(kw_only=True)
class EmbeddingProbe(ABC):
    """A classifier on top of an embedding (n, k): one global scale, then the best of a grid, then all of train.

    Of equally good values the first of the grid is taken: grids start with the strongest regularisation.
    """

    name: ClassVar[str]
    parameter: ClassVar[str]

    @abstractmethod
    def classifier(self, value: Any, seed: int) -> Any:
        """A scikit-learn classifier with this value of the hyper-parameter."""

    @abstractmethod
    def grid(self, rows: int) -> Sequence[Any]:
        """Values to choose from, given so many rows to fit on."""

    def fit(
        self, train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, *, validation: float, seed: int
    ) -> Fitted:
        """Choose on a validation part of train, refit on all of train, predict test.

        Args:
            train_x, train_y: (n, k) float64 and (n,).
            test_x: (n_test, k); looked at once, after every choice is made.
            validation: fraction of train that validates.
            seed: of the split and the solver.
        """
        scale = GlobalScale.of(train_x)
        x = scale(train_x)
        rows, held = validation_split(train_y, validation, seed)
        values = self.grid(len(rows))
        with warnings.catch_warnings():
            # at the weakest regularisation a solver may stop early: validation judges what it has
            warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
            warnings.filterwarnings("ignore", message=".*converge.*")
            accuracy = {}
            for value in values:
                model = self.classifier(value, seed).fit(x[rows], train_y[rows])
                accuracy[value] = float(np.mean(model.predict(x[held]) == train_y[held]))
            best = max(values, key=lambda value: accuracy[value])
            predicted = self.classifier(best, seed).fit(x, train_y).predict(scale(test_x))
        return Fitted(predicted, {self.parameter: best}, {str(k): v for k, v in accuracy.items()})


@dataclass(kw_only=True)
class LinearSVM(EmbeddingProbe):
    """Linear support vector machine, squared hinge, one class against the rest (liblinear).

    Attributes:
        C: values to choose from, the inverse of the regularisation.
    """

    name = "linear_svm"
    parameter = "C"

    C: Grid = field(default_factory=lambda: [0.01, 0.1, 1.0, 10.0, 100.0])

    def grid(self, rows: int) -> list[float]:
        return sorted(self.C)

    def classifier(self, value: float, seed: int) -> Any:
        from sklearn.svm import LinearSVC

        return LinearSVC(C=value, dual="auto", random_state=seed, max_iter=2000)


@dataclass(kw_only=True)
class Logistic(EmbeddingProbe):
    """Multinomial logistic regression.

    Attributes:
        C: values to choose from, the inverse of the regularisation.
    """

    name = "logistic"
    parameter = "C"

    C: Grid = field(default_factory=lambda: [0.01, 0.1, 1.0, 10.0, 100.0])

    def grid(self, rows: int) -> list[float]:
        return sorted(self.C)

    def classifier(self, value: float, seed: int) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=value, max_iter=1000, tol=1e-3)


@dataclass(kw_only=True)
class Ridge(EmbeddingProbe):
    """Least squares on ±1 labels, one class against the rest, with an ℓ2 penalty.

    Attributes:
        alpha: values to choose from, the penalty.
    """

    name = "ridge"
    parameter = "alpha"

    alpha: Grid = field(default_factory=lambda: [0.01, 0.1, 1.0, 10.0, 100.0])

    def grid(self, rows: int) -> list[float]:
        return sorted(self.alpha, reverse=True)

    def classifier(self, value: float, seed: int) -> Any:
        from sklearn.linear_model import RidgeClassifier

        return RidgeClassifier(alpha=value)


@dataclass(kw_only=True)
class KNN(EmbeddingProbe):
    """k nearest neighbours.

    Attributes:
        k: values to choose from; those above the number of rows are left out.
        metric: what nearest means: euclidean, or cosine, the angle.
    """

    name = "knn"
    parameter = "k"

    k: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)] = field(
        default_factory=lambda: [1, 3, 5, 10, 20]
    )
    metric: Literal["euclidean", "cosine"] = "euclidean"

    def grid(self, rows: int) -> list[int]:
        return [k for k in sorted(self.k, reverse=True) if k <= rows] or [1]

    def classifier(self, value: int, seed: int) -> Any:
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(n_neighbors=value, metric=self.metric)
