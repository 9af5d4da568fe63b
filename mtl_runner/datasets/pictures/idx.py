"""The idx format of MNIST: two zero bytes, a type, the number of axes, their sizes (32 bits, big end first), then the numbers."""

import struct
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_runner.datasets.files import contents
from mtl_runner.errors import UserError

_BYTES = 0x08


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """An array of bytes with so many axes, from a file that may be packed (``.gz``).

    Raises:
        UserError: it is no such file, or has more or fewer bytes than its header says.
    """
    data = contents(path)
    start = 4 + 4 * axes
    if len(data) < start or data[:2] != b"\0\0":
        raise UserError(f"{path} is not an idx file: it begins with {data[:4].hex(' ') or 'nothing'}")
    if data[2] != _BYTES or data[3] != axes:
        raise UserError(f"{path}: not an array of bytes with {axes} axes, but of type 0x{data[2]:02x} with {data[3]}")
    shape = struct.unpack(f">{axes}I", data[4:start])
    if len(data) - start != prod(shape):
        said = " × ".join(map(str, shape))
        raise UserError(f"{path}: its header says {said} = {prod(shape):,} bytes, it has {len(data) - start:,}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_labelled(images: Path, labels: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [N, H, W] and labels [N].

    Raises:
        UserError: as above; they are not equally many.
    """
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise UserError(f"{images} has {len(pixels):,} images, {labels} {len(classes):,} labels")
    return pixels, classes
