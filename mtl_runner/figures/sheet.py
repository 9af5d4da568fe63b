"""Pictures of many tasks that differ in little: axes, ticks and grids, which take most of the time, are drawn once."""

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

Sheets = dict[Hashable, "Sheet"]
"""Those in use, by what they are for."""


class Sheet:
    """A figure with a fixed part, and with what is drawn on it for one task after the other.

    Args:
        figure: with all that is fixed in it, limits of axes included.
    """

    def __init__(self, figure: "Figure") -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.figure = figure
        self._canvas = cast(Any, FigureCanvasAgg(figure))  # it has no types
        self._canvas.draw()
        self._fixed = self._canvas.copy_from_bbox(figure.bbox)
        self._own: list[Artist] = []

    def clear(self) -> None:
        """Take the last task's artists off the figure."""
        for artist in self._own:
            artist.remove()
        self._own = []

    def put(self, artists: "Iterable[Artist]") -> None:
        """These are on the figure for this task only."""
        self._own += artists

    def savefig(self, path: Path, pil_kwargs: Mapping[str, Any] | None = None) -> None:
        """Write what ``figure.savefig`` would write."""
        from matplotlib.image import imsave

        self._canvas.restore_region(self._fixed)
        for artist in sorted(self._own, key=lambda each: each.get_zorder()):
            self.figure.draw_artist(artist)
        imsave(path, self._canvas.buffer_rgba(), dpi=int(self.figure.dpi), pil_kwargs=dict(pil_kwargs or {}))
