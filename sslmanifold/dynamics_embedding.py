"""The ODE as a method: a scikit-learn transformer that embeds data without training a network."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from sslmanifold.errors import UserError
from sslmanifold.theory.limits import optimum
from sslmanifold.theory.moments import MomentAccumulator
from sslmanifold.theory.solve import solve
from sslmanifold.theory.velocities import METRIC_KAPPA, kappa_of

Pairs = tuple[ArrayLike, ArrayLike | None]
_LOSSES = ("contrastive", "noncontrastive")


class DynamicsEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What a two-layer linear SSL net with orthogonal weights would embed after training for ``time``: u =
    q_tᵀVᵀx.

    C of Eq. 7 is formed in one pass, q̇ = −4Λq + (2 − κ)Λq qᵀq + (2 + κ) q qᵀΛq (Eq. 9, Theorem 2) is solved
    from a random start, and new points are embedded by the paper's "New Datapoint", u_t(x̂) = q_tᵀVᵀx̂. No
    network is trained.

    Parameters:
        n_components: embedding size z.
        time: training time Σ lr for the loss averaged over anchors (a 1/n loss; for the summed loss of Eqs.
            1–2 divide by n), or ``inf``: the limit of Conjecture 2, its subspace from C's lowest eigenvectors
            and its orientation the nearest to the start's (the loss does not see a rotation of the outputs). A
            large finite time costs no more than its arrival.
        metric: "grassmann" (κ = 0), "euclidean" (κ = 1) or "canonical" (κ = 2).
        loss: "contrastive" (Eq. 1) or "noncontrastive" (Eq. 2).
        noise: variance σ² of the positives x⁺ = x + N(0, σ²I) that are drawn when no pairs are given;
            negatives are drawn uniformly with replacement from the batch.
        hidden: width h of the network, which sets the scale of the start (‖q0‖ ~ h^{-1/2}) and, below d + z,
            forces singular values of q to 1; None is max(128, d + z).
        random_state: seeds the pairs and the start.

    Attributes:
        components_: mᵀ = (V q)ᵀ, (n_components, d), in the dtype of X.
        moment_: C, (d, d) float64.  loss_: Tr(mᵀCm).  optimum_: the smallest it can be.
        method_: "limit", "closed_form", "adaptive" or "lifted_rk4".  n_features_in_, feature_names_in_.

    Raises UserError (a ValueError) for parameters out of range and for a hidden below d or z.
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        time: float = math.inf,
        metric: str = "grassmann",
        loss: str = "contrastive",
        noise: float = 0.1,
        hidden: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_components = n_components
        self.time = time
        self.metric = metric
        self.loss = loss
        self.noise = noise
        self.hidden = hidden
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None, *, pairs: Pairs | None = None) -> DynamicsEmbedding:
        """C from X (n, d), or from given ``pairs=(X_pos, X_neg)`` (each (n, d) or (n, pairs, d); X_neg None
        for the non-contrastive loss), and the solution at ``time``. y is ignored.
        """
        X = self._validated(X, reset=True)
        self._accumulator = MomentAccumulator("mean")
        self._random = check_random_state(self.random_state)
        self._start: NDArray[np.float64] | None = None
        return self._update(X, pairs)

    def partial_fit(self, X: ArrayLike, y: Any = None, *, pairs: Pairs | None = None) -> DynamicsEmbedding:
        """Add a batch to C and solve again, from the same random start as the first batch. y is ignored."""
        first = not hasattr(self, "_accumulator")
        X = self._validated(X, reset=first)
        if first:
            self._accumulator = MomentAccumulator("mean")
            self._random = check_random_state(self.random_state)
            self._start = None
        return self._update(X, pairs)

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """u(x) = mᵀx for each row: (n, d) -> (n, n_components), in X's floating dtype."""
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        return X @ self.components_.T.astype(X.dtype, copy=False)

    def _validated(self, X: ArrayLike, *, reset: bool) -> NDArray[Any]:
        self._check_parameters()
        checked = validate_data(self, X, dtype=[np.float64, np.float32], reset=reset)
        self._check_shape(self.n_features_in_)
        return np.asarray(checked)

    def _check_parameters(self) -> None:
        if not _is(self.n_components, Integral) or self.n_components < 1:
            raise UserError(f"n_components={self.n_components!r} must be an integer ≥ 1: set n_components=2")
        if not _is(self.time, Real) or not self.time >= 0:
            raise UserError(f"time={self.time!r} must be a number ≥ 0 or math.inf: set time=math.inf")
        if not _is(self.noise, Real) or not 0 <= self.noise < math.inf:
            raise UserError(f"noise={self.noise!r} must be a finite variance ≥ 0: set noise=0.1")
        if self.hidden is not None and (not _is(self.hidden, Integral) or self.hidden < 1):
            raise UserError(f"hidden={self.hidden!r} must be an integer ≥ 1 or None: set hidden=None")
        if self.metric not in METRIC_KAPPA:
            raise UserError(f"unknown metric {self.metric!r}: use one of {', '.join(METRIC_KAPPA)}")
        if self.loss not in _LOSSES:
            raise UserError(f"unknown loss {self.loss!r}: use one of {', '.join(_LOSSES)}")

    def _check_shape(self, features: int) -> None:
        """W1ᵀW1 = I_d needs h ≥ d, W2ᵀW2 = I_z needs h ≥ z."""
        if self.hidden is None:
            return
        if self.hidden < features:
            raise UserError(
                f"hidden={self.hidden} is below the {features} features of X, but orthonormal columns of W1 (h×d) "
                f"need h ≥ d: set hidden={features} or hidden=None, or reduce X first, "
                f"make_pipeline(PCA({self.hidden}), DynamicsEmbedding(…))"
            )
        if self.hidden < self.n_components:
            raise UserError(
                f"hidden={self.hidden} is below n_components={self.n_components}, but orthonormal columns of W2 (h×z) "
                f"need h ≥ z: set hidden={self.n_components} or n_components={self.hidden}"
            )

    def _check_scale(self, *samples: NDArray[Any] | None) -> None:
        """C adds up products of two samples: refuse what would overflow before anything is added to it."""
        sizes = [float(np.abs(part).max()) for part in samples if part is not None and part.size]
        terms = 2 * max(part.size for part in samples if part is not None)
        largest = max(sizes, default=0.0)
        if largest > math.sqrt(np.finfo(np.float64).max / terms):
            raise UserError(
                f"X holds values up to {largest:.3g}: C of Eq. 7 is made of their products, which overflow float64; "
                f"scale X first, fit(X / {largest:.0e}), or standardise it, "
                "make_pipeline(StandardScaler(), DynamicsEmbedding(…))"
            )

    def _update(self, X: NDArray[Any], pairs: Pairs | None) -> DynamicsEmbedding:
        self._check_scale(X)
        positives, negatives = self._drawn(X) if pairs is None else self._given(X, pairs)
        self._check_scale(X, positives, negatives)
        # Read-only input (memory maps) cannot be wrapped by torch without a copy.
        self._accumulator.update(*(None if a is None else torch.tensor(a) for a in (X, positives, negatives)))  # type: ignore[arg-type]
        self._dtype = X.dtype
        self._solve()
        return self

    def _drawn(self, X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        positives = X + math.sqrt(self.noise) * self._random.standard_normal(X.shape)
        if self.loss == "noncontrastive":
            return positives, None
        return positives, X[self._random.randint(0, len(X), size=len(X))]

    def _given(self, X: NDArray[Any], pairs: Pairs) -> tuple[NDArray[Any], NDArray[Any] | None]:
        if not isinstance(pairs, tuple) or len(pairs) != 2:
            raise UserError(
                "pairs must be a tuple: fit(X, pairs=(X_pos, X_neg)), or (X_pos, None) without negatives"
            )
        positives, negatives = (
            None if part is None else check_array(part, dtype=np.float64, allow_nd=True) for part in pairs
        )
        if positives is None or (negatives is None) != (self.loss == "noncontrastive"):
            wanted = "(X_pos, X_neg)" if self.loss == "contrastive" else "(X_pos, None)"
            raise UserError(f"loss={self.loss!r} needs pairs={wanted}")
        return positives, negatives

    def _solve(self) -> None:
        moment = self._accumulator.compute().numpy()
        d, z = moment.shape[0], int(self.n_components)
        hidden = max(128, d + z) if self.hidden is None else int(self.hidden)
        if self._start is None:
            # W1ᵀW2 of two Haar frames is the top d rows of one: the law of the start, without drawing W1.
            q, r = np.linalg.qr(self._random.standard_normal((hidden, z)))
            self._start = (q * np.sign(np.diag(r)))[:d]
        start = self._start
        forced = max(0, d + z - hidden)
        if math.isinf(self.time):
            values, vectors = scipy.linalg.eigh(moment, subset_by_index=[0, min(max(z, forced), d) - 1])
            basis = vectors[:, : max(int(np.sum(values[:z] < 0)), forced)]
            u, _, vt = np.linalg.svd(basis.T @ start, full_matrices=False)
            m, self.method_ = basis @ (u @ vt), "limit"
        else:
            values, vectors = scipy.linalg.eigh(moment)
            trajectory = solve(
                torch.from_numpy(vectors.T @ start), torch.from_numpy(values), [float(self.time)],
                kappa=kappa_of(self.metric), hidden=hidden,
            )  # fmt: skip
            m, self.method_ = vectors @ trajectory.q[0].numpy(), trajectory.method
        self.moment_ = moment
        self.loss_ = float(np.sum(m * (moment @ m)))
        self.optimum_ = float(optimum(torch.from_numpy(values), z, forced=forced))
        self.components_ = np.ascontiguousarray(m.T).astype(self._dtype, copy=False)
        self._n_features_out = z

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _is(value: object, kind: type) -> bool:
    """Whether value is a number of this kind; True and False are not."""
    return isinstance(value, kind) and not isinstance(value, bool | np.bool_)
