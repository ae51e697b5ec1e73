"""The field's other theories, statement by statement: the verdict is the one its numbers give, on quick sizes."""

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold.config.check import validated
from sslmanifold.config.compose import composed, plain
from sslmanifold.errors import UserError
from sslmanifold.losses.infonce_distance import infonce_distance_loss
from sslmanifold.reproduction.claims import Claim
from sslmanifold.reproduction.options import reproduce_options, settings_of
from sslmanifold.reproduction.papers import PAPERS
from sslmanifold.reproduction.part import Result, Settings
from sslmanifold.reproduction.reproduce import chosen_parts
from sslmanifold.reproduction.theories.contrast_flow import contrast_flow, product
from sslmanifold.reproduction.theories.siamese_training import siamese_training
from sslmanifold.reproduction.theories.simon_steps import crossings
from sslmanifold.reproduction.theories.tian_collapse import SETTINGS, mode_sizes
from sslmanifold.reproduction.theories.training import halved, trained
from sslmanifold.reproduction.theories.views import exact_views
from sslmanifold.theory import pair_correlation, view_moments

HOLDS, CORRECTED, FAILS = "holds", "holds as corrected", "fails"

# paper, part, opening of the statement, verdict
STATEMENTS = [
    ("simon2023", "steps", "Linear Barlow Twins", HOLDS),
    ("simon2023", "steps", "Exact solution", HOLDS),
    ("simon2023", "steps", "Eigenvalues of the embedding", HOLDS),
    ("simon2023", "steps", "The loss falls in steps", HOLDS),
    ("simon2023", "steps", "From any small start training goes", HOLDS),
    ("simon2023", "steps", "Where it breaks", HOLDS),
    ("simon2023", "steps", "Step times are in units", CORRECTED),
    ("simon2023", "limit", "From a small start training ends", CORRECTED),
    ("simon2023", "limit", "Of all maps of zero loss", HOLDS),
    ("simon2023", "limit", "Eigenmodes are learned in the order", CORRECTED),
    ("simon2023", "limit", "More outputs than modes", HOLDS),
    ("simon2023", "limit", "A kernel machine learns", HOLDS),
    ("simon2023", "limit", "Its limit is kernel PCA", HOLDS),
    ("simon2023", "network", "A network with a small output", HOLDS),
    ("simon2023", "network", "The same from small weights", CORRECTED),
    ("tian2021", "balance", "The gradient flow of predictor", HOLDS),
    ("tian2021", "balance", "Theorem 1: WWᵀ", HOLDS),
    ("tian2021", "balance", "So with weight decay predictor", HOLDS),
    ("tian2021", "balance", "Theorem 1 for gradient descent with momentum", CORRECTED),
    ("tian2021", "balance", "Theorem 1 for Adam", FAILS),
    ("tian2021", "balance", "Theorem 3", CORRECTED),
    ("tian2021", "collapse", "Predictor and stop-gradient together", HOLDS),
    ("tian2021", "collapse", "Theorem 2: without a predictor", HOLDS),
    ("tian2021", "collapse", "Theorem 2: without stop-gradient", HOLDS),
    ("tian2021", "collapse", "A slow target in place of a predictor", FAILS),
    ("tian2021", "collapse", "Weight decay is what prevents", CORRECTED),
    ("tian2021", "collapse", "Theorem 2 without weight decay", CORRECTED),
    ("tian2021", "collapse", "Each of the seven settings", HOLDS),
    ("tian2021", "modes", "With isotropic data", HOLDS),
    ("tian2021", "modes", "A mode survives weight decay", HOLDS),
    ("tian2021", "modes", "A balanced start below", HOLDS),
    ("tian2021", "modes", "A predictor that learns faster", HOLDS),
    ("tian2021", "modes", "So does a slow target", CORRECTED),
    ("tian2021", "modes", "DirectPred", HOLDS),
    ("tian2021", "orthonormal", "An orthonormal online weight", HOLDS),
    ("tian2021", "orthonormal", "It does not collapse", HOLDS),
    ("tian2021", "orthonormal", "With predictor, stop-gradient and decay", HOLDS),
    ("tian2021", "orthonormal", "So the constraint makes", CORRECTED),
    ("tian2021", "orthonormal", "Without either the loss", HOLDS),
    ("jing2022", "augmentation", "Lemma", HOLDS),
    ("jing2022", "augmentation", "One free layer follows", HOLDS),
    ("jing2022", "augmentation", "Corollary 1", HOLDS),
    ("jing2022", "augmentation", "As many singular values die", CORRECTED),
    ("jing2022", "augmentation", "Under weak augmentation", HOLDS),
    ("jing2022", "augmentation", "At a small map", HOLDS),
    ("jing2022", "augmentation", "With orthonormal columns", HOLDS),
    ("jing2022", "layers", "Two layers conserve", HOLDS),
    ("jing2022", "layers", "The same under Adam", FAILS),
    ("jing2022", "layers", "Theorem 2", CORRECTED),
    ("jing2022", "layers", "Theorem 3", HOLDS),
    ("jing2022", "layers", "Corollary 2", HOLDS),
    ("jing2022", "layers", "The more layers", HOLDS),
    ("jing2022", "layers", "The collapse of two layers", CORRECTED),
    ("theories", "forecasts", "The forecast is what training does: Eq. 2", HOLDS),
    ("theories", "forecasts", "The forecast is what training does: linear Barlow", HOLDS),
    ("theories", "forecasts", "The forecast is what training does: SimSiam", HOLDS),
    ("theories", "forecasts", "The forecast is what training does: InfoNCE", HOLDS),
    ("theories", "forecasts", "Free, each theory has a way", HOLDS),
    ("theories", "forecasts", "Under orthogonality none does", HOLDS),
]
OTHERS = [name for name in PAPERS if name != "fleissner2023"]
Compute = Callable[[str, str], Result]


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Compute:
    folder = tmp_path_factory.mktemp("papers")
    torch.set_num_threads(1)

    @functools.cache
    def compute(paper: str, part: str) -> Result:
        return PAPERS[paper].parts[part].compute(Settings(folder, quick=True, paper=paper))

    return compute


@pytest.mark.parametrize(("paper", "part", "opening", "verdict"), STATEMENTS, ids=[s[2] for s in STATEMENTS])
def test_statement(computed: Compute, paper: str, part: str, opening: str, verdict: str) -> None:
    (claim,) = (claim for claim in computed(paper, part).claims if claim.statement.startswith(opening))
    assert claim.verdict == verdict, json.dumps(claim.to_dict(), indent=1, ensure_ascii=False)
    assert claim.evidence
    assert f"paper={paper} figure={part} seed=0" in claim.command
    if verdict == CORRECTED:
        assert claim.correction


@pytest.mark.parametrize("paper", OTHERS)
def test_every_statement_has_its_test_and_every_figure_is_drawn(computed: Compute, paper: str) -> None:
    from matplotlib import pyplot

    openings = [opening for of, _, opening, _ in STATEMENTS if of == paper]
    claims: list[Claim] = []
    for name, part in PAPERS[paper].parts.items():
        result = computed(paper, name)
        claims += result.claims
        for claim in result.claims:
            assert sum(claim.statement.startswith(opening) for opening in openings) == 1, claim.statement
        if part.draw is not None:
            figures = part.draw(result.arrays, result.facts)
            assert all(figure == name or figure.startswith(f"{name}_") for figure in figures)
            for figure in figures.values():
                pyplot.close(figure)
    assert len(claims) == len(openings)


@pytest.mark.slow
@pytest.mark.parametrize("paper", OTHERS)
def test_full_size_with_another_seed(tmp_path: Path, paper: str) -> None:
    for name, part in PAPERS[paper].parts.items():
        for claim in part.compute(Settings(tmp_path, seed=1, paper=paper)).claims:
            (verdict,) = (
                v
                for of, where, o, v in STATEMENTS
                if (of, where) == (paper, name) and claim.statement.startswith(o)
            )
            assert claim.verdict == verdict, claim.to_dict()


def test_the_page_of_another_paper(tmp_path: Path) -> None:
    words = ["simon2023", "figure=network", "quick=true", "jobs=1", f"hydra.run.dir={tmp_path}"]
    line = [sys.executable, "-m", "sslmanifold", "reproduce", *words]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "simon2023" / "README.md").read_text(encoding="utf-8")
    assert page.startswith("# On the Stepwise Nature of Self-Supervised Learning")
    assert "(figures/network.png)" in page
    assert "1 of 3 parts done" in page
    assert (tmp_path / "simon2023" / "figures" / "network.pdf").stat().st_size > 5000


@pytest.mark.parametrize("paper", OTHERS)
def test_the_command_of_a_part_chooses_it(tmp_path: Path, paper: str) -> None:
    for part in PAPERS[paper].parts.values():
        words = Settings(tmp_path, paper=paper).command(part.name).split()
        options = reproduce_options(
            **validated(reproduce_options, plain(composed("reproduce", words[2:])), "")
        )
        assert chosen_parts(options["figure"], options["paper"]) == [part]
        settings = settings_of(options, tmp_path)
        assert settings.folder == tmp_path / paper


def test_mistakes() -> None:
    with pytest.raises(
        UserError, match="figure=3 is no part of paper=simon2023: choose all, steps, limit, network"
    ):
        chosen_parts(3, "simon2023")
    with pytest.raises(UserError, match="paper"):
        validated(reproduce_options, plain(composed("reproduce", ["paper=simon"])), "")


def test_views_have_the_moments_that_are_asked_for() -> None:
    signal, noise = (2.0, 0.5, 0.1), (0.3, 0.2, 0.0)
    for apart in (False, True):
        a, b = exact_views(torch.Generator().manual_seed(0), 20, signal, noise, apart=apart)
        x, x_aug = view_moments(a, b)
        np.testing.assert_allclose(torch.linalg.eigvalsh(x).flip(0), signal, atol=1e-12)
        np.testing.assert_allclose(torch.linalg.eigvalsh(x_aug).flip(0), noise, atol=1e-12)
        torch.testing.assert_close(pair_correlation(a, b), x - x_aug, rtol=0, atol=1e-12)
        commute = float((x @ x_aug - x_aug @ x).abs().max()) < 1e-12
        assert commute is not apart


def test_training_is_that_of_the_optimizer() -> None:
    """On ½λw²: plain steps shrink w by 1 − ηλ; momentum follows its recurrence; ``after`` changes it in place."""
    start = torch.tensor([2.0, -1.0], dtype=torch.float64)

    def loss(w: torch.Tensor) -> torch.Tensor:
        return 3 * w.square().sum() / 2

    ends = [w for (w,) in trained(loss, [start], 0.1, 4)]
    torch.testing.assert_close(torch.stack(ends), torch.stack([0.7**k * start for k in range(5)]))
    speed, w = torch.zeros(2, dtype=torch.float64), start
    for _ in range(4):
        speed = 0.5 * speed + 3 * w
        w = w - 0.1 * speed
    torch.testing.assert_close([v for (v,) in trained(loss, [start], 0.1, 4, momentum=0.5)][-1], w)
    *_, (held,) = trained(loss, [start], 0.1, 3, after=lambda weights: weights[0].fill_(5.0))
    assert held.tolist() == [5.0, 5.0]
    *_, (fast,) = trained(loss, [start], 0.1, 1, rates=[2.0])
    torch.testing.assert_close(fast, 0.4 * start)


def test_a_step_error_of_first_order_halves() -> None:
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    ratio, rest = halved(lambda lr: exact * (1 + 3 * lr + lr**2), exact, 1e-2)
    assert ratio == pytest.approx(2, abs=0.01)
    assert rest == pytest.approx(5e-5, rel=1e-3)


def test_crossings_are_interpolated_and_may_be_missing() -> None:
    times = torch.tensor([0.0, 1.0, 3.0])
    found = crossings(torch.tensor([[0.0, 0.0], [0.25, 0.1], [0.75, 0.2]]), times)
    assert found[0] == pytest.approx(2.0)
    assert found[1].isnan()


def test_siamese_training_is_the_gradient_written_out() -> None:
    """One step of each setting against E = W_a X − PW(X + X′) and, without stop-gradient, the target's own gradient."""
    g = torch.Generator().manual_seed(0)
    a, b = exact_views(g, 20, (1.0, 0.5, 0.3), (0.3, 0.2, 0.1), apart=True)
    x, x_aug = view_moments(a, b)
    w, p = (torch.randn(2, k, generator=g, dtype=torch.float64) for k in (3, 2))
    eta, alpha, beta, lr = 0.1, 2.0, 0.4, 0.05

    def stepped(**options: Any) -> tuple[torch.Tensor, ...]:
        *_, last = siamese_training(a, b, w, p, lr, 1, predictor_rate=alpha, weight_decay=eta, **options)
        return last

    error = w @ x - p @ w @ (x + x_aug)
    moved = w + lr * (p.mT @ error - eta * w)
    torch.testing.assert_close(stepped()[0], moved)
    torch.testing.assert_close(stepped()[1], p + lr * (alpha * error @ w.mT - eta * p))
    torch.testing.assert_close(stepped(ema_rate=beta)[2], w + lr * beta * (moved - w))
    both = p.mT @ error + p @ w @ x - w @ (x + x_aug)
    torch.testing.assert_close(stepped(stop_gradient=False)[0], w + lr * (both - eta * w))
    torch.testing.assert_close(stepped(kind="none")[0], w - lr * w @ (x_aug + eta * torch.eye(3)))
    values, vectors = torch.linalg.eigh(w @ w.mT)
    root = vectors * values.sqrt() @ vectors.mT
    torch.testing.assert_close(
        stepped(kind="direct")[0], w + lr * (root @ (w @ x - root @ w @ (x + x_aug)) - eta * w)
    )
    u, _, vh = torch.linalg.svd(moved + lr * eta * w, full_matrices=False)
    torch.testing.assert_close(stepped(orthonormal=True)[0], u @ vh)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_modes_of_a_setting_start_and_go_as_its_equations(name: str) -> None:
    """Slope at 0 from one short step of training, since both are the same at first order."""
    g = torch.Generator().manual_seed(0)
    a, b = exact_views(g, 20, (1.0,) * 3, (0.25,) * 3)
    weight = 0.6 * torch.eye(2, 3, dtype=torch.float64)
    kind: dict[str, Any] = {"weight_decay": 0.05} | SETTINGS[name]
    lr = 1e-5
    *_, (w, _, _) = siamese_training(a, b, weight, 0.5 * torch.eye(2, dtype=torch.float64), lr, 1, **kind)
    start, soon = mode_sizes(name, np.array([0.0, lr]))
    assert start == pytest.approx(0.6)
    assert (soon - start) / lr == pytest.approx(float(w[0, 0] - 0.6) / lr, rel=1e-4)


@pytest.mark.parametrize("shapes", [[(3, 2)], [(5, 3), (5, 2)], [(5, 3), (5, 4), (4, 2)]])
def test_the_contrast_flow_of_layers_is_that_of_autograd(shapes: list[tuple[int, int]]) -> None:
    """The map's velocity from each layer's gradient by autograd, against a short piece of the flow."""
    g = torch.Generator().manual_seed(0)
    a, b = exact_views(g, 10, (1.0, 0.8, 0.5), (0.1, 0.2, 0.9))
    weights = [0.5 * torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]
    leaves = [w.clone().requires_grad_() for w in weights]
    infonce_distance_loss(a @ product(leaves), b @ product(leaves)).backward()
    moved = product([w - 1e-6 * leaf.grad for w, leaf in zip(weights, leaves, strict=True)])
    flow = contrast_flow(a, b, weights, np.array([0.0, 1e-6]))
    torch.testing.assert_close(flow[0], product(weights))
    torch.testing.assert_close((flow[1] - flow[0]) / 1e-6, (moved - flow[0]) / 1e-6, rtol=1e-4, atol=1e-5)


def test_the_page_shows_every_statement_and_figure() -> None:
    """Its tables come from full-size runs: the same verdicts as here."""
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "theories_reproduced.md").read_text(encoding="utf-8")
    for paper in OTHERS:
        _, _, table = page.partition(f"<!-- {paper} -->")
        table, _, _ = table.partition(f"<!-- end of {paper} -->")
        rows = [
            [cell.strip(" *") for cell in row.split(" | ")]
            for row in table.splitlines()
            if row.startswith("| ")
        ][1:]
        wanted = [(part, opening, verdict) for of, part, opening, verdict in STATEMENTS if of == paper]
        assert len(rows) == len(wanted)
        for part, opening, verdict in wanted:
            (row,) = (row for row in rows if row[0].removeprefix("| ").startswith(opening))
            assert row[1] == verdict
            assert part in row[-1]
    drawn = {name for paper in OTHERS for name, part in PAPERS[paper].parts.items() if part.draw is not None}
    assert {path.stem for path in (docs / "theories").iterdir()} == drawn
    for name in drawn:
        assert f"(theories/{name}.png)" in page
        assert (docs / "theories" / f"{name}.png").stat().st_size < 200_000
