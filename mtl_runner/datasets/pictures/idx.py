"""The idx format of MNIST: two zero bytes, a type, the number of axes, their sizes (32 bits, big end first), then the numbers."""

import struct
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_runner.datasets.files import unpacked
from mtl_runner.errors import UserError

_BYTES = 0x08
LARGEST = 1 << 30
"""Bytes of an array: twice those of EMNIST, the largest set in this format."""


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """An array of bytes with so many axes, from a file that may be packed (``.gz``).

    Raises:
        UserError: it is no such file, has more or fewer bytes than its header says, or that says more than ``LARGEST``.
    """
    with unpacked(path) as stream:
        shape = _shape(path, stream.read(4 + 4 * axes), axes)
        size, said = prod(shape), f"{path}: its header says {' × '.join(map(str, shape))} = {prod(shape):,} bytes"
        if size > LARGEST:
            raise UserError(f"{said}; up to {LARGEST:,} are read")
        data = stream.read(size + 1)  # a packed file may go on for gigabytes
    if len(data) != size:
        raise UserError(f"{said}, it has {'more' if len(data) > size else f'{len(data):,}'}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, axes: int) -> tuple[int, ...]:
    if len(header) < 4 + 4 * axes or header[:2] != b"\0\0":
        raise UserError(f"{path} is not an idx file: it begins with {header[:4].hex(' ') or 'nothing'}")
    if header[2] != _BYTES or header[3] != axes:
        raise UserError(f"{path}: not an array of bytes with {axes} axes, but of type 0x{header[2]:02x} with {header[3]}")
    return struct.unpack(f">{axes}I", header[4:])


def read_labelled(images: Path, labels: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [N, H, W] and labels [N].

    Raises:
        UserError: as above; they are not equally many.
    """
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise UserError(f"{images} has {len(pixels):,} images, {labels} {len(classes):,} labels")
    return pixels, classes
