"""What each imbalance strategy costs, as ratios to ``imbalance=none`` in one run.

    python benchmarks/imbalance.py --options focal smote --rounds 9

Everything runs on one thread, strategies in turns with what they are compared with, and each figure is the median over rounds
of the ratio of processor times. ``!`` marks one that is above its limit.

1. A training step with each loss, and with mixtures: encoder 64-256-128, batches of 512, eight binary tasks and two of several
   classes; a loss for regression has ten such tasks.
2. The steps of an epoch with each strategy that chooses rows, on 100,000 rows × 64 columns with two skewed tasks, to those of an
   epoch of as many rows with none: once rows are chosen, and ``in all``, with the choice, of which those that choose once for
   the whole training bear a tenth in each epoch. ``seconds`` is what the first choice takes, ``rows`` how many come of it,
   in shares of those that there were.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf
from step import make_trainer, steps
from torch import Tensor

from mtl_runner.batch import Batch, Data, StreamSpec, TargetSpec
from mtl_runner.config import config_dir, plug
from mtl_runner.config.schema import plain
from mtl_runner.imbalance.base import Criterion, Mixer, Resampler, Sampler, Strategy
from mtl_runner.trainer import Trainer

ROWS, WIDTH, BATCH = 100_000, 64, 512
STEP_LIMIT, EPOCH_LIMIT = 1.10, 1.25
FEWER = {"adasyn": 20_000, "borderline_smote": 20_000, "smote_tomek": 20_000}
"""Rows of those that look for neighbours among all rows, in a time that goes with their square."""
EPOCHS = 10
"""How many epochs share what is chosen once."""


def class_of(option: str) -> type[Strategy]:
    node = plain(OmegaConf.load(config_dir() / "imbalance" / f"{option}.yaml"))
    return plug(node, "imbalance").func  # type: ignore[return-value]


def options_of(*bases: type[Strategy]) -> list[str]:
    names = sorted(path.stem for path in (config_dir() / "imbalance").glob("*.yaml") if path.stem != "none")
    return [name for name in names if issubclass(class_of(name), bases)]


def labels(inputs: Tensor, shares: Sequence[float], draws: torch.Generator) -> Tensor:
    """Classes with these shares that depend on the inputs, with noise."""
    scores = inputs @ torch.randn(inputs.shape[1], generator=draws) + 8 * torch.randn(len(inputs), generator=draws)
    places = (torch.tensor(shares[:-1]).cumsum(0) * len(scores)).long()
    return torch.bucketize(scores, scores.sort().values[places])


def made(kinds: Sequence[str], rows: int = ROWS) -> Data:
    """Random rows with skewed tasks of these kinds."""
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, WIDTH, generator=draws)
    targets: dict[str, Tensor] = {}
    specs = {}
    for number, kind in enumerate(kinds):
        name = f"{kind}_{number}"
        if kind == "binary":
            targets[name] = labels(inputs, (0.95, 0.05), draws).float()
            specs[name] = TargetSpec(kind, classes=("no", "yes"))
        elif kind == "multiclass":
            targets[name] = labels(inputs, (0.6, 0.3, 0.08, 0.02), draws)
            specs[name] = TargetSpec(kind, classes=("a", "b", "c", "d"))
        else:
            targets[name] = torch.randn(rows, generator=draws).exp()
            specs[name] = TargetSpec(kind)
    split = Batch({"input": {"numeric": inputs}}, targets, dict.fromkeys(targets, "input"))
    small = split.take({"input": torch.arange(1000)})
    splits = {"train": split, "validation": small, "test": small}
    return Data(splits, {"input": StreamSpec({"numeric": (WIDTH,)})}, specs, {})


def passed(work: Iterator[object], count: int) -> float:
    """Processor time of ``count`` of them."""
    start = time.process_time()
    for _ in range(count):
        next(work)
    return time.process_time() - start


def ratio(ours: Iterator[object], theirs: Iterator[object], rounds: int, count: int = 40) -> float:
    """Median over rounds in which they take turns, each first in every other one."""
    passed(ours, 10), passed(theirs, 10)
    found = []
    for number in range(rounds):
        pair = (ours, theirs) if number % 2 else (theirs, ours)
        times = [passed(each, count) for each in pair]
        found.append(times[1] / times[0] if number % 2 == 0 else times[0] / times[1])
    return statistics.median(found)


def marked(value: float, limit: float) -> str:
    return f"{value:9.2f}{'!' if value > limit else ' '}"


def of_steps(chosen: Sequence[str], rounds: int) -> None:
    """Table 1."""
    print(f"a step / with none (limit {STEP_LIMIT:.2f} for losses)")
    mixed = made([*["binary"] * 8, *["multiclass"] * 2], 20 * BATCH)
    numbers = made(["regression"] * 10, 20 * BATCH)
    for option in chosen:
        cls = class_of(option)
        data = mixed if "binary" in cls.kinds else numbers
        ours, theirs = (steps(make_trainer(data, f"imbalance={each}")) for each in (option, "none"))
        limit = STEP_LIMIT if issubclass(cls, Criterion) else math.inf
        print(f"{option:22s}{marked(ratio(ours, theirs, rounds), limit)}", flush=True)
    print()


def epochs(trainer: Trainer) -> Iterator[None]:
    """Endless training epochs over the rows of the first one."""
    split, plan = trainer.training_part(), trainer.rows.plan(1, BATCH)
    for number in itertools.count(1):
        for batch in trainer.loader.epoch(split, number, plan):
            trainer.train_step(batch)
        yield


@contextmanager
def timed(cls: Any) -> Iterator[list[float]]:
    """Inside, notes the processor time of each choice of rows that a strategy of this class makes."""
    name = "plan" if issubclass(cls, Sampler) else "__call__"
    found: list[float] = []
    whole = getattr(cls, name)

    def noting(*arguments: Any) -> Any:
        start = time.process_time()
        result = whole(*arguments)
        found.append(time.process_time() - start)
        return result

    setattr(cls, name, noting)
    try:
        yield found
    finally:
        setattr(cls, name, whole)


def of_epochs(chosen: Sequence[str], rounds: int, rows: int) -> None:
    """Table 2."""
    print(f"an epoch / with none and as many rows (limit {EPOCH_LIMIT:.2f} once they are chosen)")
    print(f"{'':22s}{'of':>9s} {'rows':>8s} {'chosen':>9s} {'in all':>9s} {'seconds':>8s}")
    for option in chosen:
        cls = class_of(option)
        count = min(rows, FEWER.get(option, rows))
        data = made(["binary", "multiclass"], count)
        with timed(cls) as choices:
            ours = make_trainer(data, f"imbalance={option}")
            split, plan = ours.training_part(), ours.rows.plan(1, BATCH)
        size = split.size("input") if plan is None else sum(len(batch["input"]) for batch in plan)
        one, other = epochs(ours), epochs(make_trainer(_repeated(data, size)))
        passed(one, 1), passed(other, 1)
        pairs = [(passed(one, 1), passed(other, 1)) for _ in range(rounds)]
        ready = statistics.median(a / b for a, b in pairs)
        once = issubclass(cls, Resampler) and not cls.renewed
        in_all = ready + statistics.median(choices) / statistics.median(b for _, b in pairs) / (EPOCHS if once else 1)
        figures = f"{marked(ready, EPOCH_LIMIT)}{in_all:9.2f} {choices[0]:8.2f}"
        print(f"{option:22s}{count:9,d} {size / count:8.2f} {figures}", flush=True)
    print()


def _repeated(data: Data, rows: int) -> Data:
    """The data with so many rows, each as often as needed."""
    split = data.splits["train"]
    index = torch.arange(rows) % split.size("input")
    return replace(data, splits={**data.splits, "train": split.take({"input": index})})


def main() -> None:
    in_steps, in_epochs = options_of(Criterion, Mixer), options_of(Resampler, Sampler)
    known = [*in_steps, *in_epochs]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--options", nargs="*", default=known, choices=known, metavar="OPTION", help="names of options; all")
    parser.add_argument("--rounds", type=int, default=15, help="of steps")
    parser.add_argument("--epoch-rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    of_steps([option for option in in_steps if option in arguments.options], arguments.rounds)
    of_epochs([option for option in in_epochs if option in arguments.options], arguments.epoch_rounds, arguments.rows)


if __name__ == "__main__":
    main()
