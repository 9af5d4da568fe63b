"""Time of a step with each weighting, and of its way from the Gramian to the weights, as ratios measured in one run.

    python benchmarks/weighting.py --methods mgda pcgrad --tasks 2 8 --rounds 15

Steps run on one thread, in turns with what they are compared with, and each figure is the median over rounds of the ratio of
processor times, which other programs disturb less than they do the clock's. Model, data and batch are those of ``step.py``;
images are 3 × 32 × 32 and go through ``encoder=cnn`` without normalisation, in batches of 32.

1. Gradient-based methods to ``hand_loop.py`` with ``mode="jacobian"``, the bare passes and the mean of the rows. Its heads are
   ``fused``, the faster of both and so the stricter measure. For images the same function runs on the same convolutions.
2. From the Gramian to the weights, on random Jacobians of 40 × 512, of full rank and of rank 20.
3. Weightings of the losses to ``equal``; so are weights that are reused (``every=10``, 8 tasks), by the mean of ten steps.
   Methods that divide the batch are compared with ``mgda``.

Beside each stands TorchJD's method of the same name where TorchJD is installed, on the loop's network with one head per task:
in 1 as a ratio to the same loop, in 3 to the same loop with the plain sum of the losses. ``!`` marks a figure above its limit.
"""

import argparse
import functools
import importlib
import importlib.util
import inspect
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from omegaconf import OmegaConf
from step import BATCH, ROWS, hand_loop, make_data, make_trainer, steps
from torch import Tensor, nn

from mtl_runner.batch import Batch, Data, StreamSpec, TargetSpec
from mtl_runner.config import config_dir, plug
from mtl_runner.weighting.base import Weighting
from mtl_runner.weighting.gradient import GradientWeighting, GramianWeighting

STEP_LIMIT, EVERY_LIMIT, LOSSES_LIMIT, DRAWS_LIMIT = 1.10, 1.45, 1.05, 2.0
FAMO_LIMIT = 1.4
WEIGHTS_LIMITS = dict.fromkeys(["pcgrad", "fairgrad", "imtl", "imtl_g", "aligned_mtl"], 1.0) | dict.fromkeys(
    ["mgda", "cagrad", "gradvac", "nash_mtl", "upgrad"], 3.0
)
"""Milliseconds."""
OTHER_NAMES = {"Uncertainty": "UW", "GLS": "GeometricMean", "RLW": "Random"}
"""TorchJD's names where they are not ours."""
IMAGES, IMAGE_BATCH = 960, 32

Steps = Iterator[object]


# ---- what there is ------------------------------------------------------------------------------------------------------


class Method:
    """An option of ``conf/weighting``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.node: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(config_dir() / "weighting" / f"{name}.yaml"))  # type: ignore[assignment]
        self.cls: type[Weighting] = plug(self.node, "weighting").func  # type: ignore[assignment]
        self.of_gradients = issubclass(self.cls, GradientWeighting)
        self.of_gramian = issubclass(self.cls, GramianWeighting)

    def make(self, tasks: int) -> Weighting:
        made: Weighting = plug(self.node, "weighting")([f"task_{t}" for t in range(tasks)])
        return made

    def torchjds(self, tasks: int) -> nn.Module | None:
        """TorchJD's counterpart, with our values for what it has no default for."""
        if importlib.util.find_spec("torchjd") is None:
            return None
        module = importlib.import_module("torchjd.aggregation" if self.of_gradients else "torchjd.scalarization")
        cls = getattr(module, OTHER_NAMES.get(self.cls.__name__, self.cls.__name__), None)
        if cls is None:
            return None
        known = {**self.node, "n_tasks": tasks, "shape": tasks}
        required = [each.name for each in inspect.signature(cls).parameters.values() if each.default is each.empty]
        try:
            made: nn.Module = cls(**{name: known[name] for name in required})
        except (KeyError, ImportError):
            return None
        return made


# ---- steps --------------------------------------------------------------------------------------------------------------


class ConvNet(nn.Module):
    """What ``encoder=cnn`` builds for 3 × 32 × 32 without normalisation, and the loop's fused heads."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for depth, size in ((3, 32), (32, 64)):
            layers += [nn.Conv2d(depth, size, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 8 * 8, 128), nn.ReLU())
        self.heads = nn.Linear(128, tasks)


def images(tasks: int) -> tuple[Tensor, Tensor, Data]:
    """Random ones, also as a data set."""
    draws = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(IMAGES, 3, 32, 32, generator=draws), (torch.rand(IMAGES, tasks, generator=draws) > 0.5).float()
    names = [f"task_{t}" for t in range(tasks)]
    columns = {name: targets[:, t].clone() for t, name in enumerate(names)}
    split = Batch({"input": {"image": inputs}}, columns, dict.fromkeys(names, "input"))
    specs = {name: TargetSpec("binary", classes=("0", "1")) for name in names}
    return (
        inputs,
        targets,
        Data(dict.fromkeys(("train", "validation", "test"), split), {"input": StreamSpec({"image": (3, 32, 32)})}, specs, {}),
    )


def looped(
    network: nn.Module, inputs: Tensor, targets: Tensor, step: Callable[[nn.Module, Tensor, Tensor], object], batch: int
) -> Steps:
    """The hand-written loop with another step; what that returns is called after the optimizer's."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    while True:
        for rows in torch.randperm(len(inputs)).split(batch):
            if len(rows) == batch:
                optimizer.zero_grad()
                after = step(network, inputs[rows], targets[rows])
                optimizer.step()
                if callable(after):
                    after()
                yield None


def torchjd_steps(loop: ModuleType, method: Method, inputs: Tensor, targets: Tensor) -> Steps | None:
    """The loop with TorchJD's method."""
    other = method.torchjds(targets.shape[1])
    if other is None:
        return None
    network = loop.Network(inputs.shape[1], targets.shape[1], "apart")
    if not method.of_gradients:
        network.method = other  # its parameters are trained with the network's
        return looped(network, inputs, targets, _scalarized, BATCH)
    autojac = importlib.import_module("torchjd.autojac")

    def step(network: Any, inputs: Tensor, targets: Tensor) -> None:
        features = network.trunk(inputs)
        autojac.mtl_backward(network.losses(features, targets), features)
        autojac.jac_to_grad(network.trunk.parameters(), other)

    return looped(network, inputs, targets, step, BATCH)


def _scalarized(network: Any, inputs: Tensor, targets: Tensor) -> Callable[[], None] | None:
    def losses() -> Tensor:
        return torch.stack(network.losses(network.trunk(inputs), targets))

    def update() -> None:
        with torch.no_grad():
            network.method.update(losses())

    network.method(losses()).backward()
    return update if hasattr(network.method, "update") else None


def spent(iterator: Steps, count: int) -> float:
    """Processor seconds of a step, the mean of ``count``."""
    start = time.process_time()
    for _ in range(count):
        next(iterator)
    return (time.process_time() - start) / count


def ratios(contenders: Mapping[str, Steps], references: Mapping[str, Steps], rounds: int, count: int) -> dict[str, float]:
    """For each contender the median over rounds of its time to that of its reference, of the same round."""
    distinct = {id(each): each for each in references.values()}
    for each in (*contenders.values(), *distinct.values()):
        spent(each, max(3, count))
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            reference = spent(references[name], count)
            found[name].append(spent(contender, count) / reference)
    return {name: statistics.median(values) for name, values in found.items()}


# ---- tables -------------------------------------------------------------------------------------------------------------


def shown(value: float | None, limit: float | None = None, width: int = 9) -> str:
    if value is None:
        return "-".rjust(width) + " "
    return f"{value:{width}.2f}" + ("!" if limit is not None and value > limit else " ")


def of_gradients(loop: ModuleType, methods: Sequence[Method], tasks: Sequence[int], cnn: int, rounds: int) -> None:
    """Table 1."""
    chosen = [method for method in methods if method.of_gradients and method.cls.draws == 1]
    if not chosen:
        return
    columns: dict[str, dict[str, float]] = {}
    for count in tasks:
        data, (inputs, targets) = make_data(loop, count), loop.data(ROWS, 64, count)
        ours: dict[str, Steps] = {each.name: steps(make_trainer(data, f"weighting={each.name}")) for each in chosen}
        theirs = {each.name: made for each in chosen if (made := torchjd_steps(loop, each, inputs, targets))}
        reference: Steps = loop.steps(inputs, targets, BATCH, heads="fused", mode="jacobian")
        columns[f"{count} tasks"] = ratios(ours, dict.fromkeys(ours, reference), rounds, 3)
        columns[f"TorchJD {count}"] = ratios(theirs, dict.fromkeys(theirs, reference), max(3, rounds // 3), 3)
    if cnn:
        columns[f"cnn {cnn}"] = of_images(loop, chosen, cnn, rounds)
    print(f"step / hand_loop jacobian (limit {STEP_LIMIT} for Gramian-based)")
    print(f"{'method':16s}" + "".join(f"{title:>10s} " for title in columns))
    for method in chosen:
        limits = [STEP_LIMIT if method.of_gramian and not title.startswith("TorchJD") else None for title in columns]
        cells = [shown(column.get(method.name), limit, 10) for column, limit in zip(columns.values(), limits, strict=True)]
        print(f"{method.name:16s}" + "".join(cells), flush=True)
    print()


def of_images(loop: ModuleType, methods: Sequence[Method], tasks: int, rounds: int) -> dict[str, float]:
    inputs, targets, data = images(tasks)
    batch, encoder = f"trainer.batch_size={IMAGE_BATCH}", ("encoder=cnn", "encoder.norm=none")
    ours: dict[str, Steps] = {
        each.name: steps(make_trainer(data, f"weighting={each.name}", batch, encoder=encoder))
        for each in methods
        if each.of_gramian
    }
    reference = looped(ConvNet(tasks), inputs, targets, loop._jacobian, IMAGE_BATCH)
    return ratios(ours, dict.fromkeys(ours, reference), max(3, rounds // 2), 2)


def of_weights(methods: Sequence[Method], rounds: int, tasks: int = 40, width: int = 512) -> None:
    """Table 2."""
    chosen = [method for method in methods if method.of_gramian and method.cls.draws == 1]
    if not chosen:
        return
    draws = torch.Generator().manual_seed(0)
    halves = [
        torch.randn(tasks, tasks // 2, generator=draws) @ torch.randn(tasks // 2, width, generator=draws) for _ in range(rounds)
    ]
    jacobians = {"full rank": [torch.randn(tasks, width, generator=draws) for _ in range(rounds)], "half rank": halves}
    gramians = {rank: [each.double() @ each.double().T for each in some] for rank, some in jacobians.items()}
    print(f"Gramian of {tasks} tasks to weights, ms")
    print(f"{'method':16s}" + "".join(f"{title:>18s}" for title in ("full rank", "half rank", "limit", "TorchJD full", "half")))
    losses, active = torch.ones(tasks, dtype=torch.float64), torch.ones(tasks, dtype=torch.bool)
    for method in chosen:
        limit = WEIGHTS_LIMITS.get(method.name)
        weighting, other = method.make(tasks), getattr(method.torchjds(tasks), "gramian_weighting", None)
        assert isinstance(weighting, GramianWeighting)
        own = functools.partial(_weights, weighting, losses, active)
        cells = [shown(milliseconds(own, some), limit, 17) for some in gramians.values()]
        cells.append(shown(limit, None, 17))
        cells += [shown(other and milliseconds(other, some[:5]), None, 17) for some in gramians.values()]
        print(f"{method.name:16s}" + "".join(cells), flush=True)
    print()


def _weights(weighting: GramianWeighting, losses: Tensor, active: Tensor, gramian: Tensor) -> Tensor:
    return weighting.weights(gramian, losses, active)


def milliseconds(weights: Callable[[Tensor], Tensor], gramians: Sequence[Tensor]) -> float:
    """Median over the Gramians; of each the second of two calls."""
    times = []
    for gramian in gramians:
        weights(gramian)
        start = time.process_time()
        weights(gramian)
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


def of_losses(loop: ModuleType, methods: Sequence[Method], tasks: Sequence[int], rounds: int) -> None:
    """Table 3."""
    rows: dict[str, tuple[float, dict[str, float]]] = {}
    for count in tasks:
        data, (inputs, targets) = make_data(loop, count), loop.data(ROWS, 64, count)
        equal: Steps = steps(make_trainer(data, "weighting=equal"))
        plain: Steps = loop.steps(inputs, targets, BATCH)
        ours, references, limits = _against_equal(data, methods, count, equal)
        theirs = {
            each.name: made for each in methods if each.name in ours and (made := torchjd_steps(loop, each, inputs, targets))
        }
        found = ratios(ours, references, rounds, 10)
        other = ratios(theirs, dict.fromkeys(theirs, plain), max(3, rounds // 3), 10)
        for name, value in found.items():
            cells = rows.setdefault(name, (limits[name], {}))[1]
            cells[f"{count} tasks"] = value
            if name in other:
                cells[f"TorchJD {count}"] = other[name]
    titles = [title for count in tasks for title in (f"{count} tasks", f"TorchJD {count}")]
    print("step / step of equal (of mgda where the batch is divided)")
    print(f"{'method':24s}{'limit':>8s} " + "".join(f"{title:>10s} " for title in titles))
    for name, (limit, cells) in rows.items():
        line = [shown(cells.get(title), None if title.startswith("TorchJD") else limit, 10) for title in titles]
        print(f"{name:24s}{limit:8.2f} " + "".join(line), flush=True)


def _against_equal(
    data: Data, methods: Sequence[Method], count: int, equal: Steps
) -> tuple[dict[str, Steps], dict[str, Steps], dict[str, float]]:
    """Steps, what they are compared with, and limits."""
    ours: dict[str, Steps] = {}
    references: dict[str, Steps] = {}
    limits: dict[str, float] = {}
    mgda = (config_dir() / "weighting" / "mgda.yaml").is_file()
    for method in methods:
        if not method.of_gradients:
            ours[method.name] = steps(make_trainer(data, f"weighting={method.name}"))
            limits[method.name] = FAMO_LIMIT if method.cls.needs == "trajectory" else LOSSES_LIMIT
            references[method.name] = equal
        elif method.cls.draws > 1 and mgda:
            ours[method.name] = steps(make_trainer(data, f"weighting={method.name}"))
            limits[method.name] = DRAWS_LIMIT
            references[method.name] = steps(make_trainer(data, "weighting=mgda"))
        elif method.of_gramian and method.cls.draws == 1 and count == 8:
            name = f"{method.name} every=10"
            ours[name] = steps(make_trainer(data, f"weighting={method.name}", "weighting.every=10"))
            limits[name] = EVERY_LIMIT
            references[name] = equal
    return ours, references, limits


def main() -> None:
    known = sorted(path.stem for path in (config_dir() / "weighting").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=known, choices=known, metavar="METHOD", help="names of options; all")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--cnn", type=int, default=3, help="number of tasks on images; 0 leaves them out")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", module="torchjd")  # its solver's advice
    loop = hand_loop()
    methods = [Method(name) for name in arguments.methods]
    of_gradients(loop, methods, arguments.tasks, arguments.cnn, arguments.rounds)
    of_weights(methods, arguments.rounds)
    of_losses(loop, methods, arguments.tasks, arguments.rounds)


if __name__ == "__main__":
    main()
