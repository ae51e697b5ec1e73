"""Each metric over two processes equals the metric over all their samples."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sslmanifold import metrics

U = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 31, 4)))  # two replicas
VIEWS = U.unsqueeze(2) + 0.1 * torch.from_numpy(np.random.default_rng(1).standard_normal((2, 31, 3, 4)))
X = torch.from_numpy(np.random.default_rng(2).standard_normal((31, 6)))

CASES = {
    "EffectiveRank": lambda rows: (U[:, rows],),
    "StableRank": lambda rows: (U[:, rows],),
    "ParticipationRatio": lambda rows: (U[:, rows],),
    "RankMe": lambda rows: (U[:, rows],),
    "AlphaReQ": lambda rows: (U[:, rows],),
    "Uniformity": lambda rows: (U[:, rows],),
    "Alignment": lambda rows: (U[:, rows], VIEWS[:, rows]),
    "LiDAR": lambda rows: (VIEWS[:, rows],),
    "PCAOverlap": lambda rows: (U[:, rows], X[rows]),
}
# Unequal shares, and several updates in one of them.
SHARES = [[slice(0, 5), slice(5, 12)], [slice(12, 31)]]


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {}
    for name, inputs in CASES.items():
        metric = getattr(metrics, name)()
        for rows in SHARES[rank]:
            metric.update(*inputs(rows))
        results[name] = metric.compute()
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("ranks"))
    # from a process of its own: a fork of this one, with the threads of the tests before, can hang
    subprocess.run([sys.executable, __file__, folder], check=True, timeout=120)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_see_all_samples(name, results):
    metric = getattr(metrics, name)()
    metric.update(*CASES[name](slice(0, 31)))
    for result in results:
        torch.testing.assert_close(result[name], metric.compute(), rtol=1e-10, atol=1e-10)


if __name__ == "__main__":
    mp.start_processes(_work, (sys.argv[1],), nprocs=2, start_method="fork")
