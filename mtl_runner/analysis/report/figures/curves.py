"""How fast the groups learn."""

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from mtl_runner.analysis.comparison import Comparison, Group
from mtl_runner.analysis.report.figures.parts import GREY, INK, SMALL, canvas, key, names, small, style
from mtl_runner.analysis.results import AVERAGED
from mtl_runner.figures.style import ems, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORED, _BANDED, _WIDE, _HIGH = 8, 3, 5.2, 3.0
"""Groups with a colour, and with a band; inches of the panel."""
Curve = dict[int, list[float]]
"""The values of a group's runs by epoch."""


def draw(comparison: Comparison) -> "Figure | str":
    """The validation average by epoch: mean over the runs, in a band from the lowest to the highest."""
    from matplotlib.ticker import MaxNLocator

    curves = {group.name: curve for group in comparison.groups if (curve := curve_of(group))}
    groups = [group for group in comparison.groups if group.name in curves]
    if not groups:
        return "no run has a validation average"
    shown = _chosen(comparison, groups)
    entries = [(name, style(place)) for place, name in enumerate(names(shown))]
    others = [group for group in groups if group not in shown]
    if others:
        entries.append((f"{len(others)} other groups", {"color": GREY, "linestyle": "-"}))
    width = 0.65 + _WIDE + 0.75 + SMALL / 72 * max(ems(name) for name, _ in entries)
    figure = canvas(width, 0.75 + _HIGH + 0.5)
    axes = small(figure, 0.65, 0.5, _WIDE, _HIGH)
    for group in others:
        _line(axes, curves[group.name], len(group.runs), {"color": GREY, "linestyle": "-"}, band=False, thin=0.7)
    banded = (
        shown if len(shown) <= _BANDED else [group for group in shown if group.is_baseline or group.name == comparison.best.name]
    )
    for place, group in enumerate(shown):
        _line(axes, curves[group.name], len(group.runs), style(place), band=group in banded)
    _lower(axes, list(curves.values()))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", fontsize=8, color=INK)
    axes.set_ylabel("validation average", fontsize=8, color=INK)
    key(figure, entries, 0.65 + _WIDE + 0.15, 0.85)
    which = "" if banded == shown else ", of the best group and of the baseline" if comparison.baseline else ", of the best group"
    several = any(len(group.runs) > 1 for group in groups)
    said = f"mean over the runs of a group; band: their range{which}; thin: after the first run stopped"
    titles(figure, "learning curves", said if several else "single runs")
    return figure


def curve_of(group: Group) -> Curve:
    """The validation averages of all runs by epoch, as far as they are known."""
    curve: Curve = {}
    for run in group.runs:
        for line in run.history:
            value = line["metrics"].get(AVERAGED)
            if value is not None and isfinite(value):
                curve.setdefault(line["epoch"], []).append(value)
    return dict(sorted(curve.items()))


def _chosen(comparison: Comparison, groups: list[Group]) -> list[Group]:
    """All where colours suffice, else the best ones and the baseline."""
    if len(groups) <= _COLORED:
        return groups
    first = groups[: _COLORED - 1]
    baseline = [group for group in groups if group.is_baseline and group not in first]
    return first + (baseline or groups[_COLORED - 1 : _COLORED])


def _line(axes: "Axes", curve: Curve, runs: int, look: dict[str, str], band: bool, thin: float = 1.7) -> None:
    epochs, means = list(curve), [sum(values) / len(values) for values in curve.values()]
    whole = next((place for place, values in enumerate(curve.values()) if len(values) < runs), len(epochs))
    marker = {"marker": "o", "markersize": 3} if len(epochs) < 3 else {}
    axes.plot(epochs[:whole], means[:whole], linewidth=thin, zorder=thin + 1, **look, **marker)  # type: ignore[arg-type]
    start = max(whole - 1, 0)
    axes.plot(epochs[start:], means[start:], linewidth=thin / 2.5, zorder=thin, **look)  # type: ignore[arg-type]
    if band and runs > 1:
        low, high = ([each(values) for values in curve.values()] for each in (min, max))
        axes.fill_between(epochs[:whole], low[:whole], high[:whole], color=look["color"], alpha=0.13, linewidth=0)


def _lower(axes: "Axes", curves: Sequence[Curve]) -> None:
    """The first tenth of the epochs may run out of the panel below: the differences are in what follows."""
    last = max(max(curve) for curve in curves)
    axes.set_ylim(
        bottom=None if last < 10 else min(min(values) for curve in curves for epoch, values in curve.items() if epoch > last / 10)
    )
