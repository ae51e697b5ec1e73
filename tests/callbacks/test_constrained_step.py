"""Constraints on several layers together, in a LightningModule that knows nothing of them."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

from sslmanifold import constrain
from sslmanifold.callbacks import ConstrainedStep
from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.errors import UserError
from sslmanifold.geometry import RiemannianSGD
from sslmanifold.reproduction.descent import descend, last, moment_loss

SHAPE = NetworkShape(dim=5, hidden=9, embedding=2)
C = torch.diag(torch.tensor([-2.0, -0.6, -0.3, 0.2, 0.5], dtype=torch.float64))


class Strangers(lightning.LightningModule):
    """u(x) = A₂ A₁ x as two nn.Linear, and the loss of Eq. 8; one more parameter that the loss scales with."""

    def __init__(self, lr: float = 0.02, manual: bool = False) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(5, 9, bias=False), nn.Identity(), nn.Linear(9, 2, bias=False)
        ).double()
        self.other = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.lr, self.automatic_optimization = lr, not manual

    def loss(self, factor: Tensor) -> Tensor:
        m = (self.head[2].weight @ self.head[0].weight).mT  # (d, z)
        return factor * (m * (C @ m)).sum() + 0 * self.other

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        loss = self.loss(batch.squeeze())
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


WEIGHTS = ["head.0.weight", "head.2.weight"]


def fit(
    module: lightning.LightningModule, callback: ConstrainedStep, folder: Path, steps: int, **options: Any
) -> Any:
    """``steps`` optimizer steps; a batch is what the loss is multiplied by."""
    factors = options.pop("factors", [1.0])
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, callbacks=[callback], log_every_n_steps=1, **options,
    )  # fmt: skip
    data = torch.tensor(factors * steps, dtype=torch.float64)
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=1))
    return trainer


def chain(module: Strangers) -> list[Tensor]:
    return [module.head[0].weight.detach()[None], module.head[2].weight.detach().mT[None]]


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("name", ["product", "scaled"])
def test_it_trains_as_our_own_network_does(name: str, manual: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, constraint = Strangers(manual=manual), make_constraint(name)
    with torch.no_grad():
        for weight in module.head.parameters():
            weight.mul_(2.0)
    start = [weight.clone() for weight in chain(module)]
    constraint.project_jointly(start)
    callback = ConstrainedStep(name, WEIGHTS)
    trainer = fit(module, callback, tmp_path, 25)
    ours = last(descend(constraint, SHAPE, start, moment_loss(C), 0.02, 25))
    for a, b in zip(chain(module), ours.weights, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-10, atol=1e-12)
    assert not torch.equal(chain(module)[0], start[0])
    logged = trainer.callback_metrics["constraint/residual"]
    assert float(logged) == pytest.approx(float(constraint.residual(chain(module))), abs=1e-9)
    assert float(logged) < 1e-9


def test_a_bound_is_kept_and_is_reached(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Strangers(lr=0.1)
    fit(module, ConstrainedStep("product", [module.head[0], module.head[2]], c=0.7), tmp_path, 100)
    norm = torch.linalg.matrix_norm((module.head[2].weight @ module.head[0].weight).detach(), 2)
    assert float(norm) == pytest.approx(0.7, abs=1e-9)


@pytest.mark.parametrize("name", ["product", "scaled"])
def test_accumulated_batches_are_one_step_of_their_mean(name: str, tmp_path: Path) -> None:
    results = []
    for options in ({"factors": [0.5, 1.5], "accumulate_grad_batches": 2}, {"factors": [1.0]}):
        torch.manual_seed(0)
        module = Strangers()
        fit(module, ConstrainedStep(name, WEIGHTS), tmp_path, 10, **options)
        results.append(chain(module))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_frozen_layer_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Strangers(lr=0.1)
    before = module.head[0].weight.requires_grad_(False).clone()
    with torch.no_grad():
        module.head[2].weight.mul_(9)
    fit(module, ConstrainedStep("product", WEIGHTS), tmp_path, 20)
    assert torch.equal(module.head[0].weight, before)
    norm = torch.linalg.matrix_norm((module.head[2].weight @ module.head[0].weight).detach(), 2)
    assert float(norm) <= 1 + 1e-9


def test_three_layers_are_one_map(tmp_path: Path) -> None:
    class Deep(Strangers):
        def __init__(self) -> None:
            super().__init__(lr=0.1)
            self.head[1] = nn.Linear(9, 9, bias=False).double()

        def loss(self, factor: Tensor) -> Tensor:
            m = (self.head[2].weight @ self.head[1].weight @ self.head[0].weight).mT
            return (m * (C @ m)).sum()

    torch.manual_seed(0)
    module = Deep()
    with torch.no_grad():
        for weight in module.head.parameters():
            weight.mul_(2.0)
    fit(module, ConstrainedStep("product", list(module.head), c=0.7), tmp_path, 30)
    a1, a2, a3 = (layer.weight.detach() for layer in module.head)
    assert float(torch.linalg.matrix_norm(a3 @ a2 @ a1, 2)) == pytest.approx(0.7, abs=1e-9)
    for layer in (module.head[0], module.head[2]):
        layer.requires_grad_(False)
    with torch.no_grad():
        module.head[1].weight.mul_(2.0)
    with pytest.raises(UserError, match="from its first and last layer, and both are frozen"):
        fit(module, ConstrainedStep("product", list(module.head)), tmp_path, 1)


def test_what_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'one of single weights: write constrain\(module, "orthogonal"'):
        ConstrainedStep("orthogonal", WEIGHTS)
    with pytest.raises(UserError, match="binds two layers or more"):
        ConstrainedStep("product", ["head.0.weight"])
    with pytest.raises(UserError, match="binds two layers or more"):
        ConstrainedStep("product", "head.*.weight")
    for weights, message in (
        (["head.2.weight", "head.0.weight"], r"no chain, 2 outputs meet 5 inputs: name layers that follow"),
        (["head.*.weight", "head.2.weight"], r"means head\.0\.weight, head\.2\.weight, which is not one matrix"),
        (["head.0.weight", "tail.2.weight"], r"'tail\.2\.weight' matches no parameter: near are head\.2\.weight"),
        (["head.0.weight"] * 3, "9 outputs meet 5 inputs"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            fit(Strangers(), ConstrainedStep("product", weights), tmp_path, 1)
    with pytest.raises(UserError, match=r"on Stiefel.* already: write release\(module\)"):
        fit(constrain(Strangers(), "orthogonal"), ConstrainedStep("product", WEIGHTS), tmp_path, 1)


def test_an_objective_that_is_no_multiple_of_the_loss_is_refused(tmp_path: Path) -> None:
    from dataclasses import dataclass

    from sslmanifold.constraints import Unconstrained

    @dataclass(kw_only=True)
    class Penalised(Unconstrained):
        name = "penalised_here"

        def objective(self, loss: Tensor, weights: Any) -> Tensor:
            return loss + weights[0].square().sum((-2, -1))

    with pytest.raises(
        UserError, match=r"return constraint\.smooth_part\(loss, weights\) from training_step"
    ):
        fit(Strangers(), ConstrainedStep(Penalised(), WEIGHTS), tmp_path, 1)


def test_different_rates_for_one_proximal_step_are_refused(tmp_path: Path) -> None:
    class Groups(Strangers):
        def configure_optimizers(self) -> Any:
            return RiemannianSGD(
                [
                    {"params": self.head[0].parameters(), "lr": 0.1},
                    {"params": self.head[2].parameters(), "lr": 0.2},
                ]
            )

    with pytest.raises(UserError, match=r"learning rates are 0\.1, 0\.2"):
        fit(Groups(), ConstrainedStep("scaled", WEIGHTS), tmp_path, 1)
    fit(Groups(), ConstrainedStep("product", WEIGHTS), tmp_path, 1)  # which has no kinks


class Unequal(Strangers):
    """The losses of two processes are 0.5 and 1.5 times the loss, which is their mean."""

    def loss(self, factor: Tensor) -> Tensor:
        return super().loss(factor * (0.5 + self.global_rank))


class Saving(lightning.Callback):
    """Leaves the weights of each process in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save([p.detach() for p in chain(pl_module)], self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.forks
def test_two_processes_step_as_one(tmp_path: Path) -> None:
    for name in ("product", "scaled"):
        for processes in (2, 1):
            torch.manual_seed(0)
            trainer = lightning.Trainer(
                max_steps=10, accelerator="cpu", devices=processes,
                strategy="ddp_fork" if processes == 2 else "auto",
                logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
                callbacks=[ConstrainedStep(name, WEIGHTS), *[Saving(tmp_path)] * (processes == 2)],
            )  # fmt: skip
            module = Unequal() if processes == 2 else Strangers()
            factors = torch.ones(10 * processes, dtype=torch.float64)
            trainer.fit(module, torch.utils.data.DataLoader(factors, batch_size=1))
        first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
        for a, b, alone in zip(first, second, chain(module), strict=True):
            assert torch.equal(a, b)
            torch.testing.assert_close(a, alone, rtol=1e-9, atol=1e-12)
