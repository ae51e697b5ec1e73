"""The data module: C of exactly the batches, whatever the batches, and exact resumption in the middle."""

import lightning
import numpy as np
import pytest
import torch

from sslmanifold.data import Digits, HalfMoons, PairDataModule, TripletBatch
from sslmanifold.errors import UserError
from sslmanifold.theory.moments import cross_moment


def module(steps=10, contrastive=True, reduction="sum", seed=0, dtype=torch.float64, start_step=0, **options):
    data = HalfMoons(n=50, **options)
    return PairDataModule(data, seed, steps, contrastive, reduction, dtype=dtype, start_step=start_step)


def batches(dm):
    return list(dm.train_dataloader())


def numpy_moment(x, positives, negatives, reduction):
    """Eq. 7, pair by pair."""
    n, d = x.shape
    positives = positives.reshape(n, -1, d)
    c = np.zeros((d, d))
    for i in range(n):
        beta = 1 if reduction == "sum" else 1 / positives.shape[1]
        other = -beta * positives[i].sum(axis=0)
        if negatives is not None:
            pairs = negatives.reshape(n, -1, d)[i]
            other = other + pairs.sum(axis=0) * (1 if reduction == "sum" else 1 / len(pairs))
        c += np.outer(x[i], other)
    return (c + c.T) / (2 * n if reduction == "mean" else 2)


@pytest.mark.parametrize("reduction", ["sum", "mean", "pair_mean"])
@pytest.mark.parametrize("contrastive", [True, False])
@pytest.mark.parametrize(("p", "q"), [(1, 1), (3, 2)])
def test_moment_is_eq_7_of_the_batch(reduction, contrastive, p, q):
    dm = module(1, contrastive, reduction, positives=p, negatives=q)
    (batch,) = batches(dm)
    assert (batch.negatives is None) == (not contrastive)
    x, positives, negatives = (None if t is None else t.numpy() for t in batch)
    np.testing.assert_allclose(
        dm.moment().numpy(), numpy_moment(x, positives, negatives, reduction), atol=1e-12
    )


def test_moment_of_float32_training_is_float64():
    dm = module(1, dtype=torch.float32)
    (batch,) = batches(dm)
    assert batch.x.dtype == torch.float32
    assert dm.moment().dtype == torch.float64
    assert torch.equal(dm.moment(), module().moment())


def test_dtype_is_torchs_default_unless_given():
    dm = module(1, dtype=None)
    assert batches(dm)[0].x.dtype == torch.get_default_dtype()


def test_full_batches_are_one_cached_draw():
    dm = module(7)
    seen = batches(dm)
    assert len(seen) == len(dm.train_dataloader()) == 7
    assert all(batch is seen[0] for batch in seen)


def test_minibatches_of_a_pass_make_up_the_frozen_draw():
    dm = module(10, batch_size=20)  # 3 steps to a pass: 20, 20, 10
    full = dm.triplets.full()
    seen = batches(dm)
    assert [len(b.x) for b in seen] == [20, 20, 10] * 3 + [20]
    orders = []
    for turn in range(3):
        x, positives, negatives = (
            torch.cat(parts) for parts in zip(*seen[3 * turn : 3 * turn + 3], strict=True)
        )
        order = torch.argsort(x[:, 0])
        expected = torch.argsort(full.x[:, 0])
        assert torch.equal(positives[order], full.positives[expected])
        assert torch.equal(negatives[order], full.negatives[expected])
        torch.testing.assert_close(cross_moment(x, positives, negatives), dm.moment())
        orders.append(x[:, 0].tolist())
    assert orders[0] != orders[1] != orders[2]


def noise(dm, batch):
    """Which noise each anchor got, by anchor."""
    return {
        row[0].item(): pos for row, pos in zip(batch.x, (batch.positives - batch.x).tolist(), strict=True)
    }


def test_resampling_per_epoch_and_per_step():
    for resample, batch_size, expected in [
        ("never", None, [0, 0, 0, 0, 0, 0]),
        ("epoch", None, [0, 1, 2, 3, 4, 5]),
        ("step", None, [0, 1, 2, 3, 4, 5]),
        ("never", 25, [0, 0, 0, 0, 0, 0]),
        ("epoch", 25, [0, 0, 1, 1, 2, 2]),
        ("step", 25, [0, 1, 2, 3, 4, 5]),
    ]:
        dm = module(6, resample=resample, batch_size=batch_size)
        stream = dm.train_dataloader()
        for step, batch in enumerate(stream):
            assert stream.draw(step) == expected[step]
            frozen = noise(dm, dm.triplets.full(expected[step]))
            assert noise(dm, batch).items() <= frozen.items()


def test_moment_of_each_draw():
    dm = module(3, resample="step")
    for step, batch in enumerate(dm.train_dataloader()):
        torch.testing.assert_close(dm.moment(step), cross_moment(*batch))


@pytest.mark.parametrize("resample", ["never", "epoch", "step"])
@pytest.mark.parametrize("batch_size", [None, 20])
def test_starting_in_the_middle_continues_bit_for_bit(resample, batch_size):
    options = {"resample": resample, "batch_size": batch_size}
    whole = batches(module(8, **options))
    rest = batches(module(8, start_step=5, **options))
    assert len(rest) == 3
    for left, right in zip(whole[5:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_state_dict_carries_the_step_over():
    first = module(8, batch_size=20, resample="step")
    stream = first.train_dataloader()
    seen = [batch for _, batch in zip(range(3), stream, strict=False)]
    second = module(8, batch_size=20, resample="step")
    second.load_state_dict(first.state_dict())
    rest = batches(second)
    whole = batches(module(8, batch_size=20, resample="step"))
    assert len(seen) + len(rest) == 8
    for left, right in zip(whole, seen + rest, strict=True):
        assert torch.equal(left.positives, right.positives)


def test_a_stream_resumes_by_itself():
    first, second = (module(8, batch_size=20, resample="step").train_dataloader() for _ in range(2))
    for _ in zip(range(5), first, strict=False):
        pass
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert len(rest) == 3
    assert torch.equal(rest[0].positives, first.batch(5).positives)
    assert len(list(second)) == 8  # iterating again is a run from the start


def test_a_full_batch_is_copied_to_an_accelerator_once():
    dm = module(3)
    first, second, _ = batches(dm)
    device = torch.device("meta")  # any device that is not the CPU
    there = dm.transfer_batch_to_device(first, device, 0)
    assert isinstance(there, TripletBatch)
    assert there.positives.device == device
    assert dm.transfer_batch_to_device(second, device, 0) is there
    assert dm.transfer_batch_to_device(first, torch.device("cpu"), 0).x is first.x
    dm = module(3, batch_size=20)
    first, second, _ = batches(dm)
    there = dm.transfer_batch_to_device(first, device, 0)
    assert dm.transfer_batch_to_device(second, device, 0) is not there
    dm = module(3, contrastive=False)
    assert dm.transfer_batch_to_device(batches(dm)[0], device, 0).negatives is None


@pytest.mark.parametrize(
    ("other", "key"),
    [({"seed": 1}, "seed"), ({"batch_size": 10}, "batch_size"), ({"noise": 0.2}, "checksum")],
)
def test_a_checkpoint_of_other_data_is_refused(other, key):
    state = module().state_dict()
    with pytest.raises(UserError, match=key):
        module(**other).load_state_dict(state)


class Recorder(lightning.LightningModule):
    """A model whose weights depend on every batch it has seen, in order."""

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(2, 2, bias=False, dtype=torch.float64)
        torch.nn.init.eye_(self.map.weight)

    def training_step(self, batch: TripletBatch, index: int):
        return (self.map(batch.x) * (self.map(batch.negatives) - self.map(batch.positives))).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(steps, folder, ckpt=None, every=1000):
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(
        dirpath=folder, every_n_train_steps=every, save_top_k=-1, filename="{step}"
    )
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[checkpoint],
    )
    model = Recorder()
    trainer.fit(model, datamodule=module(12, batch_size=20, resample="epoch"), ckpt_path=ckpt)
    return trainer, model.map.weight.detach()


def test_lightning_trains_the_whole_run_as_one_epoch_and_resumes_in_the_middle(tmp_path):
    trainer, whole = fit(12, tmp_path / "whole", every=5)
    assert trainer.global_step == 12
    assert trainer.current_epoch == 1
    resumed_trainer, resumed = fit(12, tmp_path / "rest", ckpt=str(tmp_path / "whole" / "step=5.ckpt"))
    assert resumed_trainer.global_step == 12
    assert torch.equal(whole, resumed)


def test_batches_without_samples_for_steps_through_c():
    dm = PairDataModule(Digits(), 0, 3, without_samples=True)
    seen = batches(dm)
    assert [tuple(batch.x.shape) for batch in seen] == [(0, 64)] * 3
    assert dm.moment().shape == (64, 64)


def test_dimensions_are_known_before_training():
    dm = PairDataModule(Digits(classes=[0, 1], per_class=30, pca=4), 0, 1)
    assert (dm.n, dm.dim) == (60, 4)
    assert dm.samples.name == "digits"
