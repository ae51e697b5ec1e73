"""The one door through which geoopt is imported.

geoopt 0.5.1 decorates 73 functions with ``torch.jit.script``, each of which warns under a recent torch.
The warnings say nothing about this project, so that one message is filtered before geoopt loads.
"""

import warnings

warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*", category=DeprecationWarning)

import geoopt  # noqa: E402

#: Versions that the tests of this package run on.
SUPPORTED_GEOOPT = ("0.5.1",)

__all__ = ["SUPPORTED_GEOOPT", "geoopt"]
