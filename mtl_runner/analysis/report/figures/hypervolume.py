"""Pareto fronts in the plane, and how much they dominate."""

from collections.abc import Iterable

Point = tuple[float, float]
"""Larger is better in both."""


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other is at least as good as in both and better in one, from left to right; equal ones once."""
    found: list[Point] = []
    for point in sorted(set(points), reverse=True):
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return found[::-1]


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """The area of what lies between ``reference`` and some point (Zitzler and Thiele 1999).

    Points that are not better than the reference in both add nothing. From right to left, each point of the front adds the
    rectangle that reaches above the ones before: (x − r_x) · (y − highest y so far).
    """
    area, floor = 0.0, reference[1]
    for x, y in reversed(front(points)):
        if x > reference[0] and y > floor:
            area += (x - reference[0]) * (y - floor)
            floor = y
    return area
