"""Conjecture 2: the columns of q come to span the most negative eigenvectors."""

import torch
from torch import Tensor

from sslmanifold.geometry import haar
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.theory.frame import frame_from_weights, frame_step

D, Z = 7, 3


def random_spectra(count: int, generator: torch.Generator) -> Tensor:
    """Ascending spectra (count, d) of norm 1 with at least z negative eigenvalues, grid-valued.

    On a grid of 0.1 repeats and zeros are common, and eigenvalues that differ, differ by 0.1 or more.
    """
    grid = torch.randint(-10, 11, (count, D), generator=generator).double() / 10
    lowest = -torch.randint(1, 11, (count, Z), generator=generator).double() / 10
    spectra = torch.cat([lowest, grid[:, Z:]], 1)
    spectra[::3, -2:] = 0.0
    return (spectra / spectra.abs().amax(1, keepdim=True)).sort(1).values


def projections(q: Tensor, basis: Tensor) -> Tensor:
    """‖P v‖ for the columns v of ``basis`` (…, d, k), P the projection onto span(q): (…, k)."""
    orthonormal = torch.linalg.qr(q).Q
    return (orthonormal.mT @ basis).norm(dim=-2)


def compute(settings: Settings) -> Result:
    """Eq. 9 from Haar weights, all spectra at once by RK4 on the frame, until every rate has acted; float64."""
    generator = streams(settings.seed, 1)[0]
    count = settings.choose(200, 60)
    spectra = random_spectra(count, generator)
    eye = torch.eye(D, dtype=torch.float64)
    worst, worst_tied, printed = 0.0, 0.0, 0.0
    ties = spectra[:, Z] - spectra[:, Z - 1] < 1e-9
    for hidden in settings.track(settings.choose((D, D + 1, D + Z + 10), (D, D + Z + 10))):
        w1 = haar(count, hidden, D, generator=generator, dtype=torch.float64)
        w2 = haar(count, hidden, Z, generator=generator, dtype=torch.float64)
        state = frame_from_weights(w1, w2)
        moment = torch.diag_embed(spectra)
        # the slowest rate is 2 × 0.1: errors fall by e^(−30)
        for _ in range(750):
            state = frame_step(state, 0.2, moment, 0.0)
        plain = 1 - projections(state.m, eye[:, :Z].expand(count, D, Z)).amin(-1)  # (count,)
        # with a tie across the boundary: span(q) inside the eigenvectors of eigenvalues ≤ λ_z
        allowed = spectra <= spectra[:, Z - 1 : Z] + 1e-9
        inside = torch.linalg.qr(state.m).Q * allowed[..., None]
        tied = 1 - torch.linalg.svdvals(inside)[..., -1]
        worst = max(worst, float(plain[~ties].max()))
        worst_tied = max(worst_tied, float(tied.max()))
        printed = max(printed, float(plain.max()))
    command = settings.command("conjecture2")
    repeats = int((spectra.diff(dim=1) < 1e-9).any(1).sum())
    zeros = int((spectra.abs() < 1e-12).any(1).sum())
    claims = [
        Claim(
            "Conjecture 2: with k strictly negative eigenvalues, span(v1 … vk) is the limit of span(q1 … qk)",
            [Check("largest 1 − ‖P v_i‖, i ≤ z, all spectra", printed, 1e-6)],
            [
                Check("largest 1 − ‖P v_i‖, i ≤ z, spectra with λ_z < λ_{z+1}", worst, 1e-6),
                Check("1 − least cosine of span(q) to the eigenspaces ≤ λ_z, all spectra", worst_tied, 1e-6),
            ],
            correction="where λ_z = λ_{z+1} the eigenvectors v_z are not unique: the limit lies in the eigenspaces up "
            "to "
            "λ_z, and which part of the tied one depends on the start",
            evidence=f"{count} random spectra ({repeats} with repeats, {zeros} with zeros, {int(ties.sum())} tied at "
            f"z), "
            f"d = {D}, z = {Z}, widths from d up; Eq. 9 integrated to t = 150/‖Λ‖",
            command=command,
        )
    ]
    return Result(claims)


PART = Part("conjecture2", "Conjecture 2", compute)
