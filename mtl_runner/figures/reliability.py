"""Whether predicted probabilities come true."""

from collections.abc import Mapping
from math import ceil, log10, sqrt
from typing import Any

from mtl_runner.figures.sheet import Sheet, Sheets
from mtl_runner.figures.style import DASHES, INK, TRAIN, VALIDATION, end, fitted, panel, put_titles

_WIDTH, _HEIGHT = 3.7, 4.6


def reliability(task: str, curve: Mapping[str, Any], sheets: Sheets) -> Sheet:
    """Observed share against predicted probability, a point for each interval, and how many predictions there are in each.

    Args:
        task: its name.
        curve: ``reliability`` of the task in ``curves.json``.
        sheets: those of the tasks before; a new one is added.
    """
    counts = curve["count"]
    width, total = 1 / len(counts), sum(counts)
    places = [place for place, count in enumerate(counts) if count]
    predicted, observed = ([curve[key][place] for place in places] for key in ("predicted", "observed"))
    limit = end(max(*predicted, *observed, (places[-1] + 1) * width - 1e-9))
    decades = max(1, ceil(log10(max(counts))))
    key = ("reliability", limit, decades)
    if key not in sheets:
        sheets[key] = _blank(limit, decades)
    sheet = sheets[key]
    sheet.clear()
    upper, lower = sheet.figure.axes
    sizes = [8 + 60 * sqrt(counts[place] / total) for place in places]
    sheet.put(upper.plot(predicted, observed, color=VALIDATION, linewidth=1))
    sheet.put(
        [upper.scatter(predicted, observed, sizes, color=VALIDATION, edgecolor="white", linewidth=0.8, zorder=3, clip_on=False)]
    )
    sheet.put(
        lower.bar([(place + 0.5) * width for place in places], [counts[place] for place in places], 0.9 * width, color=VALIDATION)
    )
    of = "the most likely class" if curve["of"] is None else f"'{fitted(str(curve['of']), 1.6, 7.5)}'"
    said = f"ECE {curve['calibration_error']:.3f}; probability of {of}"
    sheet.put(put_titles(sheet.figure, [fitted(task, _WIDTH - 0.3, 11)], [said]))
    return sheet


def _blank(limit: float, decades: int) -> Sheet:
    """Axes up to a ``limit`` of probability and 10^``decades`` examples."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=130)
    upper, lower = panel(figure, 0.7, 1.4, 2.8, 2.6), panel(figure, 0.7, 0.5, 2.8, 0.75)
    upper.plot((0, limit), (0, limit), color=TRAIN, linewidth=1, linestyle=DASHES)
    upper.set(xlim=(0, limit), ylim=(0, limit))
    lower.set(xlim=(0, limit), yscale="log", ylim=(0.5, 1.2 * 10**decades))
    lower.minorticks_off()
    lower.yaxis.set_major_formatter("{x:g}")  # powers set as formulas take longer than all other labels
    for axis in (upper.xaxis, upper.yaxis, lower.xaxis):
        axis.set_major_locator(MaxNLocator(4))
    upper.tick_params(labelbottom=False)
    upper.set_ylabel("observed share", fontsize=8, color=INK)
    lower.set_ylabel("examples", fontsize=8, color=INK)
    lower.set_xlabel("predicted probability", fontsize=8, color=INK)
    return Sheet(figure)
