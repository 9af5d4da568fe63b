"""Time of a training step and peak memory of each sharing mode, as ratios to ``hard`` in one run.

    python benchmarks/sharing.py --modes soft mmoe --tasks 2 8 --rounds 7

All tasks are binary; everything runs on one thread, modes in turns with what they are compared with, and each figure is the
median over rounds of the ratio of processor times.

1. Modes at their defaults to ``hard``: encoder 64-64-32, batches of 64. Memory is the most that tensors take while the model is
   made and takes three steps: parameters, gradients and activations, without the data.
2. Soft sharing, whose networks run as one, to a hand-written loop that passes through the same networks one after the other,
   without the penalty and with it.
3. ``hard`` with 139 tasks to ``hard`` with two: encoder 64-256-128, batches of 512.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from step import make_trainer, steps
from torch import Tensor, nn

from mtl_runner.batch import Batch, Data, StreamSpec, TargetSpec
from mtl_runner.config import config_dir

Steps = Iterator[object]
ROWS, SMALL, BATCH = 10_000, (64, 64, 32), 64
LOOPS = (
    (20, (32, 64, 32), 64, 1 / 3.5),
    (139, (32, 64, 32), 64, 1 / 5),
    (8, (64, 256, 128), 512, 1.1),
    (4, (512, 1024, 512), 512, 1.1),
)
"""Tasks, sizes, batch and the largest ratio that is fine."""
HEADS_LIMIT = 1.8


def made(tasks: int, width: int) -> tuple[Data, Tensor, Tensor]:
    """Random rows with binary tasks, also as tensors."""
    draws = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(ROWS, width, generator=draws), (torch.rand(ROWS, tasks, generator=draws) > 0.5).float()
    names = [f"task_{t}" for t in range(tasks)]
    split = Batch(
        {"input": {"numeric": inputs}}, {n: targets[:, t].clone() for t, n in enumerate(names)}, dict.fromkeys(names, "input")
    )
    specs = {name: TargetSpec("binary", classes=("0", "1")) for name in names}
    return (
        Data(dict.fromkeys(("train", "validation", "test"), split), {"input": StreamSpec({"numeric": (width,)})}, specs, {}),
        inputs,
        targets,
    )


def training(data: Data, sizes: Sequence[int], batch: int, *overrides: str) -> Steps:
    encoder = (f"encoder.hidden={list(sizes[1:])}",)
    return steps(make_trainer(data, f"trainer.batch_size={batch}", *overrides, encoder=encoder))


def looped(inputs: Tensor, targets: Tensor, sizes: Sequence[int], batch: int, strength: float) -> Steps:
    """Soft sharing written by hand: a network after the other."""
    tasks = targets.shape[1]
    networks = [_network(sizes) for _ in range(tasks)]
    heads = [nn.Linear(sizes[-1], 1) for _ in range(tasks)]
    optimizer = torch.optim.SGD([parameter for module in (*networks, *heads) for parameter in module.parameters()], lr=0.1)
    while True:
        for rows in torch.randperm(len(inputs)).split(batch):
            if len(rows) < batch:
                continue
            optimizer.zero_grad()
            x, y = inputs[rows], targets[rows]
            logits = [head(network(x)).squeeze(1) for network, head in zip(networks, heads, strict=True)]
            total = sum(nn.functional.binary_cross_entropy_with_logits(logit, y[:, t]) for t, logit in enumerate(logits))
            if strength:
                for same in zip(*(network.parameters() for network in networks), strict=True):
                    values = torch.stack(same)
                    total = total + strength * (values - values.mean(0)).square().sum()
            total.backward()  # type: ignore[union-attr]
            optimizer.step()
            yield None


def _network(sizes: Sequence[int]) -> nn.Sequential:
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())))


def seconds(iterator: Steps, least: float = 0.1) -> float:
    """Processor time of a step, over as many as take ``least`` seconds."""
    start, count = time.process_time(), 0
    while (passed := time.process_time() - start) < least or count < 3:
        next(iterator)
        count += 1
    return passed / count


def ratios(ours: Mapping[str, Steps], theirs: Steps, rounds: int) -> dict[str, float]:
    """Medians over rounds in which they take turns."""
    found: dict[str, list[float]] = {name: [] for name in ours}
    for iterator in (*ours.values(), theirs):
        seconds(iterator)
    for _ in range(rounds):
        for name, iterator in ours.items():
            found[name].append(seconds(iterator) / seconds(theirs))
    return {name: statistics.median(values) for name, values in found.items()}


def peak(tasks: int, mode: str) -> int:
    """Bytes that tensors take at most, the data apart."""
    data, _, _ = made(tasks, SMALL[0])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        iterator = training(data, SMALL, BATCH, f"sharing={mode}")
        for _ in range(3):
            next(iterator)
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(itertools.accumulate(size for _, size in changes))


def of_modes(modes: Sequence[str], counts: Sequence[int], rounds: int) -> None:
    """Table 1."""
    print("mode / hard: time of a step" + f"{'peak memory':>{8 * len(counts) + 9}s}")
    print(f"{'mode':18s}" + 2 * "".join(f"{count:>7d} " for count in counts) + " tasks")
    times: dict[str, list[float]] = {mode: [] for mode in modes}
    memory: dict[str, list[float]] = {mode: [] for mode in modes}
    for count in counts:
        data, _, _ = made(count, SMALL[0])
        hard = training(data, SMALL, BATCH, "sharing=hard")
        least = peak(count, "hard")
        for mode in modes:
            ours = training(data, SMALL, BATCH, f"sharing={mode}")
            times[mode].append(ratios({mode: ours}, hard, rounds)[mode])
            memory[mode].append(peak(count, mode) / least)
    for mode in modes:
        print(f"{mode:18s}" + "".join(f"{value:7.2f} " for value in (*times[mode], *memory[mode])))
    print()


def of_soft(rounds: int) -> None:
    """Table 2."""
    print("soft / networks one after the other")
    print(f"{'tasks':>5s} {'network':>15s} {'batch':>6s} {'limit':>7s} {'strength 0':>11s} {'with penalty':>13s}")
    for tasks, sizes, batch, limit in LOOPS:
        data, inputs, targets = made(tasks, sizes[0])
        found = [
            ratios(
                {"soft": training(data, sizes, batch, "sharing=soft", f"sharing.strength={strength}")},
                looped(inputs, targets, sizes, batch, strength),
                rounds,
            )["soft"]
            for strength in (0.0, 1e-3)
        ]
        marks = ["!" if value > limit else " " for value in found]
        shape = "-".join(map(str, sizes))
        print(
            f"{tasks:5d} {shape:>15s} {batch:6d} {limit:7.2f} {found[0]:10.2f}{marks[0]} {found[1]:12.2f}{marks[1]}", flush=True
        )
    print()


def of_heads(rounds: int) -> None:
    """Table 3."""
    sizes = (64, 256, 128)
    many, few = (training(made(count, sizes[0])[0], sizes, 512, "sharing=hard") for count in (139, 2))
    value = ratios({"hard": many}, few, rounds)["hard"]
    print(f"hard with 139 tasks / hard with 2: {value:.2f}{'!' if value > HEADS_LIMIT else ''} (limit {HEADS_LIMIT})")


def main() -> None:
    known = sorted({path.stem for path in (config_dir() / "sharing").glob("*.yaml")} - {"hard", "none"})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="*", default=known, choices=known, metavar="MODE", help="names of options; all")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 8, 40, 139])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    of_modes(arguments.modes, arguments.tasks, arguments.rounds)
    of_soft(arguments.rounds)
    of_heads(arguments.rounds)


if __name__ == "__main__":
    main()
