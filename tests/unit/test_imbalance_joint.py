"""Joint sampling against inverse frequencies, raking, and a general optimizer on the objective that it states."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor

from mtl_runner.batch import MISSING, Split, TargetSpec
from mtl_runner.errors import UserError
from mtl_runner.imbalance.joint_sampling import JointSampling, systematic

Array = NDArray[Any]


def spec(classes: int) -> TargetSpec:
    return TargetSpec("binary" if classes == 2 else "multiclass", classes=tuple(map(str, range(classes))))


def split_of(codes: Array, classes: Sequence[int]) -> Split:
    """One stream with a task for each column; -1 is a missing label."""
    targets = {}
    for t, count in enumerate(classes):
        column = torch.from_numpy(codes[:, t].copy())
        missing = column < 0
        if count == 2:
            targets[f"t{t}"] = torch.where(missing, torch.nan, column.float())
        else:
            targets[f"t{t}"] = torch.where(missing, MISSING, column.long())
    rows = torch.arange(len(codes))
    return Split(
        {"input": {"numeric": rows[:, None]}}, targets, dict.fromkeys(targets, "input"), context={"input": {"row": rows}}
    )


def specs_of(classes: Sequence[int]) -> dict[str, TargetSpec]:
    return {f"t{t}": spec(count) for t, count in enumerate(classes)}


def weights_of(codes: Array, classes: Sequence[int], **options: Any) -> Array:
    found = JointSampling(**options).weights(split_of(codes, classes), specs_of(classes))
    return found["input"][0]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows_of(split: Split) -> Tensor:
    return split.inputs["input"]["numeric"][:, 0]


def shares(codes: Array, weights: Array) -> list[Array]:
    found = []
    for column in codes.T:
        mass = np.array([weights[column == c].sum() for c in np.unique(column[column >= 0])])
        found.append(mass / mass.sum())
    return found


def objective(weights: Array, codes: Array, strength: float) -> float:
    distance = sum(((share - 1 / len(share)) ** 2).sum() for share in shares(codes, weights))
    return float(strength / 2 * distance + (weights * np.log(weights)).mean())


def bounds(codes: Array, most: float, least: float) -> list[tuple[float, float]]:
    found = []
    for row in codes:
        alone = [1.0]
        for t, c in enumerate(row):
            if c >= 0:
                column = codes[:, t][codes[:, t] >= 0]
                alone.append(len(column) / len(np.unique(column)) / (column == c).sum())
            else:
                alone.append(1.0)
        found.append((least * min(alone), most * max(alone)))
    return found


def random_codes(seed: int, rows: int, classes: Sequence[int], missing: float = 0.0) -> Array:
    random = np.random.default_rng(seed)
    codes = np.stack([random.choice(count, rows, p=random.dirichlet(np.full(count, 0.7))) for count in classes], 1)
    codes[:, -1] = np.where(random.random(rows) < 0.5, codes[:, 0] % classes[-1], codes[:, -1])  # tasks that depend on each other
    codes[random.random(codes.shape) < missing] = -1
    for t, count in enumerate(classes):
        codes[t * count : (t + 1) * count, t] = np.arange(count)  # each class occurs
    return codes


# ---- one task -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[90, 10], [999, 1], [60, 30, 7, 3], [5, 5]])
def test_for_one_task_the_weights_are_the_inverse_frequencies(counts: list[int]) -> None:
    codes = np.repeat(np.arange(len(counts)), counts)[:, None]
    expected = compute_sample_weight("balanced", codes[:, 0])
    np.testing.assert_allclose(weights_of(codes, [len(counts)]), expected, rtol=3e-4)
    np.testing.assert_allclose(weights_of(codes, [len(counts)], strength=1e9), expected, rtol=1e-6)


def test_rows_without_a_label_do_not_count_for_the_balance() -> None:
    codes = np.array([0] * 60 + [1] * 20 + [-1] * 20)[:, None]
    weights = weights_of(codes, [2], strength=1e8)
    assert weights[:60].sum() == pytest.approx(weights[60:80].sum(), rel=1e-5)
    assert weights[-1] > 0.9  # … and are not what pays for it
    expected = np.array([2 / 3] * 60 + [2.0] * 20 + [1.0] * 20)
    assert objective(weights, codes, 1e8) <= objective(expected, codes, 1e8) + 1e-9


def test_as_many_rows_are_drawn_and_each_class_as_often_as_the_others() -> None:
    codes = random_codes(0, 400, [4])
    out = JointSampling()(split_of(codes, [4]), specs_of([4]), draws())
    assert len(rows_of(out)) == 400
    assert all(abs(int(count) - 100) <= 1 for count in torch.bincount(out.targets["t0"]))
    assert torch.equal(out.targets["t0"], torch.from_numpy(codes[:, 0])[rows_of(out)])  # a row keeps its label
    assert torch.equal(out.context["input"]["row"], rows_of(out))


# ---- several tasks: nothing does better ---------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [1.0, 100.0, 1e4])
@pytest.mark.parametrize(("classes", "missing"), [([2, 2], 0.0), ([2, 3, 2], 0.0), ([4, 3], 0.0), ([2, 2, 3], 0.3)])
@pytest.mark.parametrize(("seed", "most"), [(0, 2.0), (1, 1.0)])
def test_no_other_weights_bring_the_objective_lower(
    classes: list[int], missing: float, strength: float, seed: int, most: float
) -> None:
    codes = random_codes(seed, 16, classes, missing)
    limits = bounds(codes, most, 0.1)
    weights = weights_of(codes, classes, strength=strength, most=most)
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    assert all(low - 1e-9 <= w <= high + 1e-9 for w, (low, high) in zip(weights, limits, strict=True))
    own = objective(weights, codes, strength)
    random = np.random.default_rng(seed)
    for start in [weights, np.ones(16), random.uniform(*np.array(limits).T)]:
        other = minimize(
            objective,
            start,
            (codes, strength),
            method="SLSQP",
            bounds=limits,
            constraints={"type": "eq", "fun": lambda w: w.mean() - 1},
            options={"maxiter": 300, "ftol": 1e-12},
        )
        # with missing labels a local minimum is promised: then only the start from the weights themselves can tell
        if abs(other.x.mean() - 1) < 1e-6 and (missing == 0 or start is weights):
            assert own <= other.fun * (1 + 1e-6) + 1e-6


def test_where_balance_can_be_had_the_weights_are_those_of_raking() -> None:
    codes = np.array(list(itertools.product(range(2), range(3), range(2))) * 4)
    codes = np.vstack([codes, random_codes(3, 300, [2, 3, 2])])
    weights = np.ones(len(codes))
    for _ in range(500):  # iterative proportional fitting of each task in turn
        for column in codes.T:
            for c in np.unique(column):
                weights[column == c] *= len(codes) / len(np.unique(column)) / weights[column == c].sum()
    found = weights_of(codes, [2, 3, 2], strength=1e8, most=1e6, least=1e-6)
    np.testing.assert_allclose(found, weights, rtol=1e-4)
    assert all(np.allclose(share, 1 / len(share), atol=1e-6) for share in shares(codes, found))


def test_shares_are_those_of_the_labelled_rows_and_all_tasks_can_be_balanced_with_missing_labels() -> None:
    random = np.random.default_rng(0)
    codes = (random.random((1000, 3)) < [0.1, 0.3, 0.05]).astype(int)
    codes[random.random(codes.shape) < 0.3] = -1
    assert all(np.allclose(share, 0.5, atol=1e-4) for share in shares(codes, weights_of(codes, [2, 2, 2])))
    before = shares(codes, np.ones(1000))
    assert all(share[1] < 0.35 for share in before)


def test_a_task_that_is_labelled_only_where_another_says_no_is_balanced_as_well() -> None:
    codes = np.full((400, 2), -1)
    codes[:, 0] = np.arange(400) < 40
    codes[40:, 1] = np.arange(360) < 60
    assert all(np.allclose(share, 0.5, atol=1e-4) for share in shares(codes, weights_of(codes, [2, 2])))


def rare_twice(both: int) -> Array:
    codes = np.zeros((1000, 2), dtype=int)
    codes[:10, 0] = 1
    codes[10 - both : 20 - both, 1] = 1
    return codes


def test_a_row_that_is_rare_in_every_task_is_drawn_no_more_than_most_says() -> None:
    codes = rare_twice(1)
    assert weights_of(codes, [2, 2], most=1e9, least=1e-9)[9] == pytest.approx(388.4, abs=0.1)
    assert weights_of(codes, [2, 2], most=2.0)[9] == pytest.approx(100, rel=1e-6)
    assert weights_of(codes, [2, 2], most=1.0)[9] == pytest.approx(50, rel=1e-6)


def test_rows_that_are_common_in_every_task_are_not_dropped() -> None:
    codes = np.zeros((300, 3), dtype=int)
    for t in range(3):
        codes[10 * t : 10 * t + 10, t] = 1  # no row has two: at best a third each
    alone = 300 / 2 / 290
    assert weights_of(codes, [2, 2, 2])[-1] == pytest.approx(0.1 * alone)
    free = shares(codes, weights_of(codes, [2, 2, 2], least=1e-9))
    assert all(share[1] == pytest.approx(1 / 3, abs=1e-4) for share in free)


def test_tasks_in_conflict_share_the_imbalance_that_is_left() -> None:
    codes = np.zeros((100, 2), dtype=int)
    codes[:30, 0], codes[30:60, 1] = 1, 2  # t0 rare on rows of t1's class 0 only
    codes[60:63, 1] = 1
    found = weights_of(codes, [2, 3])
    for share, before in zip(shares(codes, found), shares(codes, np.ones(100)), strict=True):
        assert ((share - 1 / len(share)) ** 2).sum() < ((before - 1 / len(before)) ** 2).sum()


def test_the_order_of_classes_and_of_tasks_does_not_matter() -> None:
    codes = random_codes(5, 60, [2, 3])
    expected = weights_of(codes, [2, 3])
    turned = np.stack([(codes[:, 1] + 1) % 3, 1 - codes[:, 0]], 1)
    np.testing.assert_allclose(weights_of(turned, [3, 2]), expected, rtol=1e-5)


def test_classes_without_examples_and_tasks_with_one_class_do_not_count() -> None:
    codes = np.stack([np.repeat([0, 2], [30, 10]), np.zeros(40, dtype=int), np.full(40, -1)], 1)
    np.testing.assert_allclose(weights_of(codes, [4, 2, 3]), weights_of(codes[:, :1] // 2, [2]), rtol=1e-9)
    split = split_of(codes[:, 1:], [2, 3])
    out = JointSampling()(split, specs_of([2, 3]), draws())
    assert torch.equal(rows_of(out), torch.arange(40))


def test_many_tasks_at_once_come_nearer_to_balance_than_any_scaling_of_the_product_of_their_factors() -> None:
    random = np.random.default_rng(1)
    base = random.normal(size=(3000, 1))
    codes = (base + random.normal(size=(3000, 40)) > np.linspace(1, 2.5, 40)).astype(int)
    weights = weights_of(codes, [2] * 40)

    def distance(w: Array) -> float:
        return float(sum(((share - 0.5) ** 2).sum() for share in shares(codes, w)))

    assert weights.mean() == pytest.approx(1, abs=1e-6)
    alone = np.array([compute_sample_weight("balanced", column) for column in codes.T])
    low, high = 0.1 * alone.min(0).clip(max=1), 2 * alone.max(0).clip(min=1)
    for power in np.linspace(0, 1, 21):
        product = np.clip(np.exp(power * np.log(alone).sum(0)), low, high)
        assert distance(weights) < distance(product)
    for other in (np.ones(3000), alone.mean(0), alone.max(0)):
        assert distance(weights) < 0.7 * distance(other)


# ---- the draw -----------------------------------------------------------------------------------------------------


def test_each_row_is_drawn_as_often_as_its_weight_says_rounded_down_or_up() -> None:
    random = np.random.default_rng(0)
    cells = random.integers(6, size=200)
    weights = random.gamma(0.5, size=6)[cells] + 0.01
    weights *= 200 / weights.sum()
    total, generator = np.zeros(200), draws()
    for _ in range(400):
        counts = systematic(weights, cells, generator).numpy()
        assert counts.sum() == 200
        assert ((counts == np.floor(weights)) | (counts == np.ceil(weights))).all()
        mass = np.bincount(cells, weights)
        assert (np.abs(np.bincount(cells, counts) - mass) < 1).all()  # systematic, not independent, draws
        total += counts
    np.testing.assert_allclose(total / 400, weights, atol=5 * 0.5 / math.sqrt(400))


def test_rows_of_the_same_labels_are_drawn_independently_of_their_place() -> None:
    weights, cells, generator = np.array([0.5] * 4), np.zeros(4, dtype=np.int64), draws()
    weights = np.append(weights, 2.0)
    cells = np.append(cells, 1)
    seen = {tuple(systematic(weights * 5 / 4, cells, generator).tolist()[:4]) for _ in range(300)}
    assert len(seen) > 6  # in a fixed order neighbours could never come together


def test_the_draw_depends_on_the_generator_alone_and_the_weights_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtl_runner.imbalance import joint_sampling

    calls, solve = [], joint_sampling.balancing

    def counted(*given: Any) -> Array:
        calls.append(1)
        return solve(*given)

    monkeypatch.setattr(joint_sampling, "balancing", counted)
    split, specs, sampler = split_of(random_codes(1, 300, [2, 3]), [2, 3]), specs_of([2, 3]), JointSampling()
    one, same, other = (rows_of(sampler(split, specs, draws(seed))) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other) and len(calls) == 1
    assert sampler.renewed
    sampler(split.take({"input": torch.arange(200)}), specs, draws())
    sampler(split, specs, draws())
    sampler(split, {"t0": specs["t0"]}, draws())
    assert len(calls) == 4


def test_streams_are_drawn_apart_and_unserved_tasks_go_along() -> None:
    split = Split(
        {"x": {"numeric": torch.arange(12.0)[:, None]}, "y": {"numeric": torch.arange(6.0)[:, None]}},
        {"a": torch.zeros(12), "b": torch.tensor([0.0, 0, 0, 0, 0, 1]), "c": torch.arange(6.0)},
        {"a": "x", "b": "y", "c": "y"},
    )
    out = JointSampling()(split, {"b": TargetSpec("binary", "y", classes=("no", "yes"))}, draws())
    assert torch.equal(out.inputs["x"]["numeric"], split.inputs["x"]["numeric"])
    assert out.targets["b"].sum() == 3 and torch.equal(out.targets["c"], out.inputs["y"]["numeric"][:, 0])


def test_a_task_with_several_labels_a_row_is_refused() -> None:
    split = Split({"input": {"numeric": torch.zeros(4, 1)}}, {"t0": torch.zeros(4, 2)}, {"t0": "input"})
    with pytest.raises(UserError, match=r"joint_sampling.*t0.*tasks="):
        JointSampling()(split, specs_of([2]), draws())
