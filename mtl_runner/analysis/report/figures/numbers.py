"""Where the numbers of points stand, so that none lies on another."""

from collections.abc import Iterator, Sequence
from math import cos, dist, hypot, pi, sin, sqrt

from mtl_runner.analysis.report.figures.hypervolume import Point

_CLEAR, _STEP, _AROUND, _NEAR = 2.7, 1.5, 16, 16.0
"""From a point to the nearest box, from ring to ring, places on a ring, and how far away a place is still looked for that is
nearest to its own point."""
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def spread(points: Sequence[Point], sizes: Sequence[Point], panel: Point, others: Sequence[Point] = ()) -> list[Point]:
    """The middle of each point's number, one after the other as near its point as there is room, and nearer to no other point.

    Where that is not to be had, the nearest place that is free. No number covers another, a point or one of ``others``, or leaves
    the panel, as long as there is room for all of them.

    Args:
        points: from the panel's lower left corner; all lengths are in one unit, of which a marker has about 5.
        sizes: width and height of each number.
        panel: its width and height.
        others: further points that stay free.
    """
    found, taken = [], [(x - _CLEAR + 0.2, y - _CLEAR + 0.2, x + _CLEAR - 0.2, y + _CLEAR - 0.2) for x, y in (*points, *others)]
    for point, (width, height) in zip(points, sizes, strict=True):
        free = []
        for middle in _around(point, width, height, hypot(*panel)):
            if _within(box := _box(middle, width, height), panel) and not any(_overlap(box, other) for other in taken):
                free.append(middle)
                if dist(middle, point) > _NEAR or nearest(middle, points) == point:
                    break
        own = [middle for middle in free if nearest(middle, points) == point]
        found.append((own or free or [point])[0])
        taken.append(_box(found[-1], width, height))
    return found


def nearest(place: Point, points: Sequence[Point]) -> Point:
    """The one of ``points`` that is nearest to ``place``."""
    return min(points, key=lambda point: dist(place, point))


def _box(middle: Point, width: float, height: float) -> Box:
    x, y = middle
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _around(point: Point, width: float, height: float, furthest: float) -> Iterator[Point]:
    """On rings around ``point``, the upper right of each first; a box's nearest edge or corner is on the ring."""
    for ring in range(int((furthest - _CLEAR) / _STEP) + 1):
        for place in range(_AROUND):
            x, y = (turn(pi / 4 + 2 * pi * place / _AROUND) for turn in (cos, sin))
            far = _CLEAR * sqrt(2) + _STEP * ring
            yield point[0] + x * far + _cut(x) * width / 2, point[1] + y * far + _cut(y) * height / 2


def _cut(part: float) -> float:
    return min(max(sqrt(2) * part, -1.0), 1.0)


def _within(box: Box, panel: Point) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= panel[0] and box[3] <= panel[1]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
