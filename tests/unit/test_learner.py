"""Early stopping by table; clipping, schedule and best weights of each network."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau, StepLR

from mtl_runner.learner import Learner, Stopping
from mtl_runner.model import Network
from mtl_runner.schedulers import Cosine

# ---- early stopping -----------------------------------------------------------------------------------------------

N = None
CASES: list[tuple[str, int | None, float, list[float | None], str, list[int], int]] = [
    # what, patience, min_delta, scores from epoch 1 on, kept (k) or not (.), epochs after which it is done, best epoch
    ("rises", 2, 0.0, [0.1, 0.2, 0.3, 0.4], "kkkk", [], 4),
    ("falls", 2, 0.0, [0.4, 0.3, 0.2, 0.1], "k...", [3, 4], 1),
    ("an equal score is no improvement", 1, 0.0, [0.4, 0.4, 0.5], "k.k", [2], 3),
    ("recovers in time", 3, 0.0, [0.4, 0.1, 0.1, 0.5, 0.1, 0.1, 0.1], "k..k...", [7], 4),
    ("a small gain is none", 2, 0.1, [0.1, 0.15, 0.2, 0.21], "k..k", [3], 4),
    ("min_delta is from the best and not from the last", 3, 0.1, [0.1, 0.15, 0.19, 0.25], "k..k", [], 4),
    ("negative scores", 1, 0.0, [-5.0, -3.0, -4.0], "kk.", [3], 2),
    ("no patience is endless", None, 0.0, [0.4, 0.1, 0.1, 0.1], "k...", [], 1),
    ("no score at all: the last weights, and never done", 1, 0.0, [N, N, N], "kkk", [], 3),
    ("no score yet, then some", 2, 0.0, [N, N, N, 0.1, 0.0, 0.0], "kkkk..", [6], 4),
    ("an epoch without a score is never better", 3, 0.0, [0.1, N, N, 0.05], "k...", [4], 1),
    ("… nor does it forget the best", 3, 0.0, [0.1, N, 0.2, N], "k.k.", [], 3),
]


@pytest.mark.parametrize(
    ("patience", "min_delta", "scores", "kept", "done", "best"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_early_stopping(
    patience: int | None, min_delta: float, scores: list[float | None], kept: str, done: list[int], best: int
) -> None:
    stopping = Stopping(patience, min_delta)
    assert not stopping.done
    for epoch, (score, keep) in enumerate(zip(scores, kept, strict=True), 1):
        assert stopping.update(score, epoch) == (keep == "k")
        assert stopping.done == (epoch in done)
    assert stopping.best_epoch == best


# ---- learners -----------------------------------------------------------------------------------------------------


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(("g",), ("a",), (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)))


def run(part: Network, rows: int = 8) -> torch.Tensor:
    encoder, head = part.modules
    return head(encoder(torch.randn(rows, 3, generator=torch.Generator().manual_seed(1))))  # type: ignore[no-any-return]


def learner(
    part: Network,
    clip: float | None = None,
    schedule: Any = None,
    patience: int | None = None,
    rate: float = 0.1,
    kind: Any = SGD,
) -> Learner:
    optimizer: Optimizer = kind(part.parameters(), lr=rate)
    scheduler: LRScheduler | None = schedule(optimizer) if schedule else None
    return Learner(part, optimizer, scheduler, clip, Stopping(patience))


def train(one: Learner) -> None:
    one.zero_grad()
    run(one.network).square().sum().backward()
    one.step()


def weights(part: Network) -> list[torch.Tensor]:
    return [value.clone() for module in part.modules for value in module.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("clip", [None, 1e-3, 0.5, 1e9])
def test_a_step_is_torchs_after_clipping_the_norm_of_the_whole_network(clip: float | None) -> None:
    one, reference = learner(network(), clip), network()
    train(one)
    optimizer = SGD(reference.parameters(), lr=0.1)
    run(reference).square().sum().backward()
    norm = torch.stack([parameter.grad.norm() for parameter in reference.parameters()]).norm()
    if clip is not None and norm > clip:
        for parameter in reference.parameters():
            parameter.grad *= clip / norm
    optimizer.step()
    for mine, other in zip(weights(one.network), weights(reference), strict=True):
        torch.testing.assert_close(mine, other)


def test_clipping_is_per_network() -> None:
    alone, beside, other = learner(network(), 0.5), learner(network(), 0.5), learner(network(1), 0.5)
    train(alone)
    for one in (other, beside):
        one.zero_grad()
    (run(beside.network).square().sum() + 1e6 * run(other.network).square().sum()).backward()
    for one in (other, beside):
        one.step()
    assert same(weights(alone.network), weights(beside.network))


def test_frozen_parameters_are_neither_optimized_nor_clipped_with_the_rest() -> None:
    part = network()
    part.modules[0].requires_grad_(False)
    before = weights(Network((), (), (part.modules[0][0],)))  # type: ignore[index]
    one = learner(part, 0.5)
    assert len(one.optimizer.param_groups[0]["params"]) == 2
    train(one)
    assert same(before, weights(Network((), (), (part.modules[0][0],))))  # type: ignore[index]


def test_the_best_weights_and_buffers_come_back() -> None:
    one = learner(network())
    kept = []
    for epoch, score in enumerate([0.1, 0.5, 0.3, 0.2], 1):
        train(one)
        one.end_epoch(score, epoch)
        kept.append(weights(one.network))
    one.restore_best()
    assert same(weights(one.network), kept[1]) and not same(kept[1], kept[3])
    train(one)  # what is kept does not move with the network
    one.restore_best()
    assert same(weights(one.network), kept[1])


def test_without_any_epoch_the_best_weights_are_the_initial_ones() -> None:
    one = learner(network())
    train(one)
    one.restore_best()
    assert same(weights(one.network), weights(network()))


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (None, [0.1, 0.1, 0.1]),
        (lambda optimizer: StepLR(optimizer, 2, 0.1), [0.1, 0.01, 0.01]),
        (lambda optimizer: Cosine(optimizer, 2), [0.05, 0.0, 0.0]),
        (lambda optimizer: ReduceLROnPlateau(optimizer, mode="max", patience=0), [0.1, 0.01, 0.001]),
    ],
)
def test_the_learning_rate_moves_once_an_epoch(schedule: Any, rates: list[float]) -> None:
    one, seen = learner(network(), schedule=schedule), []
    for epoch, score in enumerate([0.5, 0.4, 0.3], 1):
        train(one)
        one.end_epoch(score, epoch)
        seen.append(one.learning_rate)
    assert seen == pytest.approx(rates)


def test_a_plateau_schedule_passes_over_an_epoch_without_a_score() -> None:
    one = learner(network(), schedule=lambda optimizer: ReduceLROnPlateau(optimizer, mode="max", patience=0))
    for epoch, score in enumerate([0.5, None, None, 0.6], 1):
        train(one)
        one.end_epoch(score, epoch)
    assert one.learning_rate == 0.1


@pytest.mark.parametrize(
    "schedule", [None, lambda o: StepLR(o, 1, 0.5), lambda o: Cosine(o, 9), lambda o: ReduceLROnPlateau(o, "max")]
)
def test_a_learner_goes_on_from_its_state_bit_for_bit(schedule: Any) -> None:
    scores = [0.1, 0.4, 0.3, 0.2, 0.1]

    def make() -> Learner:
        return learner(network(), 0.5, schedule, patience=3, kind=Adam)

    def epochs(one: Learner, numbers: range) -> None:
        for epoch in numbers:
            train(one)
            one.end_epoch(scores[epoch - 1], epoch)

    whole, first, second = make(), make(), make()
    epochs(whole, range(1, 6))
    epochs(first, range(1, 4))
    for module, saved in zip(second.network.modules, first.network.modules, strict=True):
        module.load_state_dict(saved.state_dict())
    second.load_state_dict(first.state_dict())
    epochs(second, range(4, 6))
    assert same(weights(whole.network), weights(second.network))
    assert whole.stopping == second.stopping and second.stopping.done
    assert second.learning_rate == whole.learning_rate
    whole.restore_best()
    second.restore_best()
    assert same(weights(whole.network), weights(second.network))


def test_a_resumed_learner_keeps_the_patience_that_it_is_given_now() -> None:
    first, second = learner(network(), patience=1), learner(network(), patience=7)
    second.load_state_dict(first.state_dict())
    assert second.stopping.patience == 7
