"""Converts an image file of any kind to 8-bit RGB without losing what it shows.

H W = height and width, C = 3 channels, N = images.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hypergpu_fl.errors import TaskError
from hypergpu_fl.output import printable
from hypergpu_fl.task.folder import listed

SIDE: Final = 64  # images of a folder come in all sizes; they are scaled to this many pixels a side
# Pillow would also open PostScript, for which it starts another program.
_FORMATS: Final = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
_PLAIN: Final = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
_ALPHA: Final = ("LA", "La", "PA", "RGBA", "RGBa")
# Possible values of white in modes that do not define it. X-ray and microscope cameras store 12 bits in 16.
_WHITES: Final = {"integer": (255.0, 4095.0, 65535.0), "float": (1.0, 255.0, 65535.0)}
_BACKGROUND: Final = (128, 128, 128, 255)  # black drawings and white ones both stand out from grey


@dataclass(frozen=True, slots=True)
class _Deep:
    """A grey image of more than 8 bits, resized but not yet reduced to 8: that needs the largest value of the set."""

    kind: str
    largest: float
    grey_HW: NDArray[np.float32]


def read_images(root: Path, names: Sequence[str]) -> NDArray[np.uint8]:
    """Images as ``(N, 3, SIDE, SIDE)``, upright as their EXIF says, transparent ones on grey.

    Grey images of 16 or 32 bits or floats are scaled by one white for all of ``names``: the lowest usual one (255,
    4,095 or 65,535, for floats 1, 255 or 65,535) that no pixel exceeds.

    Raises
    ------
    TaskError
        Naming the file, if it is torn, too large, of several pages, or of a mode that has no faithful conversion.
    """
    pixels_NCHW = np.empty((len(names), 3, SIDE, SIDE), np.uint8)
    deep: dict[int, _Deep] = {}
    broken: dict[str, str] = {}
    for number, name in enumerate(names):
        try:
            read = _read(root / name)
        except Exception as error:  # a file can be broken in more ways than Pillow has errors
            broken[name] = " ".join(str(error).replace(str(root / name), "").split()) or type(error).__name__
            continue
        if isinstance(read, _Deep):
            deep[number] = read
        else:
            pixels_NCHW[number] = read.transpose(2, 0, 1)
    if broken:
        (first, reason), *others = broken.items()
        more = f"; nor can {len(others):,} more: {listed([name for name, _ in others])}" if others else ""
        raise TaskError(
            f"the image {printable(first)} in {root} cannot be read: {reason[:200]}{more}", "replace or remove them"
        )
    for kind, whites in _WHITES.items():
        members = {number: image for number, image in deep.items() if image.kind == kind}
        if not members:
            continue
        brightest = max(members, key=lambda number: members[number].largest)
        white = next((white for white in whites if white >= members[brightest].largest), None)
        if white is None:
            raise TaskError(
                f"the image {printable(names[brightest])} in {root} has a pixel of {members[brightest].largest:g}: "
                "what is white there?",
                f"scale such images so that white is {', '.join(f'{white:g}' for white in whites)}, or save 8 bits",
            )
        for number, image in members.items():
            pixels_NCHW[number] = np.rint(image.grey_HW * (255 / white)).astype(np.uint8)
    return pixels_NCHW


def _read(file: Path) -> NDArray[np.uint8] | _Deep:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            opened = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError:
            raise ValueError(f"it is none of {', '.join(_FORMATS)}") from None
    with opened as image:
        # A phone's MPO holds smaller views of the same picture behind the first; other formats hold other pictures.
        if (pages := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
            raise ValueError(f"it has {pages} pages, and one image is wanted")
        image.load()
        upright = ImageOps.exif_transpose(image)
    mode = upright.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        if upright.has_transparency_data:
            raise ValueError(f"mode {mode} with transparency has no faithful conversion to 8 bits")
        return _deep(upright)
    if mode in _ALPHA or (mode in _PLAIN and upright.has_transparency_data):
        layer = upright.convert("RGBA")
        whole = Image.alpha_composite(Image.new("RGBA", layer.size, _BACKGROUND), layer)
        if _flat(whole) and not _flat(layer):
            if layer.getchannel("A").getbbox() is None:
                raise ValueError("it is transparent everywhere (alpha 0), so nothing of it is seen")
            raise ValueError("what its transparency shows has the grey that transparent images are laid on")
        upright = whole
    elif mode not in _PLAIN:
        raise ValueError(f"mode {mode} has no faithful conversion to RGB")
    scaled = upright.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(scaled, dtype=np.uint8)


def _flat(image: Image.Image) -> bool:
    return all(low == high for low, high in np.reshape(image.getextrema(), (-1, 2)))


def _deep(image: Image.Image) -> _Deep:
    values_HW = np.asarray(image).astype(np.float32)
    lowest, largest = float(values_HW.min()), float(values_HW.max())
    if not np.isfinite([lowest, largest]).all():
        raise ValueError("it has pixels that are no number")
    if lowest < 0:
        raise ValueError(f"it has a pixel of {lowest:g}; black is 0 here")
    scaled = Image.fromarray(values_HW).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    kind = "float" if image.mode == "F" else "integer"
    # Resampling weights add up to one only nearly, so white could come out a hair above it.
    return _Deep(kind, largest, np.minimum(np.asarray(scaled, dtype=np.float32), np.float32(largest)))
