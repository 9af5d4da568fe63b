"""What tasks use, against scikit-learn, against attributions worked by hand, and on tables with planted dependences."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from handmade import TASKS, kind_of, made, two_streams
from PIL import Image
from sklearn.inspection import permutation_importance
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score

from mtl_runner import build
from mtl_runner.batch import Data, StreamSpec, TargetSpec, example
from mtl_runner.config.schema import plain
from mtl_runner.datasets.images import ImageTable
from mtl_runner.datasets.prepared import read_preparation
from mtl_runner.errors import UserError
from mtl_runner.explain import explain, write
from mtl_runner.explain.explanation import _left_out, _of_table
from mtl_runner.explain.gradients import Attributions, attribute, baseline
from mtl_runner.explain.inputs import Input, View, inputs_of, owners
from mtl_runner.explain.permutation import Importance, importance, permutations, shuffled, surely
from mtl_runner.explain.shared import cosine, pairs
from mtl_runner.figures import heat_map
from mtl_runner.tasks import make_tasks
from mtl_runner.tasks.group import pack

SCORES: dict[str, Callable[..., float]] = {
    "yes": lambda y, z: roc_auc_score(y, z),
    "sort": lambda y, z: balanced_accuracy_score(y, z.argmax(1)),
    "size": r2_score,
    "pair": r2_score,
}


def view_of(data: Data, config: Any, part: str = "validation", stream: str = "input") -> View:
    """An untrained model: what it uses is a matter of its weights, and the same for every way to find out."""
    model = build.make_model(plain(config), data.streams, data.targets).eval()
    split = data.splits[part].only([task for task, spec in data.targets.items() if spec.stream == stream])
    groups = {key: group for key, group in model.task_groups.items() if group.stream == stream}
    others = {name: example(spec) for name, spec in data.streams.items() if name != stream}
    return View(model, pack(split, groups), stream, others)


def importance_of(view: View, spec: StreamSpec, repeats: int = 4, seed: int = 0) -> Importance:
    return importance(view, inputs_of(spec), permutations(view.split.size(view.stream), repeats, seed), seed)


def attributions_of(view: View, data: Data) -> Attributions:
    start = baseline(data.splits["train"].inputs[view.stream])
    return attribute(view, inputs_of(data.streams[view.stream]), start, 0)


class Estimator:
    """A task of a model as scikit-learn sees one; columns are numbers, then categories."""

    def __init__(self, view: View, task: str) -> None:
        self.view, self.task = view, task

    def fit(self, x: Any, y: Any) -> None:
        """It was trained elsewhere, or not at all."""

    def predict(self, x: Any) -> Any:
        fields = {"numeric": torch.from_numpy(x[:, :4]).float(), "categorical": torch.from_numpy(x[:, 4:]).long()}
        return self.view.model.by_task(self.view.outputs(fields))[self.task].numpy()


def orders_of(rows: int, repeats: int) -> torch.Tensor:
    """Those in which scikit-learn shuffles each column, seen on a column of row numbers."""
    seen: list[Any] = []

    def score(model: Any, x: Any, y: Any) -> float:
        seen.append(x[:, 0].copy())
        return 0.0

    permutation_importance(
        Estimator.__new__(Estimator), np.arange(rows)[:, None], None, scoring=score, n_repeats=repeats, random_state=3
    )
    return torch.from_numpy(np.stack(seen[1:]))


def scorer(task: str) -> Callable[..., float]:
    return lambda model, x, y: SCORES[task](y, model.predict(x))


@pytest.mark.parametrize("mode", ["hard", pytest.param("none", marks=pytest.mark.slow)])
def test_importance_is_scikit_learns(mode: str, make_config: Callable[..., Any]) -> None:
    """The same orders give the same drops, task by task, whatever runs together."""
    data = kind_of("table", "one")
    view = view_of(data, make_config(f"sharing={mode}"))
    fields = view.fields
    x = np.concatenate([fields["numeric"].numpy(), fields["categorical"].numpy()], 1)
    found = importance(view, inputs_of(data.streams["input"]), orders_of(len(x), 4), 0)
    for place, task in enumerate(TASKS):
        y = data.splits["validation"].targets[task].numpy()
        known = permutation_importance(Estimator(view, task), x, y, scoring=scorer(task), n_repeats=4, random_state=3)
        np.testing.assert_allclose(found.drop[place], known.importances_mean, atol=1e-5)
        assert found.baseline[place] == pytest.approx(SCORES[task](y, Estimator(view, task).predict(x)), abs=1e-5)


def test_intervals_cover_what_an_input_without_use_does(make_config: Callable[..., Any]) -> None:
    """Where labels depend on nothing the expected drop is 0. The spread over orders alone would exclude it half of the time."""
    outside = []
    view = view_of(made({"yes": TASKS["yes"], "size": TASKS["size"]}, {"input": (2,)}, {"input": 80}), make_config())
    draws = torch.Generator().manual_seed(0)
    for trial in range(25):
        targets = {key: torch.randn(value.shape, generator=draws) for key, value in view.split.targets.items()}
        targets = {key: (value > 0).float() if "binary" in key else value for key, value in targets.items()}
        inputs = {"input": {"numeric": torch.randn(80, 2, generator=draws)}}
        again = View(view.model, type(view.split)(inputs, targets, view.split.streams), "input", {})
        found = importance_of(again, StreamSpec({"numeric": (2,)}), 10, trial)
        outside.append(np.abs(found.drop) > found.half)
    assert np.mean(outside) < 0.07


@pytest.mark.parametrize(
    ("kind", "gap", "options"),
    [
        ("table", 5e-3, ("sharing=hard",)),  # the gradient of relu networks jumps, and no rule integrates it exactly
        ("table", 5e-3, ("sharing=none",)),
        ("table", 1e-3, ("sharing=soft", "encoder.activation=gelu")),
        ("table", 5e-3, ("encoder=ft_transformer", "encoder.width=8", "encoder.layers=1", "encoder.heads=2")),
        pytest.param(
            "images",
            1e-3,
            ("encoder=transformer", "encoder.width=8", "encoder.layers=1", "encoder.heads=2"),
            marks=pytest.mark.slow,
        ),
        ("tokens", 1e-6, ("encoder=rnn", "encoder.width=8")),
    ],
)
def test_attributions_are_complete(kind: str, gap: float, options: tuple[str, ...], make_config: Callable[..., Any]) -> None:
    """They sum to f(x) - f(baseline), row by row; of several outputs, to the distance from the baseline's."""
    data = kind_of(kind, "one")
    view = view_of(data, make_config(*options))
    found = attributions_of(view, data)
    np.testing.assert_allclose(found.values.sum(2), found.change, atol=10 * gap * float(found.change.abs().mean()))
    assert (found.gap() <= gap).all(), found.gap()
    start = baseline(data.splits["train"].inputs["input"])
    first, last = (view.model.by_task(view.outputs(fields)) for fields in (start, view.fields))
    if kind != "tokens":  # whose baseline is as long as the row
        change = (last["size"] - first["size"]) * 2.0  # the scale
        np.testing.assert_allclose(found.change[2], change, atol=1e-5)
        distance = (last["pair"] - first["pair"]).norm(dim=1)
        np.testing.assert_allclose(found.change[3], distance, atol=1e-5)
        centred = [z["sort"] - z["sort"].mean(1, keepdim=True) for z in (first, last)]
        chosen = last["sort"].argmax(1)
        np.testing.assert_allclose(found.change[1], centred[1].max(1).values - centred[0][0, chosen], atol=1e-5)


def test_attributions_of_a_linear_model(make_config: Callable[..., Any]) -> None:
    """w · (x - x'), and the difference of two categories' vectors."""
    data = kind_of("table", "one")
    view = view_of(data, make_config("encoder=embedding", "encoder.hidden=[]", "encoder.combine=concat", "encoder.size=3"))
    found = attributions_of(view, data)
    start = baseline(data.splits["train"].inputs["input"])
    weights = dict(view.model.named_parameters())
    (head,) = (value for name, value in weights.items() if name.startswith("groups.2") and "weight" in name)
    w = head.detach().flatten() * 2.0  # the task's scale
    tables = [value.detach() for name, value in weights.items() if "embeddings" in name]
    for place in range(4):
        expected = w[6 + place] * (view.fields["numeric"][:, place] - start["numeric"][:, place])
        np.testing.assert_allclose(found.values[2, :, place], expected, atol=1e-5)
    for column, table in enumerate(tables):
        own, other = (table[fields["categorical"][:, column]] for fields in (view.fields, start))
        expected = (own - other) @ w[3 * column : 3 * column + 3]
        np.testing.assert_allclose(found.values[2, :, 4 + column], expected, atol=1e-5)


def test_streams_are_looked_at_one_by_one(make_config: Callable[..., Any]) -> None:
    data = two_streams()
    for stream, tasks in (("left", ["yes"]), ("right", ["sort", "size", "pair"])):
        view = view_of(data, make_config("sharing=hard"), stream=stream)
        found = importance_of(view, data.streams[stream])
        assert [task.name for task in view.tasks] == tasks and found.drop.shape == (len(tasks), 6 if stream == "left" else 3)
        assert (attributions_of(view, data).gap() <= 5e-3).all()


def test_tasks_with_several_answers_for_an_example_are_left_out_and_named() -> None:
    """A model of both kinds, of which nothing but its tasks is asked."""
    kinds = {"words": "tagging", "size": "regression", "boxes": "detection", "far": "depth"}
    streams = dict.fromkeys(kinds, "input") | {"far": "other"}
    classes = {"tagging": ("a", "b"), "detection": ()}
    tasks = make_tasks(
        {
            name: TargetSpec(kind, streams[name], classes=classes.get(kind, ()), columns=("cat",), shape=(2, 5))
            for name, kind in kinds.items()
        }
    )
    model: Any = SimpleNamespace(tasks=tasks)
    (line,) = _left_out(model, "input")
    assert line.endswith(": words, boxes")
    assert not list(_left_out(model, "another"))


def test_a_column_and_its_marker_are_one_input() -> None:
    spec = StreamSpec(
        {"numeric": (3,), "categorical": (1,)}, (4,), {"numeric": ("a", "b", "b is missing"), "categorical": ("c",)}
    )
    assert inputs_of(spec) == [Input("a", "numeric", (0,)), Input("b", "numeric", (1, 2)), Input("c", "categorical", (0,))]


@pytest.mark.parametrize(("shape", "count"), [((1, 8, 8), 64), ((3, 32, 32), 64), ((3, 30, 17), 60), ((1, 9, 9), 25)])
def test_an_image_is_cut_into_patches(shape: tuple[int, int, int], count: int) -> None:
    found = inputs_of(StreamSpec({"image": shape}))
    assert len(found) == count == len({one.name for one in found})
    assert sorted(place for one in found for place in one.places) == list(range(int(np.prod(shape))))
    assert owners(found, "image", int(np.prod(shape)))[list(found[-1].places)].unique().tolist() == [count - 1]


def test_long_sequences_have_runs_of_positions() -> None:
    assert [len(inputs_of(StreamSpec({"tokens": (length,)}, vocabulary=5))) for length in (7, 64, 65, 300)] == [7, 64, 33, 60]


@pytest.mark.parametrize("kind", ["table", "tokens"])
def test_shuffling_moves_one_input_and_nothing_else(kind: str) -> None:
    data = kind_of(kind, "one")
    fields = data.splits["train"].inputs["input"]
    orders = permutations(50, 3, 0)
    for one in inputs_of(data.streams["input"]):
        changed = shuffled(fields, one, orders)
        for name, value in changed.items():
            again = value.view(3, 50, -1)
            kept = [place for place in range(again.shape[2]) if name != one.field or place not in one.places]
            assert torch.equal(again[:, :, kept], fields[name].flatten(1)[:, kept].expand(3, -1, -1))
        moved = changed[one.field].view(3, 50, -1)[:, :, list(one.places)]
        own = fields[one.field].flatten(1)[:, list(one.places)]
        assert torch.equal(moved.sort(1).values, own.sort(0).values.expand(3, -1, -1))
        if kind == "tokens":
            assert torch.equal(changed["tokens"] == 0, (fields["tokens"] == 0).repeat(3, 1))
        else:
            assert torch.equal(moved, own[orders])


def test_what_is_sure_among_many() -> None:
    """Holm, by hand: 0.01 ≤ 0.05 / 4, 0.012 ≤ 0.05 / 3, 0.03 > 0.05 / 2, and what comes after a failure fails."""
    p = np.array([[0.012, 0.03, np.nan], [0.01, 0.04, np.nan]])
    assert surely(p).tolist() == [[True, False, False], [True, False, False]]
    assert surely(np.zeros((2, 2))).all() and not surely(np.ones((2, 2))).any()


def test_pairs_of_tasks_by_hand() -> None:
    drop = np.array([[3.0, 4.0, -1.0], [4.0, 3.0, 0.0], [np.nan] * 3])
    used = np.array([[True, True, False], [True, False, False], [False] * 3])
    first, second, _ = pairs(["a", "b", "c"], ["x", "y", "z"], drop, np.eye(3), used)
    assert (first.importance, first.attribution, first.jaccard) == (pytest.approx(24 / 25), 0.0, 0.5)
    assert (first.both, first.only_one, first.only_other) == (("x",), ("y",), ())
    assert np.isnan(second.importance) and second.jaccard == 0.0
    assert cosine(np.array([1.0, np.nan, 2.0]), np.array([2.0, 5.0, 4.0])) == pytest.approx(1.0)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Three tasks that depend on known columns: sums, one category, and whether a value is missing; the others are noise."""
    draws = np.random.default_rng(1)
    rows = 1500
    columns = {name: draws.normal(size=rows) for name in ("a", "b", "noise_1", "holes", "noise_2")}
    town, other = draws.choice(["Oslo", "Rome", "Lima"], rows), draws.choice(["x", "y"], rows)
    absent = draws.random(rows) < 0.3
    labels = {
        "both": np.where(columns["a"] + columns["b"] > 0, "yes", "no"),
        "size": 3.0 * (town == "Oslo") - 2.0 * (town == "Rome") + 0.3 * draws.normal(size=rows),
        "gap": np.where(columns["a"] + 2 * absent > 0.5, "yes", "no"),
    }
    labels["gap"][:200] = ""
    holes = np.where(absent, "", columns["holes"].round(3).astype(str))
    path = tmp_path / "planted.csv"
    pa.csv.write_csv(pa.table({**columns, "holes": holes, "town": town, "other": other, **labels}), path)
    return path


def run_on(train: Callable[..., Path], path: Path, mode: str) -> Path:
    return train(
        "dataset=table", f"dataset.path={path}", "dataset.tasks=[both,size,gap]", "dataset.split.validation=0.3",
        f"sharing={mode}", "trainer.epochs=6", "trainer.batch_size=64", "optimizer.lr=0.01",
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["hard", pytest.param("none", marks=pytest.mark.slow)])
def test_planted_dependences_are_found(
    mode: str, train: Callable[..., Path], planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly the columns that a task depends on, by shuffling; and they have nearly all of the attributions."""
    monkeypatch.setattr("mtl_runner.figures.draw", lambda folder: None)
    folder = run_on(train, planted, mode)
    found = explain(folder)
    assert found.tasks == ("both", "size", "gap") and found.metrics == ("roc_auc", "r2", "roc_auc")
    expected = {"both": {"a", "b"}, "size": {"town"}, "gap": {"a", "holes"}}
    strength = found.attributions.strength()
    for place, (task, names) in enumerate(expected.items()):
        assert {name for i, name in enumerate(found.inputs) if found.used[place, i]} == names, task
        inside = [found.inputs.index(name) for name in names]
        assert strength[place, inside].sum() > 0.7 * strength[place].sum(), task
    assert found.users(found.inputs.index("a")) == ("both", "gap")
    assert (found.attributions.gap() <= 5e-3).all()
    titles: list[str] = []

    def seen(title: str, *rest: Any) -> Any:
        titles.append(title)
        return heat_map(title, *rest)

    monkeypatch.setattr("mtl_runner.explain.files.heat_map", seen)
    write(found, tmp_path / "made" / "here")
    assert titles == ["importance: share of a task's summed drops", "attributions: share of a task's summed attributions"]
    with (tmp_path / "made" / "here" / "shared.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["other"] == "gap" and row["task"] == "both")
    assert (row["both"], row["only_task"], row["only_other"], float(row["jaccard"])) == (
        "a",
        "b",
        "holes",
        pytest.approx(1 / 3, abs=1e-5),
    )
    if mode == "hard":
        again = explain(folder, input=planted, rows=400)
        assert again.rows == 400 and again.of == str(planted) and again.used[1].sum() == 1
        check_mistakes(folder, planted)


def check_mistakes(folder: Path, path: Path) -> None:
    with pytest.raises(UserError, match=r"test: that part is read once.*validation.*--input"):
        explain(folder, "test")
    with pytest.raises(UserError, match="did you mean 'validation'"):
        explain(folder, "validatoin")
    stored = (folder / "data.json").read_text()
    (folder / "data.json").write_text(stored.replace('"fingerprint"', '"finger"'))
    with pytest.raises(UserError, match=r"data\.json: .* no fingerprint.*--input"):
        explain(folder)
    (folder / "data.json").write_text(stored)
    text = path.read_text()
    path.write_text(text.replace("Oslo", "Bonn", 1))
    with pytest.raises(UserError, match=r"has changed since.*--input"):
        explain(folder)
    path.write_text("\n".join(text.splitlines()[:2]) + "\n")
    with pytest.raises(UserError, match="1 rows are too few"):
        explain(folder, input=path)
    path.unlink()
    with pytest.raises(UserError, match=r"cannot be read again.*--input"):
        explain(folder)


def test_rows_that_cannot_be_used_are_passed_over_as_in_predictions(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), np.uint8)
    for row, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
    path = tmp_path / "rows.csv"
    path.write_text("image,bright\n" + "".join(f"{row}.png,{row % 2}\n" for row in range(6)))

    def preparation(how: Any) -> Any:
        data = ImageTable(str(path), {"bright": {"type": "binary"}}, on_error=how, max_errors=1).load()
        return read_preparation(data.preparation)["input"]

    skips, stops = (SimpleNamespace(preparation=preparation(how), targets=["bright"]) for how in ("skip", "stop"))
    whole, _, _ = _of_table(skips, path)  # type: ignore[arg-type]
    (tmp_path / "2.png").write_bytes(b"no image")
    rest, _, _ = _of_table(skips, path)  # type: ignore[arg-type]
    kept = torch.tensor([0, 1, 3, 4, 5])
    assert torch.equal(rest.inputs["input"]["image"], whole.inputs["input"]["image"][kept])
    assert torch.equal(rest.targets["bright"], whole.targets["bright"][kept])
    with pytest.raises(UserError, match=r"rows\.csv, line 4: image .*2\.png"):
        _of_table(stops, path)  # type: ignore[arg-type]
