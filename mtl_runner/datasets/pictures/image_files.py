"""An image file as bytes of a fixed size [channels, height, width], and the window of it that they show.

``stretch``: the whole image, whatever its proportions. ``crop``: the largest window in its middle that has those of the result.
``pad``: the smallest window around it that has them, black where there is no image. Grey images of 16 bits keep their full
range: value / 257. Transparency is dropped, and rotation marks (EXIF) are not followed, as labels refer to the stored pixels.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Fit = Literal["stretch", "crop", "pad"]
Pixels = NDArray[np.uint8]
Window = tuple[float, float, float, float]
"""Left, top, width and height in pixels of the file."""
Result = TypeVar("Result")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What files are taken for, whatever their names: of other formats some start a program (PostScript) to be decoded."""
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_MODES = {1: "L", 3: "RGB"}
_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class BadImageError(Exception):
    """A file that is not there or cannot be read as an image."""


@dataclass(frozen=True)
class Look:
    """What images become."""

    channels: int
    height: int
    width: int
    fit: Fit = "stretch"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image."""
        return self.channels, self.height, self.width

    def window(self, width: int, height: int) -> Window:
        """Of an image of this size: always in its middle, from which the size follows (``tasks.keypoints.source_size``)."""
        if self.fit == "stretch":
            return 0.0, 0.0, float(width), float(height)
        pick = min if self.fit == "crop" else max
        scale = pick(width / self.width, height / self.height)
        across, down = scale * self.width, scale * self.height
        return (width - across) / 2, (height - down) / 2, across, down


def size_of(path: str) -> tuple[int, int]:
    """Width and height, from the beginning of the file."""
    with _opened(path) as image:
        return image.size


def decoded(path: str, look: Look) -> tuple[Pixels, Window]:
    """[channels, height, width] and the window.

    Raises:
        BadImageError: what is wrong with the file.
    """
    with _opened(path) as image:
        size = image.size
        try:
            image.draft(_MODES[look.channels], (2 * look.width, 2 * look.height))  # a JPEG is decoded no larger than needed
            plain = _plain(image, look.channels)
        except _ERRORS as error:
            raise BadImageError(_reason(error)) from None
    window = look.window(*size)
    return _fitted(plain, window, plain.width / size[0], plain.height / size[1], look), window


def _opened(path: str) -> Image.Image:
    try:
        image = Image.open(path, formats=FORMATS)
    except FileNotFoundError:
        raise BadImageError("is not there") from None
    except IsADirectoryError:
        raise BadImageError("is a folder") from None
    except _ERRORS as error:
        raise BadImageError(_reason(error)) from None
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:  # Pillow only warns
        image.close()
        raise BadImageError(f"has {image.width} × {image.height} pixels, more than {Image.MAX_IMAGE_PIXELS:,}")
    return image


def _reason(error: BaseException) -> str:
    text = str(error)
    if "cannot identify" in text:
        return "is not an image of a known format"
    return f"cannot be decoded ({text[:1].lower()}{text[1:]})"


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """As 8 bits grey or RGB."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, not 8 or 16 bits")
    if image.mode in DEEP:
        values = np.asarray(image).astype(np.int64)
        if values.size and not 0 <= values.min() <= values.max() <= 65535:
            raise ValueError(f"its pixels go from {values.min()} to {values.max()}, not from 0 to 65535")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    return image.convert(_MODES[channels])


def _fitted(image: Image.Image, window: Window, across: float, down: float, look: Look) -> Pixels:
    """The window (in pixels of the file, of which the image has ``across`` and ``down`` as many) in the size of the result."""
    left, top, width, height = window[0] * across, window[1] * down, window[2] * across, window[3] * down
    size = (look.width, look.height)
    if look.fit == "pad":
        inner = (max(round(size[0] * image.width / width), 1), max(round(size[1] * image.height / height), 1))
        canvas = Image.new(image.mode, size)
        scaled = image if image.size == inner else image.resize(inner, Image.Resampling.BILINEAR)
        canvas.paste(scaled, (round((size[0] - inner[0]) / 2), round((size[1] - inner[1]) / 2)))
        image = canvas
    elif image.size != size or (left, top) != (0, 0):
        box = (max(left, 0.0), max(top, 0.0), min(left + width, image.width), min(top + height, image.height))
        image = image.resize(size, Image.Resampling.BILINEAR, box)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def attempts(function: Callable[[str], Result], paths: Iterable[str]) -> Iterator[Result | BadImageError]:
    """The function of each path in their order, or its error; several at a time, as decoding leaves the interpreter alone."""

    def attempt(path: str) -> Result | BadImageError:
        try:
            return function(path)
        except BadImageError as error:
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(attempt, paths)


def images_in(folders: Sequence[str]) -> Iterator[str]:
    """Paths of the image files in these folders themselves, by name."""
    for folder in folders:
        if os.path.isdir(folder):
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
            yield from (os.path.join(folder, name) for name in names if name.lower().endswith(ENDINGS))
