"""Curves against scikit-learn; their pictures, and those of the labels, show them, and nothing runs out of the picture."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    precision_score,
    recall_score,
)
from torch import Tensor

from mtl_runner import figures, metrics
from mtl_runner.batch import MISSING, Data, Decision, Split, TargetSpec
from mtl_runner.curves import curves, recall_by_class
from mtl_runner.figures.sheet import Sheet, Sheets
from mtl_runner.figures.style import MOST_TASKS
from mtl_runner.label_table import as_csv
from mtl_runner.labels import PARTS, profile

LONG = ("no, it did not happen at all", "YES, IT DID HAPPEN, $ AND (€)", "中文名字", "x", "cost in $ or $$")
TASK = "A RATHER LONG NAME OF A TASK IN CAPITAL LETTERS, with (€) signs in it"


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def binary(decision: Decision | None = None) -> TargetSpec:
    return TargetSpec("binary", classes=("no", "yes"), decision=decision or Decision())


def multiclass(classes: int, decision: Decision | None = None) -> TargetSpec:
    return TargetSpec("multiclass", classes=tuple(f"class {i}" for i in range(classes)), decision=decision or Decision())


def binary_case(rows: int, share: float, ties: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    labels = (torch.rand(rows, generator=draws(seed)) < share).float()
    labels[:2] = torch.tensor([0.0, 1.0])
    logits = 1.5 * labels + torch.randn(rows, generator=draws(seed + 1)) - 2
    return (logits * 4).round() / 4 if ties else logits, labels


def multiclass_case(rows: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    shares = 1 / torch.arange(1, classes + 1).float() ** 1.5
    labels = torch.multinomial(shares, rows, True, generator=draws(seed))
    return torch.randn(rows, classes, generator=draws(seed + 1)) + 2 * torch.nn.functional.one_hot(labels, classes), labels


def one(logits: Tensor, labels: Tensor, spec: TargetSpec) -> dict[str, Any]:
    made = curves({"t": logits}, {"t": labels}, {"t": spec})["t"]
    again: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    assert again == made
    return again


def steps(curve: dict[str, Any]) -> float:
    """The area under the steps of a stored curve."""
    return float(np.diff(curve["recall"], prepend=0) @ np.array(curve["precision"]))


@pytest.mark.parametrize(("rows", "share", "ties"), [(7, 0.5, False), (400, 0.05, False), (400, 0.3, True), (9000, 0.4, False)])
def test_precision_and_recall_are_those_of_scikit_learn(rows: int, share: float, ties: bool) -> None:
    logits, labels = binary_case(rows, share, ties)
    (curve,) = one(logits, labels, binary())["precision_recall"]
    expected = average_precision_score(labels, logits)
    assert curve["class"] == "yes"
    assert curve["average_precision"] == pytest.approx(expected, abs=1e-12)
    assert curve["prevalence"] == pytest.approx(labels.mean().item())
    precision, recall, _ = precision_recall_curve(labels, logits)
    known = {(round(float(r), 5), round(float(p), 5)) for r, p in zip(recall, precision, strict=True)}
    assert set(zip(curve["recall"], curve["precision"], strict=True)) <= known
    assert (curve["recall"][-1], len(curve["recall"]) <= 200) == (1, True)
    assert steps(curve) == pytest.approx(expected, abs=1e-4 if rows < 9000 else 5e-3)


def test_a_thinned_curve_passes_near_every_point_of_the_whole_one() -> None:
    logits, labels = binary_case(9000, 0.4)
    (curve,) = one(logits, labels, binary())["precision_recall"]
    precision, recall, _ = precision_recall_curve(labels, logits, drop_intermediate=False)
    precision, recall = precision[:-1][::-1], recall[:-1][::-1]
    rising = np.diff(recall, prepend=0) > 0
    whole = np.stack([recall[rising], precision[rising]], 1)
    length = np.abs(np.diff(whole, axis=0)).sum()
    kept = np.stack([curve["recall"], curve["precision"]], 1)
    before = kept[np.searchsorted(kept[:, 0], whole[:, 0] + 1e-5, side="right") - 1]
    assert len(whole) > 10 * len(kept) > 1000
    assert np.abs(whole - before).sum(1).max() <= length / 199 + 4e-5


@pytest.mark.parametrize("ties", [False, True])
def test_reliability_is_that_of_scikit_learn_and_its_error_the_metric(ties: bool) -> None:
    logits, labels = binary_case(3000, 0.1, ties)
    if ties:
        edges = torch.logit(torch.arange(16.0).double() / 15, eps=1e-12)  # of the intervals
        logits = torch.cat([edges, logits[16:].double()])
    curve = one(logits, labels, binary())["reliability"]
    given = logits.double().sigmoid().numpy()
    observed, predicted = calibration_curve(labels, np.floor(given * 1e7) / 1e7, n_bins=15)
    filled = [place for place, count in enumerate(curve["count"]) if count]
    assert [curve["observed"][place] for place in filled] == pytest.approx(observed, abs=1e-6)
    assert [curve["predicted"][place] for place in filled] == pytest.approx(predicted, abs=2e-6)
    assert all(curve["observed"][place] is None for place in range(15) if place not in filled)
    counts = np.array([curve["count"][place] for place in filled])
    assert counts.sum() == 3000
    assert curve["calibration_error"] == pytest.approx(counts @ np.abs(observed - predicted) / 3000, abs=1e-6)
    metric = metrics.binary(logits[None], labels[None])["calibration_error"]
    assert curve["calibration_error"] == pytest.approx(metric.item(), abs=1e-9)
    assert curve["of"] == "yes"


def test_several_classes_are_ranked_one_against_the_rest_and_the_top_one_is_calibrated() -> None:
    logits, labels = multiclass_case(800, 4)
    made = one(logits, labels, multiclass(4))
    shares = logits.double().softmax(-1).numpy()
    assert [curve["class"] for curve in made["precision_recall"]] == [f"class {i}" for i in range(4)]
    for place, curve in enumerate(made["precision_recall"]):
        assert curve["average_precision"] == pytest.approx(average_precision_score(labels == place, shares[:, place]), abs=1e-12)
    observed, predicted = calibration_curve(shares.argmax(1) == labels.numpy(), shares.max(1), n_bins=15)
    reliability = made["reliability"]
    assert [value for value in reliability["observed"] if value is not None] == pytest.approx(observed, abs=1e-6)
    assert [value for value in reliability["predicted"] if value is not None] == pytest.approx(predicted, abs=1e-6)
    metric = metrics.multiclass(logits[None], labels[None])["calibration_error"]
    assert (reliability["of"], reliability["calibration_error"]) == (None, pytest.approx(metric.item(), abs=1e-9))


def test_of_many_classes_the_rarest_that_occur_have_curves() -> None:
    logits, labels = multiclass_case(3000, 40)
    labels[labels == 39] = 0
    shown = [curve["class"] for curve in one(logits, labels, multiclass(40))["precision_recall"]]
    counts = torch.bincount(labels, minlength=40).tolist()
    rarest = sorted((place for place in range(39)), key=lambda place: counts[place])[:10]
    assert shown == [f"class {place}" for place in sorted(rarest)]


DECISIONS = [Decision(), Decision(2.5), Decision(offsets=(1.7,)), Decision(0.5, (-0.6,)), Decision(offsets=(-99.0,))]


@pytest.mark.parametrize("decision", DECISIONS)
def test_the_decision_in_use_is_marked_and_shifts_no_probability(decision: Decision) -> None:
    logits, labels = binary_case(500, 0.2)
    made = one(logits, labels, binary(decision))
    (curve,), calibrated = made["precision_recall"], logits / decision.temperature
    predicted = calibrated + (decision.offsets or (0.0,))[0] > 0
    assert curve["decision"]["recall"] == pytest.approx(recall_score(labels, predicted))
    if predicted.any():
        assert curve["decision"]["precision"] == pytest.approx(precision_score(labels, predicted))
    else:
        assert curve["decision"]["precision"] is None
    assert made["reliability"] == one(calibrated, labels, binary())["reliability"]


def test_the_decision_among_several_classes() -> None:
    logits, labels = multiclass_case(500, 3)
    made = one(logits, labels, multiclass(3, Decision(2.0, (0.0, 1.0, 2.0))))
    predicted = (logits / 2 + torch.tensor([0.0, 1.0, 2.0])).argmax(1)
    for place, curve in enumerate(made["precision_recall"]):
        expected = (predicted == place) & (labels == place)
        assert curve["decision"]["recall"] == pytest.approx((expected.sum() / (labels == place).sum()).item())
    assert made["reliability"] == one(logits / 2, labels, multiclass(3))["reliability"]


def test_examples_without_a_label_change_nothing() -> None:
    for case, spec, hole in ((binary_case(200, 0.3), binary(), math.nan), (multiclass_case(200, 3), multiclass(3), MISSING)):
        logits, labels = case
        more = torch.cat([logits, torch.full_like(logits[:5], math.nan)])
        assert one(more, torch.cat([labels, torch.full_like(labels[:5], hole)]), spec) == one(logits, labels, spec)


def test_tasks_without_a_curve_are_left_out() -> None:
    logits, labels = binary_case(50, 0.3)
    broken = torch.where(torch.arange(50) == 7, math.inf, logits)
    cases = {"constant": (logits, torch.ones(50)), "empty": (logits, torch.full((50,), math.nan)), "diverged": (broken, labels)}
    outputs, targets = ({name: case[i] for name, case in cases.items()} for i in (0, 1))
    specs = dict.fromkeys(cases, binary()) | {"number": TargetSpec("regression")}
    assert curves(outputs | {"number": logits}, targets | {"number": logits}, specs) == {}


def test_recall_of_each_class_is_that_of_scikit_learn() -> None:
    truth, predicted = np.random.default_rng(0).integers(0, 4, (2, 300))
    truth[truth == 2] = 0
    matrix = confusion_matrix(truth, predicted, labels=range(4)).tolist()
    expected = dict(zip("abcd", recall_score(truth, predicted, average=None, labels=range(4), zero_division=0), strict=True))
    recalls = recall_by_class({"t": {"classes": list("abcd"), "matrix": matrix}})
    assert recalls == {"t": {**{name: pytest.approx(value) for name, value in expected.items()}, "c": None}}


def inside(figure: Figure) -> bool:
    """Whether every panel, legend and text of a figure lies in it."""
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [text.get_window_extent() for text in figure.texts]
    width, height = figure.canvas.get_width_height()
    return all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes if box is not None)


def made(name: str) -> tuple[str, dict[str, Any]]:
    if name == "ten":
        return "ten", one(*multiclass_case(900, 10), multiclass(10))
    if name == "long":
        return TASK, one(*multiclass_case(900, 5), TargetSpec("multiclass", classes=LONG))
    logits, labels = binary_case(400, {"rare": 0.03, "even": 0.5, "never": 0.03}[name])
    return name, one(logits - (3 if name != "even" else 0), labels, TargetSpec("binary", classes=LONG[:2]))


@pytest.mark.filterwarnings("ignore:Glyph .* missing")
@pytest.mark.parametrize("name", ["rare", "even", "ten", "long"])
def test_pictures_show_the_curves(name: str) -> None:
    task, each = made(name)
    sheets: Sheets = {}
    figure = figures.reliability(task, each["reliability"], sheets).figure
    counts = each["reliability"]["count"]
    upper, lower = figure.axes
    points = [
        (p, o) for p, o in zip(each["reliability"]["predicted"], each["reliability"]["observed"], strict=True) if p is not None
    ]
    assert [tuple(point) for point in np.asarray(upper.collections[0].get_offsets())] == points
    assert [bar.get_height() for bar in lower.patches] == [count for count in counts if count]  # type: ignore[attr-defined]
    assert upper.get_xlim() == lower.get_xlim() and upper.get_xlim()[1] >= max(map(max, points))
    assert f"ECE {each['reliability']['calibration_error']:.3f}" in figure.texts[1].get_text()
    assert inside(figure)

    figure = figures.precision_recall(task, each["precision_recall"], sheets).figure
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_drawstyle() == "steps-pre"]
    assert len(lines) == len(each["precision_recall"])
    for line, curve in zip(lines, each["precision_recall"], strict=True):
        assert np.asarray(line.get_xdata()).tolist() == [0, *curve["recall"]]
        assert np.asarray(line.get_ydata()).tolist()[1:] == curve["precision"]
    rings = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]  # type: ignore[index]
    expected = [
        tuple(curve["decision"].values()) for curve in each["precision_recall"] if curve["decision"]["precision"] is not None
    ]
    assert rings == expected
    legend = axes.get_legend()
    assert legend is not None
    said = [text.get_text() for text in legend.get_texts()]
    assert all(
        f"AP {c['average_precision']:.3f}" in text
        for c, text in zip(each["precision_recall"], said, strict=True)
        if c["average_precision"] > 0.01
    )
    assert inside(figure)


def written(sheet: Sheet, path: Path) -> Any:
    sheet.savefig(path)
    return imread(path)


def test_a_sheet_shows_one_task_at_a_time_and_all_of_it(tmp_path: Path) -> None:
    first, second = (made(name)[1] for name in ("even", "ten"))
    for draw, key in ((figures.reliability, "reliability"), (figures.precision_recall, "precision_recall")):
        sheets: Sheets = {}
        before = written(draw("t", first[key], sheets), tmp_path / "a.png")
        draw("u", second[key], sheets)
        count = len(sheets)
        sheet = draw("t", first[key], sheets)
        assert len(sheets) == count
        assert np.array_equal(written(sheet, tmp_path / "a.png"), before)
        sheet.figure.savefig(tmp_path / "whole.png")
        assert np.abs(imread(tmp_path / "whole.png") - before).mean() < 1e-4


def label_rows(classes: list[int], names: int = 0) -> tuple[Data, list[dict[str, str]]]:
    """Tasks with so many classes, and their rows."""
    specs, labels = {}, {}
    for place, count in enumerate(classes):
        name = f"{TASK} {place}" if names else f"task {place}"
        kinds = tuple(f"{LONG[i % 5]} {i}" if names else f"c{i}" for i in range(count))
        specs[name] = TargetSpec("multiclass", classes=kinds)
        labels[name] = multiclass_case(1500, count, place)[1]
    split = Split({"input": {"numeric": torch.zeros(1500, 1)}}, labels, dict.fromkeys(labels, "input"))
    data = Data(dict.fromkeys(PARTS, split), {}, specs, {})
    return data, list(csv.DictReader(io.StringIO(as_csv(profile(data)), newline="")))


@pytest.mark.filterwarnings("ignore:Glyph .* missing")
@pytest.mark.parametrize(
    ("classes", "names"), [([2], 0), ([2, 2], 1), ([2] * 12, 0), ([10, 100, 5], 0), ([10, 100, 5], 1), ([3] * 60, 0)]
)
def test_bars_are_the_shares_of_the_classes(classes: list[int], names: int) -> None:
    data, rows = label_rows(classes, names)
    figure = figures.label_shares(rows)
    assert figure is not None
    (axes,) = figure.axes
    shown = profile(data)[:MOST_TASKS]
    assert len(axes.collections) == len(axes.get_yticks()) == len(shown)
    for each, bars in zip(shown, axes.collections, strict=True):
        widths = [np.ptp(np.asarray(path.vertices)[:, 0]) for path in bars.get_paths()]
        assert widths == pytest.approx(sorted(each.shares, reverse=True), abs=1e-5)
    assert inside(figure)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert ("of 60 tasks" in figure.texts[1].get_text()) == (len(classes) == 60)


def test_labels_that_are_not_there_are_said_and_no_class_is_no_picture() -> None:
    specs = {"none": binary(), "constant": binary(), "number": TargetSpec("regression")}
    labels = {"none": torch.full((4,), math.nan), "constant": torch.zeros(4), "number": torch.zeros(4)}
    split = Split({"input": {"numeric": torch.zeros(4, 1)}}, labels, dict.fromkeys(labels, "input"))
    rows = list(csv.DictReader(as_csv(profile(Data(dict.fromkeys(PARTS, split), {}, specs, {}))).splitlines()))
    figure = figures.label_shares(rows)
    assert figure is not None
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == ["no label; 4 missing", "no: 4", "yes: 0 of 4"]
    assert figures.label_shares(rows[-1:]) is None


def test_draw_makes_pictures_of_what_is_there(tmp_path: Path) -> None:
    data, _ = label_rows([2, 3])
    odd = TargetSpec("multiclass", classes=("a\u2028b", "two\nlines", 'say "no", or'))
    data = replace(data, targets={**data.targets, "task 1": odd})
    (tmp_path / "labels.csv").write_text(as_csv(profile(data)), encoding="utf-8")
    each = made("even")[1]
    (tmp_path / "curves.json").write_text(json.dumps({"a": each, "x/y": each}))
    figures.draw(tmp_path)
    kinds = ("reliability", "precision_recall")
    tasks = {f"{kind}_{figures.file_name(task)}.png" for kind in kinds for task in ("a", "x/y")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"labels.png"} | tasks
    assert all(imread(path).std() > 0.01 for path in (tmp_path / "figures").iterdir())
