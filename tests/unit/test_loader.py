"""Batches: every row once an epoch, in an order of seed and epoch alone."""

import pytest
import torch

from mtl_runner.batch import Batch, Split
from mtl_runner.loader import IndexLoader

CPU = torch.device("cpu")


def split_of(**rows: int) -> Split:
    """Streams whose inputs are row numbers, and a task of the same name on each."""
    inputs = {stream: {"numeric": torch.arange(n)[:, None]} for stream, n in rows.items()}
    targets = {stream: torch.arange(n).float() for stream, n in rows.items()}
    return Split(inputs, targets, {stream: stream for stream in rows}, weights=dict(targets))


def rows_of(batches: list[Batch], stream: str = "input") -> torch.Tensor:
    return torch.cat([batch.inputs[stream]["numeric"][:, 0] for batch in batches])


def epoch(split: Split, batch_size: int, seed: int = 0, number: int = 1) -> list[Batch]:
    loader = IndexLoader(batch_size, seed, CPU)
    batches = list(loader.epoch(split, number))
    assert len(batches) == loader.batches(split)
    return batches


@pytest.mark.parametrize(
    ("rows", "batch_size", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (8, 4, [4, 4]),
        (9, 4, [4, 4]),  # a last batch of a single row is left out
        (1, 4, [1]),  # … unless it is the only one
        (3, 1, [1, 1, 1]),
        (3, 100, [3]),
    ],
)
def test_each_row_is_in_one_batch_of_the_epoch(rows: int, batch_size: int, sizes: list[int]) -> None:
    batches = epoch(split_of(input=rows), batch_size)
    assert [batch.size("input") for batch in batches] == sizes
    seen = rows_of(batches).tolist()
    assert len(set(seen)) == len(seen) == sum(sizes) and set(seen) <= set(range(rows))


def test_targets_and_weights_are_those_of_the_rows() -> None:
    for batch in epoch(split_of(input=33, other=7), 8):
        for stream in ("input", "other"):
            assert torch.equal(batch.targets[stream], batch.inputs[stream]["numeric"][:, 0].float())
            assert torch.equal(batch.weights[stream], batch.targets[stream])


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    split = split_of(input=50)
    order = rows_of(epoch(split, 8, seed=0, number=1))
    torch.manual_seed(123)  # the global generator plays no part
    assert torch.equal(order, rows_of(epoch(split, 8, seed=0, number=1)))
    assert torch.equal(order, rows_of(epoch(split, 25, seed=0, number=1)))
    assert not torch.equal(order, rows_of(epoch(split, 8, seed=1, number=1)))
    assert not torch.equal(order, rows_of(epoch(split, 8, seed=0, number=2)))
    # and an epoch needs none before it, so that a resumed run goes on alike
    loader = IndexLoader(8, 0, CPU)
    list(loader.epoch(split, 1))
    assert torch.equal(rows_of(list(loader.epoch(split, 2))), rows_of(epoch(split, 8, number=2)))


def test_an_epoch_passes_once_through_the_longest_stream_and_shorter_ones_begin_anew_in_another_order() -> None:
    batches = epoch(split_of(long=20, short=6), 4)
    assert sorted(rows_of(batches, "long").tolist()) == list(range(20))
    short = rows_of(batches, "short")
    assert len(short) == 20
    passes = list(short.split(6))
    assert all(sorted(one.tolist()) == list(range(6)) for one in passes[:3]) and len(set(passes[3].tolist())) == 2
    assert not torch.equal(passes[0], passes[1])


def test_a_stream_is_read_in_an_order_of_its_own_whatever_runs_beside_it() -> None:
    alone, together = epoch(split_of(a=20), 4), epoch(split_of(a=20, b=20, c=3), 4)
    assert torch.equal(rows_of(alone, "a"), rows_of(together, "a"))
    assert not torch.equal(rows_of(together, "a"), rows_of(together, "b"))


def test_the_order_is_uniform() -> None:
    """Each row comes first about as often: χ² over 10 rows in 2,000 epochs, with bounds of 1 in a million."""
    loader, split = IndexLoader(10, 0, CPU), split_of(input=10)
    first = torch.tensor([int(next(loader.epoch(split, number)).targets["input"][0]) for number in range(2000)])
    chi2 = ((torch.bincount(first, minlength=10) - 200.0) ** 2 / 200).sum()
    assert 0.3 < chi2 < 46
