"""Every metric keeps torchmetrics' contract, and no number comes from what is not an embedding."""

import copy
import io
import pickle
import re

import matplotlib
import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.aggregation import MeanMetric

from sslmanifold import metrics
from sslmanifold.errors import UserError
from sslmanifold.metrics import EffectiveRank, PCAOverlap, SubspaceDistance

matplotlib.use("Agg")
G = torch.Generator().manual_seed(0)
U = torch.randn(2, 24, 4, generator=G, dtype=torch.float64)  # two replicas
VIEWS = U.unsqueeze(2) + 0.1 * torch.randn(2, 24, 3, 4, generator=G, dtype=torch.float64)
X = torch.randn(24, 6, generator=G, dtype=torch.float64)
BASES = torch.randn(3, 2, 24, 7, 2, generator=G, dtype=torch.float64)

INPUTS = {
    "Alignment": lambda rows: (U[:, rows], VIEWS[:, rows]),
    "AlphaReQ": lambda rows: (U[:, rows],),
    "EffectiveRank": lambda rows: (U[:, rows],),
    "LiDAR": lambda rows: (VIEWS[:, rows],),
    "PCAOverlap": lambda rows: (U[:, rows], X[rows]),
    "ParticipationRatio": lambda rows: (U[:, rows],),
    "RankMe": lambda rows: (U[:, rows],),
    "StableRank": lambda rows: (U[:, rows],),
    "SubspaceDistance": lambda rows: (BASES[0, :, rows.start], BASES[1, :, rows.start]),
    "SubspaceOverlap": lambda rows: (BASES[0, :, rows.start], BASES[1, :, rows.start]),
    "Uniformity": lambda rows: (U[:, rows],),
}
BATCHES = [slice(0, 6), slice(6, 13), slice(13, 24)]
# torchmetrics says so of states that were loaded or merged rather than updated
pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")
every = pytest.mark.parametrize("name", INPUTS)


def updated(name, batches=BATCHES):
    metric = getattr(metrics, name)()
    for rows in batches:
        metric.update(*INPUTS[name](rows))
    return metric


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_all_metrics_are_here():
    assert {n for n in metrics.__all__ if n[0].isupper()} == set(INPUTS)


@every
def test_forward_is_the_value_of_the_batch_and_accumulates(name):
    metric = getattr(metrics, name)()
    for rows in BATCHES:
        close(metric(*INPUTS[name](rows)), updated(name, [rows]).compute())
    close(metric.compute(), updated(name).compute())
    metric.reset()
    metric.update(*INPUTS[name](BATCHES[1]))
    close(metric.compute(), updated(name, BATCHES[1:2]).compute())


@every
def test_state_does_not_grow_with_the_number_of_batches(name):
    if name == "Uniformity":
        pytest.skip("keeps all embeddings, as it says")
    metric, sizes = getattr(metrics, name)(), []
    for _ in range(4):
        for rows in BATCHES:
            metric(*INPUTS[name](rows))
        state = metric.metric_state.values()
        sizes.append(sum(t.numel() for s in state for t in (s if isinstance(s, list) else [s])))
    assert len(set(sizes)) == 1


@every
@pytest.mark.parametrize("as_dict", [False, True])
def test_states_merge(name, as_dict):
    first, second = updated(name, BATCHES[:1]), updated(name, BATCHES[1:])
    first.merge_state(second.metric_state if as_dict else second)
    close(first.compute(), updated(name).compute())


@every
def test_copies_pickles_and_saved_states(name):
    metric = updated(name, BATCHES[:2])
    value = metric.compute()
    metric.persistent(True)
    file = io.BytesIO()
    torch.save(metric.state_dict(), file)
    file.seek(0)
    fresh = getattr(metrics, name)()
    fresh.persistent(True)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    twins = [metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), fresh]
    for twin in twins:
        close(twin.compute(), value)
        twin.update(*INPUTS[name](BATCHES[2]))
        close(twin.compute(), updated(name).compute())
    close(metric.compute(), value)  # untouched by its copies
    assert len(getattr(metrics, name)().state_dict()) == 0  # not persistent unless asked


@every
def test_plots(name):
    from matplotlib import pyplot

    metric = updated(name)
    low, high = metric.plot_lower_bound, metric.plot_upper_bound
    _, axes = metric.plot()  # one value for each replica
    assert axes.get_ylabel() == name
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["Replica 0", "Replica 1"]
    value = metric.compute()
    assert bool((value >= (low if low is not None else -torch.inf)).all())
    assert bool((value <= (high if high is not None else torch.inf)).all())
    _, given = pyplot.subplots()
    metric.plot([updated(name, [rows]).compute() for rows in BATCHES], ax=given)  # a course of both
    assert [len(line.get_xdata()) for line in given.lines[:2]] == [3, 3]
    metric.plot(value[0])
    metric.plot([value[:1], value[1:]])
    metric.plot(value.expand(3, 2))  # replicas of replicas, in one row
    pyplot.close("all")


def test_a_collection_shares_states_that_are_equal():
    together = MetricCollection(
        {n: getattr(metrics, n)() for n in INPUTS if len(INPUTS[n](BATCHES[0])) == 1 and n != "LiDAR"}
    )
    for rows in BATCHES:
        together.update(U[:, rows])
    assert len(together.compute_groups) == 3  # centred spectra, RankMe, Uniformity
    for name, value in together.compute().items():
        close(value, updated(name).compute())


@every
def test_a_number_that_is_not_finite_is_nan_and_spoils_no_other_replica(name):
    for bad in (torch.nan, torch.inf):
        inputs = [t.clone() for t in INPUTS[name](slice(0, 24))]
        inputs[0][1].view(-1)[5] = bad
        metric = getattr(metrics, name)()
        metric.update(*inputs)
        value = metric.compute()
        assert torch.isnan(value).tolist() == [False, True]
        close(value[0], updated(name, [slice(0, 24)]).compute()[0])


@every
def test_before_the_first_update_there_is_no_number(name):
    metric = getattr(metrics, name)()
    try:
        assert torch.isnan(metric.compute())
    except ValueError as error:
        assert "No samples" in str(error)  # noqa: PT017


def test_of_no_embeddings_nothing_is_known():
    for function in (
        metrics.effective_rank,
        metrics.rankme,
        metrics.stable_rank,
        metrics.participation_ratio,
    ):
        assert torch.isnan(function(torch.zeros(0, 3)))
    assert torch.isnan(metrics.alignment(torch.zeros(0, 3), torch.zeros(0, 3)))
    assert torch.isnan(metrics.uniformity(torch.zeros(0, 3)))


FUNCTIONS = ["effective_rank", "rankme", "stable_rank", "participation_ratio", "alpha_req", "uniformity"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_row_of_numbers_is_no_embedding(name):
    function = getattr(metrics, name)
    with pytest.raises(
        UserError, match=re.escape("(…, n, z) is needed, got shape (5,): write u[:, None] for n points")
    ):
        function(torch.arange(5.0))
    with pytest.raises(UserError, match="complex numbers"):
        function(torch.ones(5, 2, dtype=torch.complex64))
    assert function(torch.arange(5)[:, None]).shape == ()  # whole numbers are numbers
    classes = {c.lower(): c for c in INPUTS}
    with pytest.raises(UserError, match="write u"):
        getattr(metrics, classes[name.replace("_", "")])().update(torch.arange(5.0))


WRONG = {
    "positives of others": (metrics.alignment, (U[0], VIEWS[0, :5]), r"\(24, 4\): give one positive each"),
    "positives of other size": (metrics.alignment, (U[0], X), "give one positive each"),
    "views without samples": (
        metrics.lidar,
        (U[0, :, :1, None],),
        "two views or more of each sample, got 4|got 1",
    ),
    "no views": (metrics.lidar, (U[0],), r"\(…, n, q, z\) is needed"),
    "one view": (metrics.lidar, (VIEWS[0, :, :1],), r"got 1 in shape .*torch\.stack"),
    "rows for columns": (metrics.subspace_distance, (BASES[0, 0, 0], BASES[0, 0, 0].mT), r"write a\.mT"),
    "a vector": (metrics.subspace_overlap, (X[:, 0], X), r"\(…, d, k\) is needed"),
    "other points": (metrics.pca_overlap, (U[0], X[:7]), "24 embeddings, .* of 7 points"),
    "no components": (metrics.pca_overlap, (U[0], X, 0), "components=0 spans nothing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_said(name):
    function, arguments, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        function(*arguments)


def test_another_embedding_needs_a_reset():
    for name in ("EffectiveRank", "PCAOverlap", "LiDAR", "Uniformity"):
        metric = updated(name, BATCHES[:1])
        other = [t[..., :2] for t in INPUTS[name](BATCHES[1])]
        with pytest.raises(UserError, match=r"metric\.reset\(\)"):
            metric.update(*other)
        metric.update(*INPUTS[name](BATCHES[1]))
        close(metric.compute(), updated(name, BATCHES[:2]).compute())
    metric = EffectiveRank()
    metric.update(U)
    with pytest.raises(UserError, match="replicas and dimensions"):
        metric.update(U[0])


def test_features_are_a_state():
    metric = PCAOverlap()
    assert int(metric.features) == 0
    metric.update(U, X)
    assert set(metric.metric_state) == {"factors", "features"}
    assert int(metric.features) == 6
    metric.reset()
    assert int(metric.features) == 0
    metric.update(U, X[:, :3])
    close(metric.compute(), metrics.pca_overlap(U, X[:, :3]))


def test_the_largest_distance_starts_from_nothing():
    metric = SubspaceDistance()
    metric.merge_state(updated("SubspaceDistance"))
    close(metric.compute(), updated("SubspaceDistance").compute())


def test_lightnings_mean_takes_what_forward_returns():
    mean = MeanMetric()
    mean.update(EffectiveRank()(U))
    assert torch.isfinite(mean.compute())
