"""The figures of a report show the comparison's numbers, at any size, and nothing runs out of the picture."""

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from made_comparisons import made
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import rgb_to_hsv, to_rgb
from matplotlib.text import Text

from mtl_runner.analysis.comparison import Comparison, Estimate
from mtl_runner.analysis.report.figures import FIGURES, curves, fronts, gains, intervals, ranks, weights
from mtl_runner.analysis.report.figures.hypervolume import front, hypervolume
from mtl_runner.analysis.report.figures.numbers import spread

SMALL = made(7, 3)


@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_is_the_number_of_dominated_cells(seed: int) -> None:
    """Points with whole coordinates dominate whole cells, which can be counted."""
    rng = np.random.default_rng(seed)
    points, reference = rng.integers(-5, 30, (12, 2)), rng.integers(0, 10, 2)
    x, y = np.meshgrid(np.arange(30), np.arange(30))
    inside = (x >= reference[0]) & (y >= reference[1])
    dominated = np.any([(x < px) & (y < py) for px, py in points], axis=0) & inside
    pairs = [(float(px), float(py)) for px, py in points]
    assert hypervolume(pairs, (float(reference[0]), float(reference[1]))) == dominated.sum()
    assert hypervolume(front(pairs), (float(reference[0]), float(reference[1]))) == dominated.sum()


@pytest.mark.parametrize("seed", range(5))
def test_front_is_what_nothing_dominates(seed: int) -> None:
    points = [(float(x), float(y)) for x, y in np.random.default_rng(seed).integers(0, 8, (15, 2))]
    kept = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    assert front(points) == sorted(kept)


@pytest.mark.parametrize("seed", range(8))
def test_cliques_are_the_largest_sets_within_the_critical_difference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, critical = sorted(rng.uniform(1, 7, 7).round(1).tolist()), 1.5
    close = [
        set(some)
        for size in range(2, 8)
        for some in combinations(range(7), size)
        if all(abs(values[i] - values[j]) < critical for i, j in combinations(some, 2))
    ]
    largest = sorted((min(some), max(some)) for some in close if not any(some < other for other in close))
    assert ranks.cliques(values, critical) == largest


def inside(figure: Any) -> bool:
    """Whether every text and panel of a figure lies in it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, (width, height) = canvas.get_renderer(), canvas.get_width_height()
    texts = [*figure.texts, *(text for axes in figure.axes for text in (*axes.texts, axes.title, axes._left_title))]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    boxes += [box for axes in figure.axes if axes.axison and (box := axes.get_tightbbox())]
    return all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(("groups", "tasks"), [(7, 3), pytest.param(20, 40, marks=pytest.mark.slow)])
def test_nothing_runs_out_of_the_picture(name: str, groups: int, tasks: int) -> None:
    figure = FIGURES[name][0](made(groups, tasks))
    assert not isinstance(figure, str)
    assert inside(figure)


@pytest.mark.parametrize(
    ("comparison", "missing"),
    [
        (made(1, 1, seeds=1), {"gains", "critical_difference", "pareto_fronts", "task_weights"}),
        (made(3, 1, seeds=2, baseline=False), {"gains", "pareto_fronts", "task_weights"}),
        (made(2, 2, seeds=1), {"critical_difference", "task_weights"}),
    ],
    ids=["one group", "one task without a baseline", "single runs"],
)
def test_a_figure_with_nothing_to_show_is_left_out(comparison: Comparison, missing: set[str]) -> None:
    said = {name: reason for name, (make, _) in FIGURES.items() if isinstance(reason := make(comparison), str)}
    assert set(said) == missing
    assert all(said.values())


def test_points_and_intervals_are_the_estimates() -> None:
    figure = intervals.draw(SMALL)
    assert not isinstance(figure, str)
    for axes, task in zip(figure.axes, (None, *SMALL.tasks), strict=True):
        for y, group in enumerate(SMALL.groups):
            estimate = group.scores[task.name] if task else group.average
            bars = [line.get_xdata() for line in axes.lines if list(line.get_ydata()) == [y, y]]  # type: ignore[arg-type]
            assert [list(bar) for bar in bars] == [[estimate.mean - estimate.half, estimate.mean + estimate.half]]  # type: ignore[arg-type]
            runs = [list(line.get_xdata()) for line in axes.lines if list(line.get_ydata()) == [y + 0.3] * 5]  # type: ignore[arg-type]
            assert runs == [[run.scores[task.name][task.metric] if task else run.average for run in group.runs]]


def test_lower_is_better_to_the_right_too() -> None:
    comparison = made(3, 2, metric="rmse")
    for figure in (intervals.draw(comparison), fronts.draw(comparison)):
        assert not isinstance(figure, str)
        assert all(axes.get_xlim()[0] > axes.get_xlim()[1] for axes in figure.axes)


@pytest.mark.parametrize(
    ("mean", "half", "sign"), [(2, 1, 1), (-2, 1, -1), (1, 2, 0), (1, 1, 0), (1, math.nan, 0), (math.nan, math.nan, 0)]
)
def test_a_gain_is_sure_where_its_interval_is_on_one_side(mean: float, half: float, sign: int) -> None:
    assert gains.sure(Estimate(mean, half, 3)) == sign
    assert gains.sure(None) == 0


def test_gains_are_centred_on_zero_and_marked() -> None:
    figure = gains.draw(SMALL)
    assert not isinstance(figure, str)
    image = figure.axes[0].images[0]
    low, high = image.get_clim()
    assert low == -high
    groups = [group for group in SMALL.groups if not group.is_baseline]
    expected = [[group.delta_m.mean for group in groups if group.delta_m]]
    expected += [[group.gains[task.name].mean for group in groups] for task in SMALL.tasks]
    assert np.asarray(image.get_array()).tolist() == expected
    lost = sum(text.get_text() == "▼" for text in figure.axes[0].texts)
    assert lost == sum(len(group.suffers) for group in groups)


def test_the_most_conflicting_pair_comes_first() -> None:
    comparison = made(5, 8, seeds=2)
    pairs = fronts.conflicting(comparison, comparison.groups)
    means = {task.name: [group.scores[task.name].mean for group in comparison.groups] for task in comparison.tasks}
    agreement = [np.corrcoef(means[one.name], means[other.name])[0, 1] for one, other in pairs]
    assert len(pairs) == 8 * 7 / 2
    assert agreement == sorted(agreement)


@pytest.mark.parametrize("groups", [3, 10, pytest.param(30, marks=pytest.mark.slow)])
def test_every_group_has_its_number_beside_its_point_and_none_lies_on_another(groups: int) -> None:
    figure = fronts.draw(made(groups, 3))
    assert not isinstance(figure, str)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts} == {str(place + 1) for place in range(groups)}
        texts = [Text.get_window_extent(text, canvas.get_renderer()) for text in axes.texts]  # without the lines to their points
        points = [axes.transData.transform(text.xy) for text in axes.texts]
        assert not any(one.overlaps(other) for one, other in combinations(texts, 2))
        assert not any(box.contains(*point) for box in texts for point in points)
        panel = axes.get_window_extent()
        assert all(panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 and box.y1 <= panel.y1 for box in texts)


@pytest.mark.parametrize("crowd", ["apart", "near", "same"])
def test_thirty_numbers_find_a_place_however_the_points_lie(crowd: str) -> None:
    rng = np.random.default_rng(0)
    width = {"apart": 150.0, "near": 12.0, "same": 0.0}[crowd]
    points = [(float(x), float(y)) for x, y in 80 + width * (rng.random((30, 2)) - 0.5)]
    sizes = [(4.0 * len(str(place)), 5.0) for place in range(1, 31)]
    boxes = [
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        for (x, y), (w, h) in zip(spread(points, sizes, (160, 160)), sizes, strict=True)
    ]
    assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a, b in combinations(boxes, 2))
    assert not any(box[0] < x < box[2] and box[1] < y < box[3] for box in boxes for x, y in points)
    assert all(box[0] >= 0 and box[2] <= 160 and box[1] >= 0 and box[3] <= 160 for box in boxes)


def without(comparison: Comparison, *tasks: str) -> Comparison:
    """The same without a gain in % in some tasks."""
    groups = [
        replace(group, gains={name: gain for name, gain in group.gains.items() if name not in tasks})
        for group in comparison.groups
    ]
    return replace(comparison, groups=tuple(groups))


def said_in(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def test_a_task_without_a_gain_in_percent_is_named_in_the_figure() -> None:
    assert "no gain in %" not in said_in(gains.draw(SMALL))
    figure = gains.draw(without(SMALL, "task_1"))
    assert "no gain in %, and no part in Δm: task_1 (roc_auc)" in said_in(figure)
    assert inside(figure)
    many = said_in(gains.draw(without(made(4, 30), *(f"task_{place}" for place in range(9)))))
    assert "task_3 (roc_auc) and 5 more" in many


def test_the_colour_that_words_name_is_the_one_that_is_drawn() -> None:
    """Orange, beside a blue that also the colour-blind tell from it."""
    comparison = made(10, 4)
    hurt = {task for group in comparison.groups for task in group.suffers}
    figure = intervals.draw(comparison)
    assert hurt and not isinstance(figure, str)
    assert "orange: sure negative transfer" in said_in(figure) and "red" not in said_in(figure).split()
    drawn = {str(line.get_color()) for axes in figure.axes for line in axes.lines if line.get_marker() in "oD"}
    hues = {color: rgb_to_hsv(to_rgb(color))[0] * 360 for color in drawn}
    (orange,) = (hue for hue in hues.values() if hue < 60)
    assert 20 < orange < 45


def test_curves_are_means_over_the_runs() -> None:
    group = SMALL.groups[0]
    curve = curves.curve_of(group)
    assert list(curve) == list(range(1, 13))
    assert len(curve[12]) == 3  # of five runs, two stop after 11 epochs
    histories = [run.history[4]["metrics"]["validation/average"] for run in group.runs]
    assert curve[5] == histories


def test_weights_end_where_the_first_run_does() -> None:
    group = next(group for group in SMALL.groups if group.settings.get("weighting") == "dynamic")
    lines = weights.weights_of(group)
    assert list(lines) == ["task_0", "task_1", "task_2"]
    assert list(lines["task_1"]) == list(range(1, 12))
    expected = np.mean([run.history[3]["metrics"]["weight/task_1"] for run in group.runs])
    assert lines["task_1"][4] == pytest.approx(expected)
