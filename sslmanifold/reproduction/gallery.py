"""The figures again, small enough for a README: fewer pixels and colours, the same captions and metadata."""

from collections.abc import Iterable
from pathlib import Path

from sslmanifold.runs import atomic

WIDTH = 1300  # pixels, at most
COLOURS = 256


def write_gallery(figures: Iterable[Path], folder: Path) -> list[Path]:
    """Write each PNG into the folder, at most ``WIDTH`` pixels wide, with its title and description.

    Returns:
        The files written.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    written = []
    for path in figures:
        with Image.open(path) as image:
            height = round(image.height * min(1.0, WIDTH / image.width))
            small = image.convert("RGB").resize((min(WIDTH, image.width), height), Image.Resampling.LANCZOS)
            information = PngInfo()
            for key in ("Title", "Description"):
                information.add_itxt(key, image.info[key])
            # no dithering, and a method that leaves the colours of thin lines as they are
            plain = small.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            with atomic(folder / path.name) as temporary:
                plain.save(temporary, format="PNG", pnginfo=information, optimize=True)
        written.append(folder / path.name)
    return written
