"""Each measure of relatedness against a formula written out, and what groups follow from it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from handmade import TASKS, made, same, training_on, two_streams
from omegaconf import OmegaConf
from scipy import stats
from torch import Tensor

from mtl_runner.affinity import MEASURES, Affinity, proposed, score
from mtl_runner.affinity.base import Setting, learned
from mtl_runner.affinity.figure import picture
from mtl_runner.affinity.gradients import Gradients
from mtl_runner.affinity.grouping import linkage, symmetric
from mtl_runner.affinity.inputs import Inputs, columns, mmd
from mtl_runner.affinity.labels import Labels, association
from mtl_runner.affinity.lookahead import Lookahead
from mtl_runner.affinity.matrices import ranks
from mtl_runner.affinity.measuring import start_alike
from mtl_runner.affinity.output import as_option
from mtl_runner.affinity.parameters import Parameters
from mtl_runner.affinity.representations import RSA, Representations
from mtl_runner.batch import StreamSpec

RNG = np.random.default_rng(0)


# ---- data -------------------------------------------------------------------------------------------------------------


def indicators(labels: np.ndarray) -> Tensor:
    return torch.from_numpy(labels[:, None] == np.unique(labels)).double()


def test_association_is_each_of_the_known_ones() -> None:
    one, other = RNG.integers(3, size=200), RNG.integers(4, size=200)
    other[:90] = one[:90]
    value = one + RNG.normal(size=200).round(1)
    number = value + RNG.normal(size=200)
    table = stats.contingency.crosstab(one, other).count
    assert association(indicators(one), indicators(other)) == pytest.approx(stats.contingency.association(table, "cramer"))
    ranked, further = (ranks(torch.from_numpy(each)[:, None]) for each in (value, number))
    assert association(ranked, further) == pytest.approx(abs(stats.spearmanr(value, number).statistic))
    kruskal = stats.kruskal(*(value[one == label] for label in range(3))).statistic
    assert association(indicators(one), ranked) == pytest.approx((kruskal / 199) ** 0.5)
    assert np.isnan(association(torch.ones(9, 1), torch.rand(9, 2)))


def test_labels_need_rows_in_common() -> None:
    data = made(rows={"input": 200})
    matrix = Labels(Setting(data)).result()
    assert matrix.isfinite().all() and torch.equal(matrix, matrix.T) and matrix.max() <= 1
    train = data.splits["train"]
    train.targets["yes"][:150] = torch.nan
    train.targets["size"][50:] = torch.nan
    matrix = Labels(Setting(data)).result()
    places = [list(TASKS).index(name) for name in ("yes", "size")]
    assert matrix[places[0], places[1]].isnan() and matrix.isnan().sum() == 2
    assert Labels(Setting(two_streams())).result()[0, 1:].isnan().all()


def test_mmd_is_the_sum_over_pairs() -> None:
    x, y, scale = torch.rand(7, 3).double(), torch.rand(5, 3).double() + 1, 2.5

    def kernel(a: Tensor, b: Tensor) -> float:
        return float(np.exp(-float((a - b) @ (a - b)) / scale))

    within = [
        np.mean([kernel(each[i], each[j]) for i in range(len(each)) for j in range(len(each)) if i != j]) for each in (x, y)
    ]
    expected = sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert mmd(x, y, scale) == pytest.approx(expected**0.5)


def test_inputs_tell_tasks_with_rows_of_another_kind() -> None:
    data = made(dict.fromkeys("abc", TASKS["yes"]), rows={"input": 300})
    train = data.splits["train"]
    train.inputs["input"]["numeric"][200:] += 2
    for name, rows in zip("abc", (range(100), range(100, 200), range(200, 300)), strict=True):
        train.targets[name][[row for row in range(300) if row not in rows]] = torch.nan
    matrix = Inputs(Setting(data)).result()
    assert matrix[0, 1] > 0.9 and matrix[0, 2] < 0.6 and matrix[1, 2] < 0.6
    assert Inputs(Setting(two_streams())).result()[0, 1:].isnan().all()


def test_columns_of_categories_and_tokens() -> None:
    spec = StreamSpec({"numeric": (1,), "categorical": (1,), "tokens": (3,)}, (2,), vocabulary=4)
    fields = {"numeric": torch.tensor([[0.5]]), "categorical": torch.tensor([[1]]), "tokens": torch.tensor([[2, 2, 0]])}
    assert columns(fields, spec).tolist() == [[0.5, 0, 1, 0, 1, 0]]


# ---- networks that were trained alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [4, 60])
def test_cka_is_that_of_hsic(width: int) -> None:
    x, y = RNG.normal(size=(30, width)) + 5, RNG.normal(size=(30, 7))
    y[:, :2] += x[:, :2]
    centre = np.eye(30) - 1 / 30

    def hsic(k: np.ndarray, other: np.ndarray) -> float:
        return float(np.trace(k @ centre @ other @ centre)) / 29**2

    k, other = x @ x.T, y @ y.T
    expected = hsic(k, other) / (hsic(k, k) * hsic(other, other)) ** 0.5
    measure = Representations(Setting(made()))
    assert measure.compare(*(measure.prepared(torch.from_numpy(each)) for each in (x, y))) == pytest.approx(expected)


def test_rsa_is_spearmans_rho_of_the_dissimilarities() -> None:
    x, y = RNG.normal(size=(20, 6)), RNG.normal(size=(20, 9))
    y[:, :3] += x[:, :3]
    above = np.triu_indices(20, 1)
    expected = stats.spearmanr(*(1 - np.corrcoef(each)[above] for each in (x, y))).statistic
    measure = RSA(Setting(made()))
    assert measure.compare(*(measure.prepared(torch.from_numpy(each)) for each in (x, y))) == pytest.approx(expected)


def test_displacements_count_from_the_common_start(make_config: Callable[..., Any]) -> None:
    data = made()
    training = training_on(data, make_config("sharing=none"))
    start_alike(training.model)
    networks = [training.model.sharing.network(task) for task in TASKS]
    assert all(same(dict(networks[0].named_parameters()), dict(each.named_parameters())) for each in networks)
    measure = Parameters(Setting(data))
    measure.begin(training)
    moves = [[torch.randn_like(value) for value in network.parameters()] for network in networks]
    with torch.no_grad():
        for network, its in zip(networks[1:], moves[1:], strict=True):
            for value, move in zip(network.parameters(), its, strict=True):
                value += move
    flat = [torch.cat([each.flatten() for each in move]) for move in moves]
    result = measure.result()
    assert float(result[1, 2]) == pytest.approx(float(torch.cosine_similarity(flat[1], flat[2], 0)), abs=1e-5)
    assert result[0].isnan().all(), "the first has not moved"


# ---- a network that is shared --------------------------------------------------------------------------------------------


def test_lookahead_and_gradients_worked_by_hand(make_config: Callable[..., Any]) -> None:
    """Two regressions on a shared linear layer h = W x + b with a ReLU that is open: L_t = mean (a_t · h + c_t - y_t)²."""
    data = made(dict.fromkeys("ab", TASKS["size"]), rows={"input": 40})
    validation = data.splits["validation"]
    training = training_on(data, make_config("sharing=hard", "encoder.hidden=[3]"))
    (trainer,) = training.trainers
    weight, bias = trainer.shared if trainer.shared[0].ndim == 2 else trainer.shared[::-1]
    with torch.no_grad():
        bias += 6
    head = trainer.groups["0_regression"].head
    w, b = weight.detach().numpy().copy(), bias.detach().numpy().copy()
    a, c = head.weight.detach().numpy()[:, 0], head.bias.detach().numpy()[:, 0]
    x = validation.inputs["input"]["numeric"].numpy()
    y = np.stack([validation.targets[name].numpy() for name in "ab"])

    def losses(w: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((a @ (x @ w.T + b).T + c[:, None] - y) ** 2).mean(1)

    errors = 2 * (a @ (x @ w.T + b).T + c[:, None] - y) / 40  # dL / d prediction, [T, N]
    gradients = [(np.outer(a[t], errors[t] @ x), a[t] * errors[t].sum()) for t in range(2)]
    expected = np.array([1 - losses(w - 0.02 * dw, b - 0.02 * db) / losses(w, b) for dw, db in gradients])
    flat = [np.concatenate([dw.ravel(), db]) for dw, db in gradients]
    found = {}
    for name in ("lookahead", "gradients"):
        measure = MEASURES[name](Setting(data, step_size=0.02))
        measure.begin(training)
        trainer.progress.step = 1
        measure.after_step()
        found[name] = measure.result().numpy()
    assert found["lookahead"] == pytest.approx(expected, rel=1e-3)
    assert abs(expected[0, 1]) > 1e-4 and abs(expected[0, 1] - expected[1, 0]) > 1e-5
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert found["gradients"][0, 1] == pytest.approx(cosine, rel=1e-4)
    assert np.array_equal(weight.detach().numpy(), w) and np.array_equal(bias.detach().numpy(), b)


def test_looking_changes_nothing(make_config: Callable[..., Any]) -> None:
    config = make_config("encoder.hidden=[8,8]", "encoder.dropout=0.5", "encoder.norm=batch", "trainer.batch_size=16")
    weights = []
    for names in ((), ("gradients", "lookahead")):
        data = made()
        training = training_on(data, config)
        measures = [MEASURES[name](Setting(data, every=2)) for name in names]
        for measure in measures:
            measure.begin(training)
        for _ in training.fit(lambda measures=measures: [measure.after_step() for measure in measures]):  # type: ignore[misc]
            pass
        weights.append(training.model.state_dict())
        for measure in measures:
            result = measure.result()
            assert result.shape == (4, 4) and result.isfinite().all()
    assert same(*weights)


def test_a_task_without_labels_is_compared_with_none(make_config: Callable[..., Any]) -> None:
    data = made()
    data.splits["validation"].targets["size"][:] = torch.nan
    training = training_on(data, make_config())
    for name in ("gradients", "lookahead"):
        measure = MEASURES[name](Setting(data))
        measure.begin(training)
        training.trainers[0].progress.step = 1
        measure.after_step()
        unknown = measure.result().isnan()
        place = list(TASKS).index("size")
        assert unknown[place].all() and unknown[:, place].all() and unknown.sum() == 7


def test_looks_count_while_tasks_learn() -> None:
    falling, late, never = [1.0, 0.6, 0.15, 0.2, 0.0], [1.0, 0.9, 0.8, 0.7, 0.0], [1.0, 1.1, 1.2, 1.3, 1.4]
    assert learned(torch.tensor([falling, late, never, [torch.nan] * 5]).T).tolist() == [2, 4, 1, 5]


# ---- groups --------------------------------------------------------------------------------------------------------------


def partitions(tasks: list[int]) -> Iterator[list[list[int]]]:
    if not tasks:
        yield []
        return
    for groups in partitions(tasks[1:]):
        yield [[tasks[0]], *groups]
        for place, group in enumerate(groups):
            yield [*groups[:place], [tasks[0], *group], *groups[place + 1 :]]


def by_loops(affinity: np.ndarray, groups: list[list[int]]) -> float:
    return sum(np.mean([affinity[t, u] for t in group if t != u]) for group in groups if len(group) > 1 for u in group)


@pytest.mark.parametrize("networks", [1, 2, 3, 6])
def test_groups_are_the_best_of_all_partitions(networks: int) -> None:
    for _ in range(4):
        affinity = RNG.normal(size=(6, 6))
        best = max((each for each in partitions(list(range(6))) if len(each) <= networks), key=lambda g: by_loops(affinity, g))
        assert proposed(affinity, networks) == sorted(map(sorted, best))
        assert score(affinity, best) == pytest.approx(by_loops(affinity, best))


def test_groups_of_many_tasks_are_found_without_looking_at_all() -> None:
    planted = np.arange(30) % 4
    affinity = np.where(planted[:, None] == planted, 0.3, 0.0) + RNG.normal(0, 0.1, (30, 30))
    assert proposed(affinity, 4) == [list(range(group, 30, 4)) for group in range(4)]


def test_groups_beyond_exactness_are_near_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = [RNG.normal(size=(7, 7)) for _ in range(5)]
    best = [score(each, proposed(each, 3)) for each in matrices]
    monkeypatch.setattr("mtl_runner.affinity.grouping.EXACT", 0)
    found = [score(each, proposed(each, 3)) for each in matrices]
    assert sum(found) > 0.7 * sum(best) and all(a <= b + 1e-9 for a, b in zip(found, best, strict=True))


def test_tasks_that_harm_each_other_are_alone_and_unknown_pairs_count_nothing() -> None:
    assert proposed(-np.ones((3, 3)), 3) == [[0], [1], [2]]
    affinity = np.full((3, 3), np.nan)
    affinity[0, 2] = affinity[2, 0] = 0.5
    assert proposed(affinity, 2) == [[0, 2], [1]]


def test_linkage_is_scipys_on_one_minus_affinity() -> None:
    from scipy.cluster.hierarchy import cophenet

    affinity = np.array([[1, 0.8, 0.2], [0.6, 1, 0.0], [0.2, 0.0, np.nan]])
    assert symmetric(affinity)[0, 1] == 1 and symmetric(affinity)[0, 2] == pytest.approx(0.2 / 0.7)
    assert cophenet(linkage(affinity)) == pytest.approx([0, 1 - 0.1 / 0.7, 1 - 0.1 / 0.7])


# ---- what is shown -------------------------------------------------------------------------------------------------------


def affinity_of(count: int, names: list[str] | None = None) -> Affinity:
    return Affinity(
        "labels", "a title", tuple(names or map(str, range(count))), torch.from_numpy(RNG.normal(size=(count, count)))
    )


def test_names_of_tasks_stay_names() -> None:
    names = ["${oc.env:HOME}", "a, b: [c]", "- é", "null"]
    option = OmegaConf.to_container(OmegaConf.create(as_option(affinity_of(4, names), [[0, 3], [1, 2]], 2)), resolve=True)
    assert option == {"defaults": ["clustered", "_self_"], "groups": [[names[0], names[3]], names[1:3]]}


@pytest.mark.parametrize("count", [2, 5, 30])
def test_pictures_hold_everything(count: int) -> None:
    names = [f"a rather long name, in $ or $$ {place}" for place in range(count)]
    figure = picture(each := affinity_of(count, names), proposed(each.values.numpy(), 2))
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [text.get_window_extent() for text in figure.texts]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes)


@pytest.mark.parametrize("groups", [[[0, 1], [2, 3], [4]], [[0, 3], [1, 4], [2]], [[0, 2, 4], [1], [3]]])
def test_frames_hold_the_pairs_of_one_group_and_no_others(groups: list[list[int]]) -> None:
    """Also of groups whose tasks are no neighbours in the dendrogram."""
    affinity = np.eye(5)
    for place in range(4):  # the dendrogram keeps the tasks in a row
        affinity[place, place + 1] = affinity[place + 1, place] = 0.9 - 0.1 * place
    each = Affinity("inputs", "", tuple("abcde"), torch.tensor(affinity))
    axes = picture(each, groups).axes[1]
    order = ["abcde".index(label.get_text()) for label in axes.get_yticklabels()]
    of = {task: number for number, group in enumerate(groups) for task in group if len(group) > 1}
    framed = {
        (order[y], order[x])
        for patch in axes.patches
        for x, y in product(*(range(round(at + 0.5), round(at + 0.5 + size)) for at, size in corners(patch)))
    }
    assert framed == {(t, u) for t, u in product(range(5), repeat=2) if of.get(t, -1) == of.get(u, -2)}


def corners(patch: Any) -> list[tuple[float, float]]:
    return [(patch.get_x(), patch.get_width()), (patch.get_y(), patch.get_height())]


@pytest.mark.parametrize("measure", [Parameters, Gradients, Lookahead, Labels])
def test_titles_of_measures_are_whole_for_two_tasks(measure: Any) -> None:
    each = affinity_of(2, ["a", "b"])
    figure = picture(replace(each, name=measure.__name__.lower(), title=measure.title), [[0], [1]])
    said = " ".join(text.get_text() for text in figure.texts)
    assert said.startswith(f"{measure.__name__.lower()}: {measure.title} ")


def test_whether_it_tells_pairs_apart() -> None:
    alike = torch.ones(3, 3).double()
    assert not Affinity("inputs", "", tuple("abc"), alike).tells
    assert not Affinity("inputs", "", tuple("abc"), alike * torch.nan).tells
    assert Affinity("inputs", "", tuple("ab"), alike[:2, :2]).tells
    alike[0, 1] = torch.nan
    assert Affinity("inputs", "", tuple("abc"), alike).tells
