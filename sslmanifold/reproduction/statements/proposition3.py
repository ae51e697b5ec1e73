"""Proposition 3: its four problems, solved numerically, have the same minimum (where the width allows it)."""

import torch
from torch import Tensor

from sslmanifold.constraints import Constraint, NetworkShape, make_constraint
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.descent import descend, last, moment_loss
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.theory import optimum

D, Z, NEGATIVE = 5, 3, 2


def random_moments(count: int, generator: torch.Generator) -> Tensor:
    """C (count, d, d) with ``NEGATIVE`` negative eigenvalues, norm 1, eigenvalues at least 0.1 from 0."""
    basis = torch.linalg.qr(torch.randn(count, D, D, generator=generator, dtype=torch.float64)).Q
    size = 0.15 + 0.85 * torch.rand(count, D, generator=generator, dtype=torch.float64)
    size[:, :NEGATIVE] *= -1
    return basis @ torch.diag_embed(size) @ basis.mT


def minimise(
    constraint: Constraint, hidden: int, moments: Tensor, generator: torch.Generator, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Best objective over three starts for each C, (count,), and σ2/σ1 of the map that has it."""
    starts = 3
    repeated = moments.repeat(starts, 1, 1)  # (starts·count, d, d)
    shape = NetworkShape(D, hidden, Z)
    weights = constraint.initial(shape, [generator] * len(repeated))
    loss = moment_loss(repeated)
    network = last(descend(constraint, shape, weights, loss, 0.2, settings.choose(1500, 750)))
    with torch.no_grad():
        value = constraint.objective(loss(network), list(network.weights)).view(starts, -1)
        sigma = torch.linalg.svdvals(network.map()).view(starts, len(moments), -1)
    best = value.argmin(0)  # (count,)
    pick = torch.arange(len(moments))
    return value[best, pick], sigma[best, pick, 1] / sigma[best, pick, 0]


def compute(settings: Settings) -> Result:
    """Each problem by (projected or Riemannian) gradient descent on random C, above and below h = d + z − m."""
    generator = streams(settings.seed, 1)[0]
    moments = random_moments(settings.choose(12, 4), generator)
    eigvals = torch.linalg.eigvalsh(moments)
    wide, edge, narrow = D + Z + 2, D + Z - NEGATIVE, D
    items = {
        "1": make_constraint("scaled"),
        "2": make_constraint("operator_norm"),
        "3": make_constraint("product"),
        "4": make_constraint("orthogonal", metric="canonical"),
    }
    common = optimum(eigvals, Z)

    def error(value: Tensor, reference: Tensor) -> float:
        return float(((value - reference) / reference.abs()).abs().max())

    same, narrow_four, spread = {}, {}, []
    jobs = [(item, h) for item in items for h in (wide, edge, narrow)]
    for item, h in settings.track(jobs):
        value, ratio = minimise(items[item], h, moments, generator, settings)
        if item == "4" and h == narrow:
            narrow_four = {"common": error(value, common), "own": error(value, optimum(eigvals, Z, h))}
        else:
            same[f"item {item}, h = {h}"] = error(value, common)
            spread.append(float(ratio.min()))
    command = settings.command("proposition3")
    evidence = (
        f"{len(moments)} random C, d = {D}, z = {Z}, {NEGATIVE} negative eigenvalues, three starts; h = {wide}, "
        f"{edge} = d + z − m, and {narrow}"
    )
    worst = max(same, key=lambda key: same[key])
    claims = [
        Claim(
            "Proposition 3: the four problems (scaled loss, operator norms, norm of the product, orthogonality) are "
            "equivalent",
            [
                Check(f"items 1–3 at every h, item 4 at h ≥ d + z − m: largest relative gap to Σ λ_i, i ≤ min(z, m) "
                      f"(worst: {worst})", same[worst], 1e-3),
                Check("item 4 at h = d: largest relative gap to Σ λ_i, i ≤ min(z, m)", narrow_four["common"], 1e-3),
            ],
            [
                Check("items 1–3 at every h, item 4 at h ≥ d + z − m: largest relative gap to Σ λ_i, i ≤ min(z, m)",
                      same[worst], 1e-3),
                Check("item 4 at h = d: gap to Σ λ_i, i ≤ d + z − h", narrow_four["own"], 1e-3),
            ],
            correction="item 4 equals items 1–3 only for h ≥ d + z − m; a narrower orthogonal net has d + z − h unit "
            "singular values whatever it does, and its minimum is Σ_{i ≤ max(min(z, m), d + z − h)} λ_i",
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Proposition 3: this regularisation avoids dimension collapse",
            [Check("smallest σ2/σ1 of the map at the minimum, all items", min(spread), 0.95, ">=")],
            evidence=evidence,
            command=command,
        ),
    ]  # fmt: skip
    return Result(claims)


PART = Part("proposition3", "Proposition 3", compute)
