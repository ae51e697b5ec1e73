"""One thread and reproducible Hypothesis examples for the geometry tests."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "geometry", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(autouse=True)
def _quiet_and_single_threaded():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


settings.load_profile("geometry")
