"""A checkpoint read back only as it was written: every byte against the checksums that torch keeps in the file."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from sslmanifold.errors import UserError


def load_file(path: Path) -> Any:
    """What a file of ``torch.save`` holds, on the CPU, without running any code it might carry (``weights_only``).

    torch writes a CRC-32 of every tensor and of the structure, and does not look at it when it loads: of files with
    one flipped bit it loads most without a word.

    Raises:
        UserError: where the file is no such file, or its content is not what was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
        fault = f"{damaged} in it is not what was written"
    except zipfile.BadZipFile:
        size = path.stat().st_size
        fault = f"its {size} bytes are cut short, or are no checkpoint" if size else "it is empty"
    except pickle.UnpicklingError:  # whose own words advise to load it unsafely
        fault = "it holds Python objects, and reading those may run code; what a run writes holds none"
    except Exception as error:  # a damaged header or pickle raises anything
        fault = next(iter(str(error).splitlines()), repr(error))
    raise UserError(f"{path} cannot be read as a checkpoint: {fault}")
