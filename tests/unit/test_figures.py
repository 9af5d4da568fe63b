"""Learning curves, confusion matrices and heat maps show the numbers of the files, and nothing runs out of the picture."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.metrics import confusion_matrix as sklearn_matrix

from mtl_runner import figures
from mtl_runner.figures import search
from mtl_runner.figures.style import MOST_TASKS, ems, panel, titles, wrapped

NAMES = ["digit", "a rather long name of a task, with (€) signs", "x/y", "cost in $ or $$"]


def lines(tasks: list[str], epochs: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    keys = [f"{part}/{task}/{name}" for task in tasks for part in ("train", "validation") for name in ("loss", "accuracy")]
    return [{"epoch": e, "step": e, "time": 0.0, "metrics": {key: rng.random() for key in keys}} for e in range(1, epochs + 1)]


def outcome(tasks: list[str], kept: int) -> dict[str, Any]:
    return {"primary": dict.fromkeys(tasks, "accuracy"), "best_epoch": {",".join(tasks): kept}}


def inside(figure: Any) -> bool:
    """Whether every panel and every text of a figure lies in it."""
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    width, height = figure.canvas.get_width_height()
    return all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes if box is not None)


def overlapping(figure: Any) -> bool:
    """Whether the texts and panels of two tasks touch."""
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    return any(a.overlaps(b) and abs(a.x0 + a.x1 - b.x0 - b.x1) > 40 for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(("count", "epochs"), [(1, 1), (1, 2), (2, 30), (3, 10), (7, 3), (12, 200)])
def test_curves_are_legible_with_any_number_of_tasks(count: int, epochs: int) -> None:
    tasks = [f"{NAMES[i % len(NAMES)]} {i}" for i in range(count)]
    figure = figures.learning_curves(lines(tasks, epochs), outcome(tasks, 1))
    assert len(figure.axes) == 2 * count
    assert inside(figure)
    assert not overlapping(figure)


def test_curves_are_the_logged_values() -> None:
    data = lines(["a", "b"], 9)
    del data[4]["metrics"]["validation/b/accuracy"]
    figure = figures.learning_curves(data, outcome(["a", "b"], 7))
    upper, lower = figure.axes[2:]
    if upper.get_ylabel() != "loss":
        upper, lower = lower, upper
    for line, part in zip(upper.lines, ("train", "validation"), strict=True):
        assert line.get_ydata().tolist() == [each["metrics"][f"{part}/b/loss"] for each in data]  # type: ignore[union-attr]
    curve, kept = lower.lines
    defined = [each for each in data if "validation/b/accuracy" in each["metrics"]]
    assert curve.get_xdata().tolist() == [each["epoch"] for each in defined]  # type: ignore[union-attr]
    assert curve.get_ydata().tolist() == [each["metrics"]["validation/b/accuracy"] for each in defined]  # type: ignore[union-attr]
    assert (kept.get_xdata()[0], kept.get_ydata()[0]) == (7, data[6]["metrics"]["validation/b/accuracy"])  # type: ignore[index]


def test_networks_that_stop_apart_keep_their_own_epoch() -> None:
    figure = figures.learning_curves(
        lines(["a", "b"], 9), {"primary": {"a": "accuracy", "b": "accuracy"}, "best_epoch": {"a": 2, "b": 8}}
    )
    kept = [axes.lines[-1].get_xdata()[0] for axes in figure.axes if axes.get_ylabel() == "accuracy"]  # type: ignore[index]
    assert kept == [2, 8]


@pytest.mark.parametrize("count", [2, 3, 10, 25, 45, 90])
def test_confusion_matrix_shows_shares_and_counts(count: int) -> None:
    rng = np.random.default_rng(count)
    truth, predicted = rng.integers(0, count, (2, 5000))
    truth[truth == 1] = 0  # a class that the test part lacks
    matrix = sklearn_matrix(truth, predicted, labels=range(count))
    figure = figures.confusion_matrix("a task", [f"class {i} of some length" for i in range(count)], matrix.tolist())
    axes = figure.axes[0]
    shown = axes.images[0].get_array()
    assert shown is not None
    shares = sklearn_matrix(truth, predicted, labels=range(count), normalize="true")
    np.testing.assert_allclose(np.delete(np.asarray(shown), 1, 0), np.delete(shares, 1, 0))
    counts = [int(text.get_text()) for text in axes.texts]
    assert counts == (matrix.ravel().tolist() if count <= 30 else [])
    assert " ".join(text.get_text() for text in figure.texts) == f"a task: {np.trace(matrix)} of 5000 right"
    assert inside(figure)


def gradients(count: int, names: list[str] | None = None) -> dict[str, Any]:
    rng = np.random.default_rng(count)
    cosine, conflicts = np.tril(rng.uniform(-1, 1, (count, count)), -1), np.tril(rng.random((count, count)), -1)
    pairs = [
        [[None if i == j else float((m + m.T)[i, j]) for j in range(count)] for i in range(count)] for m in (cosine, conflicts)
    ]
    tasks = names or [f"{NAMES[i % len(NAMES)]} {i}" for i in range(count)]
    return {"tasks": tasks, "of": "parameters", "steps": 1234, "norm": [1.0] * count, "cosine": pairs[0], "conflicts": pairs[1]}


@pytest.mark.parametrize("count", [2, 3, 5, 15, 16, 40, 139, 170])
def test_heat_map_shows_each_pair_once(count: int) -> None:
    data = gradients(count)
    data["cosine"][1][0] = data["cosine"][0][1] = data["conflicts"][1][0] = None  # never in a step together
    figure = figures.gradient_cosines(data)
    axes, bar = figure.axes
    shown, unknown = (np.ma.filled(image.get_array().astype(float), np.nan) for image in axes.images)  # type: ignore[union-attr]
    expected = np.array(data["cosine"], dtype=float)[1:, :-1]
    np.testing.assert_array_equal(np.tril(shown), np.tril(expected))
    assert np.isnan(shown[np.triu_indices(count - 1, 1)]).all() and np.argwhere(np.isfinite(unknown)).tolist() == [[0, 0]]
    assert axes.images[0].get_clim() == (-1, 1) and bar.get_ylim() == (-1, 1)
    assert axes.images[0].to_rgba(np.zeros(1))[0, :3] == pytest.approx([1, 1, 1], abs=0.05)
    pairs = [(i, j) for i in range(count) for j in range(i) if (i, j) != (1, 0)] if count <= 15 else []
    printed = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in axes.texts]
    assert printed == [text for i, j in pairs for text in (f"{data['cosine'][i][j]:z.2f}", f"{data['conflicts'][i][j]:.0%}")]
    ticks = [[label.get_text() for label in labels] for labels in (axes.get_xticklabels(), axes.get_yticklabels())]
    assert all(len(set(labels)) > 1 for labels in ticks) == (2 < count <= 160) and len(ticks[1]) == count - 1
    assert inside(figure)


@pytest.mark.parametrize("names", [["a", "b"], ["M" * 40, "b"], ["a", "M" * 40], ["x" * 300, "$" * 20]])
def test_no_name_runs_out_of_the_heat_map(names: list[str]) -> None:
    figure = figures.gradient_cosines(gradients(2, names) | {"steps": 123_456_789})
    assert inside(figure)
    width = figure.canvas.get_width_height()[0]
    assert all(text.get_window_extent().x1 <= width for text in figure.texts)


def test_a_cosine_of_almost_nothing_has_no_sign() -> None:
    data = gradients(2)
    data["cosine"] = [[None, -0.001], [-0.001, None]]
    assert figures.gradient_cosines(data).axes[0].texts[0].get_text() == "0.00"


@pytest.mark.parametrize("shape", [(4, 4), (40, 2), (1, 41), (16, 16), (100, 3)])
@pytest.mark.parametrize("name", ["t", "customer_will_renew_the_contract"])
def test_a_table_of_any_shape_is_legible(shape: tuple[int, int], name: str) -> None:
    height, width = shape
    values = np.random.default_rng(0).normal(size=shape)
    rows, columns = ([f"{name} {i}" for i in range(count)] for count in shape)
    figure = figures.heat_map("what the numbers are, in a few words", rows, columns, values.tolist())
    assert inside(figure)
    axes = figure.axes[0]
    assert len(axes.texts) == (height * width if height <= 50 and width <= 16 else 0)
    for labels, count in ((axes.get_xticklabels(), width), (axes.get_yticklabels(), height)):
        assert len({label.get_text() for label in labels}) == (count if count <= 80 else 1)  # names differ in their ends
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    pitch = axes.transData.transform((1, 0))[0] - axes.transData.transform((0, 0))[0]
    turned = axes.get_xticklabels()[0].get_rotation() == 90
    assert not turned or width > 80 or max(box.width for box in boxes) < 1.05 * pitch
    (title,) = figure.texts
    extent = title.get_window_extent()
    assert extent.x1 <= figure.canvas.get_width_height()[0]
    assert all(box.y1 <= extent.y0 for box in boxes)


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        ([[15.98, 15.73], [0.0, 15.49]], ["16.0", "15.7", "0", "15.5"]),
        ([[0.113, -0.00002], [-0.0, float("nan")]], ["0.113", "0.000", "0"]),
        ([[1.0, -0.5]], ["1.00", "\N{MINUS SIGN}0.50"]),
        ([[1.0, 0.0], [float("nan"), 1.0]], ["1", "0", "1"]),
        ([[1e-5, 2.34e-5], [0.0, 0.0]], ["1e-05", "2.3e-05", "0", "0"]),
        ([[123456.7, 1.0], [1.0, 1.0]], ["1.2e+05", "1", "1", "1"]),
        ([[float("nan")] * 2] * 2, []),
    ],
)
def test_numbers_of_a_table_can_be_told_apart(values: list[list[float]], printed: list[str]) -> None:
    figure = figures.heat_map("numbers", ["a", "b"][: len(values)], ["c", "d"], values)
    assert [text.get_text() for text in figure.axes[0].texts] == printed


LONG = "gain over 'sharing=none weighting=equal, of the same seeds and splits', in units of the metric, in $ and €"


@pytest.mark.parametrize("width", [2.0, 4.6, 12.0])
def test_long_titles_are_wrapped_in_a_figure_that_grows(width: float) -> None:
    """No word is lost, nothing runs out of the figure, and what was drawn keeps its size and its place from the bottom."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3), dpi=100)
    axes = panel(figure, 0.5, 0.5, 1, 1.8)
    figure.text(0.1, 0.2, "beside", fontsize=6)
    before = axes.get_window_extent().bounds
    shown = titles(figure, LONG, LONG)
    figure.canvas.draw()
    assert " ".join(text.get_text() for text in shown) == " ".join([LONG, LONG]).replace("$", r"\$")
    boxes = [text.get_window_extent() for text in shown]
    assert all(box.x0 >= 0 and box.x1 <= 100 * width and box.y1 <= figure.canvas.get_width_height()[1] for box in boxes)
    assert not any(lower.y1 > upper.y0 + 2 for upper, lower in pairwise(boxes))
    assert min(box.y0 for box in boxes) > axes.get_window_extent().y1
    assert axes.get_window_extent().bounds == pytest.approx(before)
    assert figure.texts[0].get_window_extent().y0 < 70


def test_a_word_that_fits_no_line_goes_on_in_the_next() -> None:
    lines = wrapped(f"of {'x' * 80} tasks", 2, 10)
    assert "".join(lines).replace(" ", "") == f"of{'x' * 80}tasks"
    assert max(map(ems, lines)) * 10 / 72 <= 2


def test_bars_of_importance_say_that_they_are_shares_of_variance() -> None:
    shares = {"validation average": {"trainer.lr": 0.7, "encoder.width": 0.3}, "task_a": {"trainer.lr": 1.0}}
    figure = search.importances(shares, "a study with quite a long name, of which every word is there")
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(shares)
    assert {axes.get_xlabel() for axes in figure.axes} == {"share of the variance"}
    assert inside(figure)
    over = max(axes.get_tightbbox().y1 for axes in figure.axes)
    assert over <= min(text.get_window_extent().y0 for text in figure.texts)


def test_draw_writes_what_there_is_data_for(tmp_path: Path) -> None:
    figures.draw(tmp_path)
    assert list((tmp_path / "figures").iterdir()) == []
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines(["a", "x/y"], 3)))
    matrices = {
        "a": {"classes": ["中", "b"], "matrix": [[3, 1], [0, 2]]},
        "x/y": {"classes": ["0", "1"], "matrix": [[1, 0], [0, 1]]},
    }
    empty = {"unlabelled": {"classes": ["0", "1"], "matrix": [[0, 0], [0, 0]]}}
    (tmp_path / "confusion.json").write_text(json.dumps(matrices | empty))
    (tmp_path / "gradients.json").write_text(json.dumps(gradients(3)))
    figures.draw(tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    confusions = {"confusion_a.png", f"confusion_{figures.file_name('x/y')}.png"}
    assert names == {"learning_curves.png", "gradient_cosines.png"} | confusions
    assert imread(tmp_path / "figures" / "learning_curves.png").std() > 0.01


def test_file_names_stay_apart() -> None:
    assert len({figures.file_name(name) for name in ("x/y", "x_y", "x y", "x\\y")}) == 4


def test_no_global_state_of_pyplot(tmp_path: Path) -> None:
    (tmp_path / "confusion.json").write_text(json.dumps({"a": {"classes": ["0", "1"], "matrix": [[1, 0], [0, 1]]}}))
    (tmp_path / "gradients.json").write_text(json.dumps(gradients(3)))
    script = (
        "import sys; from pathlib import Path; import mtl_runner.figures as f; assert 'matplotlib' not in sys.modules;"
        "f.draw(Path(sys.argv[1])); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.slow
def test_a_thousand_tasks_are_not_drawn_one_by_one(tmp_path: Path) -> None:
    names = [f"task_{i}" for i in range(1000)]
    (tmp_path / "confusion.json").write_text(
        json.dumps({name: {"classes": ["a", "b"], "matrix": [[1, 0], [0, 1]]} for name in names})
    )
    losses = {f"{part}/{name}/loss": 1.0 for name in names for part in ("train", "validation")}
    figure = figures.learning_curves([{"epoch": 1, "metrics": losses}], {})
    figures.draw(tmp_path)
    assert len(list((tmp_path / "figures").glob("*.png"))) == MOST_TASKS
    assert len(figure.axes) == 2 * MOST_TASKS
