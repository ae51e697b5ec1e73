"""A configuration composed outside a command: for Python, notebooks and tests."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from sslmanifold.config.application import composition_message
from sslmanifold.config.location import command_dir
from sslmanifold.errors import UserError


def composed(command: str, overrides: Sequence[str], config_dir: str | Path | None = None) -> DictConfig:
    """``conf/<command>.yaml`` with the overrides, as the command line composes it.

    Args:
        config_dir: a directory of further config groups, as ``--config-dir``.

    Raises:
        UserError: where it does not compose; the message lists the choices.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    lines = list(overrides)
    if config_dir is not None:
        lines.append(f"hydra.searchpath=[file://{Path(config_dir).resolve()}]")
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(command_dir(command)), version_base="1.3"):
            return compose(command, overrides=lines)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(composition_message(error, command, list(overrides))) from error
    finally:
        GlobalHydra.instance().hydra = before
