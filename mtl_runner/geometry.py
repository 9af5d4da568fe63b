"""Points and boxes: from the image that a network sees to the one that was read, and to its mirror image.

What a network sees is a window of the image, stretched to the network's size; coordinates in it are shares, 0 … 1 from its left
and its top edge. ``context["window"]`` [N, 4] has left, top, width and height of each in pixels of the image as it was read.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from mtl_runner.batch import TargetSpec
from mtl_runner.errors import UserError, choices, nearest

WINDOW = "window"


def to_source(points: Tensor, context: Mapping[str, Tensor] | None) -> Tensor:
    """Points [..., N, K, 2] in pixels of the images as they were read; as they are where the data do not say the windows."""
    if context is None or WINDOW not in context:
        return points
    window = context[WINDOW].to(points)
    return points * window[:, None, 2:] + window[:, None, :2]


def boxes_to_source(boxes: Tensor, context: Mapping[str, Tensor] | None) -> Tensor:
    """The same for boxes (x1, y1, x2, y2), [..., N, M, 4]."""
    corners = boxes.unflatten(-1, (2, 2)).flatten(-3, -2)
    moved: Tensor = to_source(corners, context).unflatten(-2, (-1, 2)).flatten(-2)
    return moved


def to_window(points: Tensor, window: Tensor) -> Tensor:
    """Points [N, K, 2] in pixels of the images as they were read, as shares of the windows [N, 4]."""
    return (points - window[:, None, :2]) / window[:, None, 2:]


def point_names(spec: TargetSpec) -> list[str]:
    """Of the K points, from their columns ``<point>_x``, ``<point>_y``."""
    return [column.removesuffix("_x").removesuffix("_X") for column in spec.columns[::2]]


def swapped(name: str, points: Sequence[str], pairs: Sequence[Sequence[str]] | None) -> list[int]:
    """For each of the K points of a task, which takes its place in the mirror image; itself where none does.

    Args:
        name: of the task, for messages.
        points: their names.
        pairs: of names; None: those that differ in ``left`` and ``right`` alone.
    """
    if pairs is None:
        mirrored = [point.replace("left", "\0").replace("right", "left").replace("\0", "right") for point in points]
        return [points.index(other) if other in points else place for place, other in enumerate(mirrored)]
    order = list(range(len(points)))
    for pair in [pairs] if isinstance(pairs, str) or not isinstance(pairs, Sequence) else pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise UserError(f"dataset.tasks.{name}.pairs: {pair!r} is not a pair of points; as in [[left_eye,right_eye]]")
        first, second = (place_of(str(point), points, f"dataset.tasks.{name}.pairs") for point in pair)
        order[first], order[second] = second, first
    return order


def place_of(point: str, points: Sequence[str], key: str) -> int:
    """The place of a point among its task's; ``key`` starts the message where there is none of that name."""
    if point not in points:
        raise UserError(f"{key}: there is no point '{point}'{nearest(point, points)}; there are: {choices(points)}")
    return points.index(point)
