"""Callbacks that measure while anything trains: spectrum, exact dynamics, optimum, probe."""

from sslmanifold.callbacks.collapse import CollapseWarning
from sslmanifold.callbacks.constrained_step import ConstrainedStep
from sslmanifold.callbacks.map_trace import MapTrace
from sslmanifold.callbacks.observer import Observer, Recorded
from sslmanifold.callbacks.ode import ODEComparison
from sslmanifold.callbacks.online_probe import OnlineProbe
from sslmanifold.callbacks.optimum import Optimum
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.callbacks.spectrum import SpectrumMonitor
from sslmanifold.callbacks.tap import Tap

__all__ = [
    "CollapseWarning",
    "ConstrainedStep",
    "MapTrace",
    "ODEComparison",
    "Observer",
    "OnlineProbe",
    "Optimum",
    "Recorded",
    "Snapshot",
    "SpectrumMonitor",
    "Tap",
]
