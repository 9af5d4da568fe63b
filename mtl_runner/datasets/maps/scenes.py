"""Drawn scenes whose classes, depths and normals are known at every pixel.

A camera looks straight at a tilted plane and a few solids before it: spheres, cones, whose outline is the same circle, and
tilted plates. Light from one fixed direction and a mist that thickens with the distance say what is where: colours are drawn
anew for each thing, so that none of them gives away a class, a depth or a normal.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CLASSES = ("ground", "sphere", "plate", "cone")
_LIGHT = np.array([0.4, 0.5, 0.77]) / np.linalg.norm([0.4, 0.5, 0.77])
_AMBIENT = 0.25
_MIST = np.array([0.6, 0.7, 0.8])
_DENSITY = 0.35
_NOISE = 0.02


@dataclass(frozen=True)
class Scene:
    """One image of S × S pixels; x goes to the right, y up, z to the camera."""

    image: NDArray[np.float32]
    """[3, S, S], 0 … 1."""
    classes: NDArray[np.int16]
    """[S, S], by their place in ``CLASSES``."""
    depth: NDArray[np.float32]
    """[S, S], the distance from the camera in metres."""
    normals: NDArray[np.float32]
    """[S, S, 3], of length 1."""


def drawn(draws: np.random.Generator, size: int, most: int) -> Scene:
    """A scene with one to ``most`` solids."""
    across = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(across, -across)
    tilt = draws.uniform(-0.6, 0.6, 2)
    depth = draws.uniform(3.0, 4.5) + tilt[0] * x + tilt[1] * y
    normals = _facing(np.broadcast_to(tilt[0], x.shape), np.broadcast_to(tilt[1], x.shape))
    classes, colour = np.zeros((size, size), np.int16), _colour(draws, x.shape)
    for _ in range(draws.integers(1, most + 1)):
        kind = int(draws.integers(1, len(CLASSES)))
        own, facing = _solid(draws, kind, x, y)
        before = own < depth
        depth, classes = np.where(before, own, depth), np.where(before, kind, classes).astype(np.int16)
        normals = np.where(before[..., None], facing, normals)
        colour = np.where(before[..., None], _colour(draws, x.shape), colour)
    shade = _AMBIENT + (1 - _AMBIENT) * np.clip(normals @ _LIGHT, 0, 1)
    clear = np.exp(-_DENSITY * depth)[..., None]
    seen = colour * shade[..., None] * clear + _MIST * (1 - clear) + _NOISE * draws.standard_normal((size, size, 3))
    image = np.clip(seen, 0, 1).transpose(2, 0, 1)
    return Scene(image.astype(np.float32), classes, depth.astype(np.float32), normals.astype(np.float32))


def _solid(draws: np.random.Generator, kind: int, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Depth (infinite beside it) and normals of a solid of class ``kind``."""
    radius, place = draws.uniform(0.25, 0.55), draws.uniform(-0.8, 0.8, 2)
    middle, turn, tilt = draws.uniform(1.2, 2.6), draws.uniform(0, np.pi / 2), draws.uniform(-0.9, 0.9, 2)
    x, y = x - place[0], y - place[1]
    distance = np.hypot(x, y)
    if CLASSES[kind] == "plate":
        along, up = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        inside = np.maximum(np.abs(along), np.abs(up)) < radius * 0.85
        depth, slopes = middle + tilt[0] * x + tilt[1] * y, (np.broadcast_to(tilt[0], x.shape), np.broadcast_to(tilt[1], x.shape))
    else:
        inside, safe = distance < radius, np.maximum(distance, 1e-9)
        if CLASSES[kind] == "cone":
            steep = np.ones_like(x)
            depth = middle + distance - radius
        else:
            height = np.sqrt(np.maximum(radius**2 - distance**2, 1e-4))
            steep, depth = distance / height, middle - height
        slopes = (steep * x / safe, steep * y / safe)
    return np.where(inside, depth, np.inf), _facing(*slopes)


def _facing(to_right: Floats, up: Floats) -> Floats:
    """The normal (∂d/∂x, ∂d/∂y, 1) / length of a surface at depth d(x, y), towards the camera."""
    vectors = np.stack([to_right, up, np.ones_like(to_right)], -1)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _colour(draws: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.broadcast_to(draws.uniform(0.2, 1.0, 3), (*shape, 3))
