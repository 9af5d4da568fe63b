"""Mixup against its formula, and the second phase of training: what it trains, what it leaves, what is kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from handmade import TASKS, made, trainer_on, training_on, two_streams, with_part
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.batch import Batch, Data, StreamSpec, TargetSpec
from mtl_runner.errors import UserError
from mtl_runner.imbalance.mixup import Mixup
from mtl_runner.run import resume
from mtl_runner.tasks.group import masked
from mtl_runner.training import Training

RARE = torch.tensor([0.0] * 8 + [1.0] * 2)
SORTS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 2])


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(**targets: Tensor) -> Batch:
    """Packed targets of one group each; the only input is the number of the row, twice: as a number and as a category."""
    rows = torch.arange(len(next(iter(targets.values()))))
    inputs = {"x": {"numeric": rows[:, None].float(), "categorical": rows[:, None]}}
    return masked(Batch(inputs, {key: value[:, None] for key, value in targets.items()}, dict.fromkeys(targets, "x")))


def fitted(mixup: Mixup, batch: Batch, classes: dict[str, int], served: bool = True) -> Mixup:
    mixup.fit(batch.targets, {key: torch.tensor([served]) for key in batch.targets}, classes)
    return mixup


def test_inputs_are_mixed_in_the_share_of_the_labels() -> None:
    numbers = torch.arange(10.0)
    batch = batch_of(size=numbers)  # the label is the row's number, as the input is
    mixed = fitted(Mixup(kappa=None), batch, {"size": 0})(batch, draws())
    first, second = mixed.targets["size"][:10, 0], mixed.targets["size"][10:, 0]
    share, rest = mixed.weights["size"][:10, 0], mixed.weights["size"][10:, 0]
    assert torch.equal(first, numbers) and torch.equal(second.sort().values, numbers) and not torch.equal(first, second)
    torch.testing.assert_close(share + rest, torch.ones(10))
    torch.testing.assert_close(mixed.inputs["x"]["numeric"][:, 0], share * first + rest * second)
    assert share.unique().numel() == 10
    cells = mixed.inputs["x"]["categorical"][:, 0]
    assert ((cells == first) | (cells == second)).all()


def test_a_categorical_cell_is_the_first_ones_in_the_share_of_the_cases() -> None:
    rows = torch.arange(20_000)
    batch = batch_of(size=rows.float())
    mixed = fitted(Mixup(kappa=None, alpha=0.7), batch, {"size": 0})(batch, draws())
    share = mixed.weights["size"][: len(rows), 0]
    taken = mixed.inputs["x"]["categorical"][:, 0] == rows
    for low, high in ((0, 0.1), (0.3, 0.5), (0.9, 1)):
        among = (share > low) & (share < high)
        assert taken[among].float().mean() == pytest.approx(float(share[among].mean()), abs=0.03)
    # Beta(α, α) has variance 1 / (4 (2 α + 1))
    assert share.mean() == pytest.approx(0.5, abs=0.01) and share.var() == pytest.approx(1 / (4 * 2.4), abs=0.005)


@pytest.mark.parametrize(("kappa", "tau"), [*product((1.0, 2.0, 3.0, 4.0), (0.0, 0.3, 0.5, 1.0))])
def test_the_rarer_label_takes_over_as_in_remix(kappa: float, tau: float) -> None:
    batch = batch_of(rare=RARE, sort=SORTS, size=torch.arange(10.0))
    classes = {"rare": 2, "sort": 3, "size": 0}
    mixed = fitted(Mixup(kappa=kappa, tau=tau), batch, classes)(batch, draws(3))
    share = mixed.weights["size"][:10, 0]  # of a task without classes: λ itself
    counts = {"rare": (8, 2), "sort": (6, 3, 1)}
    for key, found in counts.items():
        for row in range(10):
            i, j = (int(mixed.targets[key][place, 0]) for place in (row, row + 10))
            expected = float(share[row])
            if i != j and found[i] / found[j] >= kappa and expected < tau:
                expected = 0.0
            elif i != j and found[i] / found[j] <= 1 / kappa and 1 - expected < tau:
                expected = 1.0
            assert float(mixed.weights[key][row, 0]) == pytest.approx(expected), (key, row)
            assert float(mixed.weights[key][row + 10, 0]) == pytest.approx(1 - expected)


def test_a_task_that_is_not_served_is_mixed_without_the_rule() -> None:
    batch = batch_of(rare=RARE, size=torch.arange(10.0))
    mixed = fitted(Mixup(), batch, {"rare": 2, "size": 0}, served=False)(batch, draws())
    torch.testing.assert_close(mixed.weights["rare"], mixed.weights["size"])


def test_a_missing_label_adds_nothing() -> None:
    labels = RARE.clone()
    labels[3] = torch.nan
    batch = batch_of(rare=labels)
    mixed = fitted(Mixup(kappa=None), batch, {"rare": 2})(batch, draws())
    assert mixed.weights["rare"][3, 0] == 0 and mixed.targets["rare"].isfinite().all()
    other = (mixed.weights["rare"][10:, 0] == 0).nonzero().flatten()
    assert len(other) == 1 and mixed.weights["rare"][int(other), 0] > 0


def test_the_rule_compares_known_labels_only() -> None:
    """A missing label, which is packed as class 0, is no rare class."""
    labels = torch.cat([torch.zeros(10), torch.ones(90), torch.full((100,), torch.nan)])
    batch = batch_of(rare=labels, size=torch.arange(200.0))
    mixed = fitted(Mixup(), batch, {"rare": 2, "size": 0})(batch, draws())
    known = torch.stack([~labels[mixed.targets["size"][half, 0].long()].isnan() for half in (slice(200), slice(200, None))])
    one = known[0] ^ known[1]
    shares = torch.stack(mixed.weights["rare"][:, 0].split(200)), torch.stack(mixed.weights["size"][:, 0].split(200))
    torch.testing.assert_close(shares[0][:, one], shares[1][:, one] * known[:, one])


def test_each_draw_of_a_step_is_mixed_in_its_own_way(make_config: Callable[..., DictConfig]) -> None:
    rows = trainer_on(made(), make_config("imbalance=mixup", "weighting=modo")).rows
    batch = masked(Batch({"input": {"numeric": torch.arange(8.0)[:, None]}}, {}, {}))
    numbers = [rows.mixed(batch, *place).inputs["input"]["numeric"] for place in ((0, 0), (0, 1), (1, 0), (0, 1))]
    assert torch.equal(numbers[1], numbers[3]) and not torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[0], numbers[2])


def test_the_loss_of_a_mixed_batch_is_the_sum_of_the_shares(make_config: Callable[..., DictConfig]) -> None:
    trainer = trainer_on(made(), make_config("imbalance=mixup", "trainer.batch_size=50"))
    batch = next(trainer.loader.epoch(trainer.training_part(), 1))
    mixed = trainer.rows.mixed(batch, 7)
    losses = dict(zip(trainer.names, trainer.objectives(mixed).losses, strict=True))
    outputs = trainer.model(mixed.inputs)
    for key, group in trainer.groups.items():
        for t, name in enumerate(group.names):
            labels, weights = mixed.targets[key][:, t], mixed.weights[key][:, t]
            each = [_loss(outputs[name], part) for part in labels.split(50)]
            share = weights[:50] if weights.ndim == 1 else weights[:50, 0]
            expected = (share * each[0] + (1 - share) * each[1]).mean()
            torch.testing.assert_close(losses[name], expected)


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.dtype == torch.long:
        return F.cross_entropy(outputs, targets, reduction="none")
    if outputs.ndim == 1 and set(targets.unique().tolist()) <= {0.0, 1.0}:
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    squares = (outputs - targets) ** 2
    return squares if squares.ndim == 1 else squares.mean(1)


@pytest.mark.parametrize("streams", ["one", "two"])
@pytest.mark.parametrize("weighting", ["equal", "mgda", "famo", "modo"])
def test_mixup_trains_with_every_kind_of_weighting(weighting: str, streams: str, make_config: Callable[..., DictConfig]) -> None:
    data = made() if streams == "one" else two_streams()
    training = training_on(data, make_config("imbalance=mixup", f"weighting={weighting}", "trainer.batch_size=16"))
    (last, *_) = [epoch.metrics for epoch in training.fit()][::-1]
    assert all(last[f"validation/{task}/loss"] < float("inf") for task in TASKS)


def test_inputs_that_cannot_be_mixed_are_refused(make_config: Callable[..., DictConfig]) -> None:
    from mtl_runner.build import check_strategies

    specs = {"words": StreamSpec({"tokens": (4,)}, vocabulary=9)}
    with pytest.raises(UserError, match=r"imbalance=mixup works on .*numeric inputs, and the inputs of yes have tokens"):
        check_strategies(
            {"imbalance": make_config("imbalance=mixup").imbalance, "allow_modules": []},
            {"yes": TargetSpec("binary", "words", classes=("no", "yes"))},
            specs,
        )


# ---- the second phase ---------------------------------------------------------------------------------------------

RETRAINED = ("imbalance=classifier_retraining", "imbalance.classifier_retraining.epochs=3")


def rare(data_rows: int = 200) -> Data:
    """Data whose class ``yes`` is rare."""
    data = made(rows={"input": data_rows})
    split = data.splits["train"]
    yes = split.targets["yes"].clone()
    yes[20:] = 0.0
    return with_part(data, "train", targets={**split.targets, "yes": yes})


def state_of(training: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.model.state_dict().items() if value.dtype.is_floating_point}


@pytest.mark.parametrize("sharing", ["none", "hard", "soft", "mmoe", "ltb", "clustered", "task_relation"])
@pytest.mark.parametrize("norm", [pytest.param("none", marks=pytest.mark.slow), "batch"])
def test_only_the_heads_of_the_tasks_served_move(sharing: str, norm: str, make_config: Callable[..., DictConfig]) -> None:
    """Batch statistics, what a sharing mode learns between epochs and the other heads included."""
    config = make_config(
        *RETRAINED,
        f"sharing={sharing}",
        f"encoder.norm={norm}",
        "encoder.dropout=0.3",
        "trainer.l1=1e-3",
        "trainer.batch_size=32",
    )
    training = training_on(rare(), config)
    seen = [(epoch.number, training.in_second_phase, state_of(training), epoch.metrics) for epoch in training.fit()]
    assert [phase for _, phase, *_ in seen] == [False] * 2 + [True] * 3
    assert [number for number, *_ in seen] == [1, 2, 3, 4, 5] and training.epochs == 5
    first = {f"groups.{key}." for key, group in training.model.task_groups.items() if set(group.names) & {"yes", "sort"}}
    settled = seen[2][2]
    training.restore_best()
    for _, _, state, metrics in seen[2:]:
        for name, value in state.items():
            moves = any(name.startswith(head) for head in first)
            assert moves or torch.equal(value, settled[name]), name
        for task in ("size", "pair"):
            assert metrics[f"validation/{task}/loss"] == seen[2][3][f"validation/{task}/loss"]
    assert any(not torch.equal(seen[-1][2][name], settled[name]) for name in settled)


def test_the_second_phase_starts_from_the_best_weights_and_from_new_heads(make_config: Callable[..., DictConfig]) -> None:
    config = make_config(*RETRAINED, "trainer.epochs=4", "trainer.early_stopping.min_delta=10", "optimizer.lr=0.0")
    for reset in (True, False):
        config.imbalance.classifier_retraining.reset = reset
        config.optimizer.lr = 0.0
        training = training_on(rare(), config)
        initial = state_of(training)
        for _ in training.fit():
            pass
        key = next(key for key, group in training.model.task_groups.items() if "yes" in group.names)
        head = f"groups.{key}.head.weight"
        assert torch.equal(state_of(training)[head], initial[head]) != reset
    config.optimizer.lr = 0.05
    training = training_on(rare(), config)
    states = [state_of(training) for _ in training.fit()]
    encoder = [name for name in states[0] if name.startswith("sharing.")]
    assert all(torch.equal(states[0][name], states[-1][name]) for name in encoder)  # the first epoch was the best one
    assert any(not torch.equal(states[0][name], states[1][name]) for name in encoder)


def test_heads_are_trained_with_balanced_classes(make_config: Callable[..., DictConfig]) -> None:
    training = training_on(rare(), make_config(*RETRAINED))
    for _ in training.fit():
        pass
    group = next(group for group in training.model.task_groups.values() if "yes" in group.names)
    labels = training.all_trainers[0].rows.split.targets["yes"]
    share = labels.mean()
    torch.testing.assert_close(group.criterion.weights[0], torch.stack([0.5 / (1 - share), 0.5 / share]))


def test_a_limit_to_tasks_leaves_the_others_their_heads(make_config: Callable[..., DictConfig]) -> None:
    tasks = {name: replace(TASKS["yes"]) for name in ("a", "b", "c")}
    config = make_config(*RETRAINED, "imbalance.classifier_retraining.tasks=[b]", "optimizer.weight_decay=0.1")
    training = training_on(made(tasks), config)
    assert sorted(group.names for group in training.model.task_groups.values()) == [("a", "c"), ("b",)]
    states = [state_of(training) for _ in training.fit()]
    moved = {name for name in states[-1] if not torch.equal(states[2][name], states[-1][name])}
    (key,) = (key for key, group in training.model.task_groups.items() if group.names == ("b",))
    assert moved and all(name.startswith(f"groups.{key}.") for name in moved)


def test_a_run_of_two_phases_says_so(train: Callable[..., Path]) -> None:
    folder = train(*RETRAINED, "dataset.long_tail=20", "trainer.epochs=2")
    log = (folder / "run.log").read_text()
    assert "second phase: digit,parity: weights of epoch" in log and "of 5 kept" in log
    results = json.loads((folder / "test_metrics.json").read_text())
    assert set(results["best_epoch"]) == {"digit,parity,reconstruction", "second phase: digit,parity"}
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 5
    with pytest.raises(UserError, match="in its second phase"):
        resume(folder, epochs=9)


def test_heads_that_read_other_heads_are_trained_together_or_not_at_all(make_config: Callable[..., DictConfig]) -> None:
    graph = ("sharing=task_graph", "sharing.edges={yes:[size]}", "sharing.through=outputs")
    with pytest.raises(UserError, match="sharing=task_graph: heads read other tasks' outputs, and those of size, pair stay"):
        training_on(made(), make_config(*RETRAINED, *graph))
    tasks = {name: TASKS[name] for name in ("yes", "sort")}
    training = training_on(made(tasks), make_config(*RETRAINED, graph[0], "sharing.edges={yes:[sort]}", graph[2]))
    assert [epoch.number for epoch in training.fit()] == [1, 2, 3, 4, 5]


def test_two_things_at_the_representation_are_refused(make_config: Callable[..., DictConfig]) -> None:
    from mtl_runner.build import check_combination

    with pytest.raises(UserError, match="both act on the representation"):
        check_combination(make_config("imbalance=[mixup,classifier_retraining]"))
