"""Theorem 2: training on the Grassmannian follows Eq. 9; the equations around it; new data points."""

import torch

from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.data import HalfMoons
from sslmanifold.geometry import haar
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.descent import descend, last, moment_loss
from sslmanifold.reproduction.experiments import trained
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import problem, streams
from sslmanifold.theory import eigenbasis, orthogonal_flow
from sslmanifold.theory.velocities import lifted_velocity, pair_gradients, printed_flow


def velocities(generator: torch.Generator) -> tuple[float, float]:
    """Largest relative error of Eq. 9 and of Eq. 12's right-hand side against the weights' own motion."""
    theorem, printed = [], []
    for d, h, z in ((6, 6, 2), (6, 9, 4), (5, 40, 3), (3, 200, 1)):
        w1 = haar(20, h, d, generator=generator, dtype=torch.float64)
        w2 = haar(20, h, z, generator=generator, dtype=torch.float64)
        c = torch.randn(d, d, generator=generator, dtype=torch.float64)
        eigvals, v = eigenbasis((c + c.mT) / 2)
        moment = v @ torch.diag(eigvals) @ v.mT
        g1, g2 = pair_gradients(w1, w2, moment)
        moving = lifted_velocity(w1, g1, 0.0).mT @ w2 + w1.mT @ lifted_velocity(w2, g2, 0.0)
        q, qdot = v.mT @ (w1.mT @ w2), v.mT @ moving
        scale = qdot.norm(dim=(-2, -1))
        theorem.append(((orthogonal_flow(q, eigvals, 0.0) - qdot).norm(dim=(-2, -1)) / scale).max())
        printed.append(((printed_flow(q, eigvals) - qdot).norm(dim=(-2, -1)) / scale).max())
    return float(max(theorem)), float(max(printed))


def compute(settings: Settings) -> Result:
    """Velocities at random weights, and SSLModule's training of digits against the flow at lr and lr/2."""
    generator = streams(settings.seed, 1)[0]
    theorem, printed = velocities(generator)

    steps = settings.choose(400, 150)
    runs = {}
    for halving in settings.track((1, 2)):
        lr = 0.002 / halving
        overrides = [f"optimizer.lr={lr}", f"trainer.max_steps={steps * halving}"]
        runs[halving] = trained(settings, "theorem2", overrides, f"theorem2_lr{halving}")
    deviation = {k: float(run.summary["ode/deviation_max"]) for k, run in runs.items()}

    # Eq. 11 as printed adds the gradient
    scene = problem(HalfMoons(), settings.seed)
    shape = NetworkShape(2, 20, 1)
    projected = make_constraint("orthogonal", metric="euclidean", retraction="project")
    weights = projected.initial(shape, streams(settings.seed, 4))
    change = {}
    for sign in (1, -1):
        loss = moment_loss(-sign * scene.moment)  # descending on −L is adding L's gradient
        network = last(descend(projected, shape, weights, loss, 0.05, 200))
        m = network.map().detach()
        start = (weights[0].mT @ weights[1]).detach()
        before, after = ((w * (scene.moment @ w)).sum((-2, -1)) for w in (start, m))
        change[sign] = float((after - before).max() / scene.norm)

    run = runs[2]
    samples, moment = _digits(settings)
    _, v = eigenbasis(moment)
    m = run.model.map().detach().double()[0]
    q = v.mT @ m
    through = samples.test_x @ v @ q
    direct = run.model.embed(samples.test_x).double()
    identity = float((through - direct).norm() / direct.norm())
    ode = samples.test_x @ torch.from_numpy(run.trajectory["ode_m"][-1][0])
    predicted = float((ode - direct).norm() / ode.norm())

    command = settings.command("theorem2")
    evidence = "SSLModule under Lightning, digits (d = 64), h = 128, z = 2, lr = 0.002 on the 1/n loss, and half of it"
    claims = [
        Claim(
            "Theorem 2: q̇ = −2[2Λq − Λqqᵀq − qqᵀΛq] for the Grassmann gradient, whatever the width",
            [
                Check("largest relative error of Eq. 9 against the weights' motion", theorem, 1e-12),
                Check("largest relative deviation of training from Eq. 9, lr/2", deviation[2], 2e-2),
                Check("deviation at lr over that at lr/2, at least", deviation[1] / deviation[2], 1.8, ">="),
                Check("deviation at lr over that at lr/2, at most", deviation[1] / deviation[2], 2.2),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Eq. 11: W ← W + η∇L minimises the loss",
            [Check("largest change of the loss, plus as printed, in units of ‖C‖", change[1], 0.0)],
            [Check("largest change of the loss, minus, in units of ‖C‖", change[-1], -1e-3)],
            correction="W ← W − η∇L; with the plus the loss is maximised",
            evidence="200 steps with projection, half moons, h = 20, z = 1, four starts",
            command=command,
        ),
        Claim(
            "Eq. 12 is the discretised Eq. 9",
            [
                Check(
                    "largest relative error of Eq. 12's direction against the weights' motion", printed, 1e-6
                )
            ],
            [
                Check(
                    "largest relative error of Eq. 12's direction with the factor 2 of Eq. 9", theorem, 1e-12
                )
            ],
            correction="the factor 2 of Eq. 9 is missing: as printed it runs at half speed",
            evidence="random weights, C and widths",
            command=command,
        ),
        Claim(
            "New datapoint: u_t(x̂) = q_tᵀVᵀx̂",
            [
                Check("‖qᵀVᵀx̂ − u(x̂)‖ relative, held-out digits, trained weights", identity, 1e-6),
                Check("‖u_ODE(x̂) − u(x̂)‖ relative, held-out digits", predicted, 2e-2),
            ],
            evidence=evidence,
            command=command,
        ),
    ]
    return Result(claims)


def _digits(settings: Settings) -> tuple:
    from sslmanifold.data import Digits

    scene = problem(Digits(), settings.seed)
    return scene.samples, scene.moment


PART = Part("theorem2", "Theorem 2, Eqs. 11 and 12, new data points", compute)
