"""Values whose derivative is known: two nodes of the graph in place of two for each operation, which cost more than sums."""

from torch import Tensor


def with_slopes(inputs: Tensor, values: Tensor, slopes: Tensor, over: tuple[int, ...] = ()) -> Tensor:
    """``values``, exactly, whose derivative with respect to ``inputs`` is ``slopes``.

    To be computed from ``inputs.detach()``. There is no second derivative, and all three have to be finite.

    Args:
        inputs: what they are a function of, of any shape.
        values: of the shape of ``inputs`` without the axes ``over``, on which each depends as a whole; on nothing else but what
            stands at its own place.
        slopes: of the shape of ``inputs``.
        over: see ``values``.
    """
    nothing = inputs - inputs.detach()  # 0, with the derivative 1
    return values.addcmul(nothing, slopes) if not over else values + (nothing * slopes).sum(over)
