"""Converts an image file of any kind to 8-bit RGB without losing what it shows.

H W = height and width, C = 3 channels, N = images.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hypergpu_fl.errors import TaskError
from hypergpu_fl.output import printable
from hypergpu_fl.task.folder import OPTION, listed

SIDE: Final = 64  # images of a folder come in all sizes; they are scaled to this many pixels a side
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and the value that means it
# Pillow would also open PostScript, for which it starts another program.
_FORMATS: Final = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
_PLAIN: Final = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
_ALPHA: Final = ("LA", "La", "PA", "RGBA", "RGBa")
# Possible values of white in modes that do not define it. X-ray and microscope cameras store 12 bits in 16. Of colours
# of 16 bits Pillow keeps the upper 8, so that only a white of 16 bits leaves anything to see.
_WHITES: Final = {"integer": (255.0, 4095.0, 65535.0), "float": (1.0, 255.0, 65535.0), "16-bit colour": (65535.0,)}
_DARKEST: Final = 1 / 16  # of white: if no pixel of a whole set is brighter, white is probably something else
_BROKEN_PIXELS: Final = 0.001  # share of an image's pixels that do not decide what white is
_LEAST_CONTRAST: Final = 1 / 8  # of what a shape shows on black or white: if grey leaves less, the shape is lost
_SEEN: Final = 32  # of 255: a fainter shape is not missed
_BACKGROUND: Final = 128  # black drawings and white ones both stand out from grey


@dataclass(frozen=True, slots=True)
class Pixels:
    """Images as ``(N, 3, SIDE, SIDE)``, and the white that those were scaled by which do not say it themselves."""

    pixels_NCHW: NDArray[np.uint8]
    whites: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Deep:
    """A grey image of more than 8 bits, resized but not yet reduced to 8: that needs the white of the whole set."""

    kind: str
    largest: float
    grey_HW: NDArray[np.float32]
    inverted: bool


@dataclass(frozen=True, slots=True)
class _Cut:
    """A colour image of 16 bits, of which Pillow kept the upper 8; ``largest`` is of the 16."""

    largest: float
    rgb_HWC: NDArray[np.uint8]
    kind: str = "16-bit colour"


def read_images(root: Path, names: Sequence[str], *, white: float | None = None) -> Pixels:
    """Images upright as their EXIF says, transparent ones on grey.

    Grey images of 16 or 32 bits or floats are scaled by one white for all of ``names``: ``white``, else the lowest
    usual one (255, 4,095 or 65,535, for floats 1, 255 or 65,535) that no image exceeds but for a few broken pixels.

    Raises
    ------
    TaskError
        Naming the file, if it is torn, too large, of several pages, of a mode that has no faithful conversion, or of a
        scale that cannot be told.
    """
    pixels_NCHW = np.empty((len(names), 3, SIDE, SIDE), np.uint8)
    undecided: dict[int, _Deep | _Cut] = {}
    broken: dict[str, str] = {}
    for number, name in enumerate(names):
        try:
            read = _read(root / name)
        except Exception as error:  # a file can be broken in more ways than Pillow has errors
            broken[name] = " ".join(str(error).replace(str(root / name), "").split()) or type(error).__name__
            continue
        if isinstance(read, np.ndarray):
            pixels_NCHW[number] = read.transpose(2, 0, 1)
        else:
            undecided[number] = read
    if broken:
        (first, reason), *others = broken.items()
        more = f"; nor can {len(others):,} more: {listed([name for name, _ in others])}" if others else ""
        raise TaskError(
            f"the image {printable(first)} in {root} cannot be read: {reason[:200]}{more}", "replace or remove them"
        )
    whites: dict[str, float] = {}
    for kind in _WHITES:
        members = {number: image for number, image in undecided.items() if image.kind == kind}
        if not members:
            continue
        brightest = max(members, key=lambda number: members[number].largest)
        where = f"the image {printable(names[brightest])} in {root}"
        found = _white(kind, members[brightest].largest, where, white)
        for number, image in members.items():
            pixels_NCHW[number] = _reduced(image, found)
        if kind != "16-bit colour":
            whites[kind] = found
    return Pixels(pixels_NCHW, whites)


def _white(kind: str, largest: float, where: str, given: float | None) -> float:
    """The white of all images of a kind, of which one has the ``largest`` pixel."""
    if kind == "16-bit colour":
        if 0 < largest < _DARKEST * 65535:
            raise TaskError(
                f"{where} is of 16 bits a colour and uses 12 or fewer, as do all beside it: the upper 8, which are "
                "kept, are black",
                "save them with 8 bits a colour",
            )
        return 65535.0
    if given is not None:
        if largest > given:
            raise TaskError(f"{where} has pixels of {largest:g}, above {OPTION} = {given:g}", f"raise {OPTION}")
        return given
    found = next((white for white in _WHITES[kind] if white >= largest), None)
    if found is None or 0 < largest < _DARKEST * found:
        usual = ", ".join(f"{white:g}" for white in _WHITES[kind])
        raise TaskError(
            f"{where} has a pixel of {largest:g}{'' if found is None else ' and none beside it more'}: what is white "
            "there?",
            f"set {OPTION}, scale such images so that white is {usual}, or save 8 bits",
        )
    return found


def _reduced(image: _Deep | _Cut, white: float) -> NDArray[np.uint8]:
    if isinstance(image, _Cut):
        return image.rgb_HWC.transpose(2, 0, 1)
    grey_HW = np.minimum(image.grey_HW, np.float32(white))
    if image.inverted:
        grey_HW = np.float32(white) - grey_HW
    return np.rint(grey_HW * (255 / white)).astype(np.uint8)


def _read(file: Path) -> NDArray[np.uint8] | _Deep | _Cut:
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
        # Pillow's names for what it unpacks from: "RGB;16B" becomes "RGB". Loading the image forgets them.
        cut = any(";16" in str(tile) for tile in image.tile)
        # Pillow turns TIFF images whose 0 is white, but only those of 8 bits or fewer.
        inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        image.load()
        upright = ImageOps.exif_transpose(image)
    mode = upright.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        if upright.has_transparency_data:
            raise ValueError(f"mode {mode} with transparency has no faithful conversion to 8 bits")
        return _deep(upright, inverted=inverted)
    brightest = [high for _, high in _extrema(upright)] if cut else []
    alpha = brightest.pop() if cut and mode in _ALPHA else 0
    if mode in _ALPHA or (mode in _PLAIN and upright.has_transparency_data):
        if 0 < alpha < _DARKEST * 255:
            raise ValueError("its transparency uses 12 of 16 bits or fewer, of which the upper 8 are kept")
        upright = _on_grey(upright.convert("RGBA"))
    elif mode not in _PLAIN:
        raise ValueError(f"mode {mode} has no faithful conversion to RGB")
    scaled = np.asarray(upright.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.uint8)
    return _Cut(257.0 * max(brightest), scaled) if cut else scaled


def _on_grey(layer: Image.Image) -> Image.Image:
    """The transparent image on a grey ground, which must not hide what it shows."""
    on_grey, *others = (
        Image.alpha_composite(Image.new("RGBA", layer.size, (grey, grey, grey, 255)), layer)
        for grey in (_BACKGROUND, 0, 255)
    )
    most = max(map(_contrast, others))
    varied = any(low != high for low, high in _extrema(layer))
    if varied and layer.getchannel("A").getbbox() is None:
        raise ValueError("it is transparent everywhere (alpha 0), so nothing of it is seen")
    if (most >= _SEEN and _contrast(on_grey) < _LEAST_CONTRAST * most) or (not _contrast(on_grey) and varied):
        raise ValueError("what its transparency shows has the grey that transparent images are laid on")
    return on_grey


def _contrast(image: Image.Image) -> int:
    return int(max(high - low for low, high in _extrema(image)))


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    return [(low, high) for low, high in np.reshape(image.getextrema(), (-1, 2)).tolist()]


def _deep(image: Image.Image, *, inverted: bool) -> _Deep:
    values_HW = np.asarray(image).astype(np.float32)
    lowest, highest = float(values_HW.min()), float(values_HW.max())
    if not np.isfinite([lowest, highest]).all():
        raise ValueError("it has pixels that are no number")
    if lowest < 0:
        raise ValueError(f"it has a pixel of {lowest:g}; black is 0 here")
    nearly_all = int((1 - _BROKEN_PIXELS) * (values_HW.size - 1))
    largest = float(np.partition(values_HW, nearly_all, axis=None)[nearly_all])
    scaled = Image.fromarray(values_HW).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    kind = "float" if image.mode == "F" else "integer"
    # Resampling weights add up to one only nearly, so white could come out a hair above it.
    grey_HW = np.minimum(np.asarray(scaled, dtype=np.float32), np.float32(highest))
    return _Deep(kind, largest, grey_HW, inverted)
