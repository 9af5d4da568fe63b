"""Time of a training step and of an epoch, as ratios to a hand-written loop in the same run.

    python benchmarks/step.py --tasks 2 8

The loop (``hand_loop.py``, heads one by one) and the trainer take turns on the same model (64-256-128), data (100,000 × 64)
and batch size (512) on one thread; each figure is the median over rounds of the ratio of their times. ``epoch`` is one whole
epoch with everything that a run does: validation on 20,000 rows with all metrics, metrics.jsonl, checkpoint, MLflow.
"""

import argparse
import contextlib
import importlib.util
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mtl_runner import build, run
from mtl_runner.batch import Batch, Data, TargetSpec
from mtl_runner.config import config_dir
from mtl_runner.datasets.base import Dataset
from mtl_runner.datasets.rows.preparation import Number, Preparation
from mtl_runner.folder import Origin
from mtl_runner.trainer import Trainer

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "bench" / "hand_loop.py"
ROWS, VALIDATION, BATCH = 100_000, 20_000, 512


def hand_loop() -> ModuleType:
    """The reference loop, or this folder's copy of it."""
    path = SHARED if SHARED.is_file() else HERE / "hand_loop.py"
    spec = importlib.util.spec_from_file_location("hand_loop", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_data(loop: ModuleType, tasks: int) -> Data:
    """The loop's data as a data set."""
    inputs, targets = loop.data(ROWS + VALIDATION, 64, tasks)
    names = [f"task_{t}" for t in range(tasks)]

    def part(start: int, end: int) -> Batch:
        columns = {name: targets[start:end, t].clone() for t, name in enumerate(names)}
        return Batch({"input": {"numeric": inputs[start:end].clone()}}, columns, dict.fromkeys(names, "input"))

    splits = {"train": part(0, ROWS), "validation": part(ROWS, ROWS + VALIDATION), "test": part(ROWS, ROWS + 1000)}
    specs = {name: TargetSpec("binary", classes=("0", "1")) for name in names}
    preparation = Preparation(tuple(Number(f"x_{i}") for i in range(64)))
    return Data(splits, {"input": preparation.stream_spec}, specs, preparation.to_json())


def config(*overrides: str, encoder: Sequence[str] = ("encoder.hidden=[256,128]",)) -> DictConfig:
    fixed = [
        *encoder,
        "optimizer=sgd",
        "optimizer.lr=0.1",
        "optimizer.momentum=0",
        f"trainer.batch_size={BATCH}",
    ]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", [*fixed, "trainer.device=cpu", "trainer.progress=false", *overrides])


def make_trainer(data: Data, *overrides: str, **options: Sequence[str]) -> Trainer:
    node = OmegaConf.to_container(config(*overrides, **options), resolve=True)
    model = build.make_model(node, data.streams, data.targets)
    return build.make_training(node, build.trainer_options(node["trainer"]), data, model, torch.device("cpu")).trainers[0]


def steps(trainer: Trainer) -> Iterator[None]:
    """Endless training steps."""
    split = trainer.training_part()
    epoch = 0
    while True:
        epoch += 1
        for batch in trainer.loader.epoch(split, epoch):
            trainer.train_step(batch)
            yield


def seconds(iterator: Iterator[object], count: int) -> float:
    """Median time of one step."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        next(iterator)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ratio(ours: Iterator[object], theirs: Iterator[object], rounds: int, count: int = 25) -> tuple[float, float]:
    """Median of the ratios of interleaved rounds, and our time in seconds."""
    seconds(ours, 10), seconds(theirs, 10)
    pairs = [(seconds(ours, count), seconds(theirs, count)) for _ in range(rounds)]
    return statistics.median(a / b for a, b in pairs), statistics.median(a for a, _ in pairs)


def epoch_ratio(loop: ModuleType, data: Data, tasks: int, tracker: str, rounds: int) -> float:
    """Time of an epoch within a run, evaluation and logging included, to the loop's steps alone."""
    inputs, targets = loop.data(ROWS, 64, tasks)
    theirs = loop.steps(inputs, targets, BATCH)
    count = ROWS // BATCH
    ratios = []
    for _ in range(rounds):
        ours = statistics.median(_epochs(data, tracker))
        start = time.perf_counter()
        for _ in range(count):
            next(theirs)
        ratios.append(ours / ((time.perf_counter() - start) * (ROWS / BATCH) / count))
    return statistics.median(ratios)


def _epochs(data: Data, tracker: str, number: int = 5) -> list[float]:
    """Times between the ends of the epochs of one real run; the first, with its warm-up, is left out."""
    moments: list[float] = []
    with tempfile.TemporaryDirectory() as folder, _loading(data), contextlib.redirect_stdout(_Clock(moments)):
        uri = f"sqlite:///{folder}/mlflow.db"
        chosen = config(
            f"tracker={tracker}", f"trainer.epochs={number + 1}", *([f"tracker.uri={uri}"] if tracker == "mlflow" else [])
        )
        run.run(chosen, Path(folder), Origin({}))
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


class _Clock(io.StringIO):
    """Notes when an epoch's line is printed."""

    def __init__(self, moments: list[float]) -> None:
        super().__init__()
        self.moments = moments

    def write(self, text: str) -> int:
        if text.startswith("epoch "):
            self.moments.append(time.perf_counter())
        return len(text)


@contextlib.contextmanager
def _loading(data: Data) -> Iterator[None]:
    """Any data set loads ``data``."""
    from mtl_runner.datasets.digits import Digits

    original: Callable[[Dataset], Data] = Digits.load
    Digits.load = lambda self: data  # type: ignore[method-assign]
    try:
        yield
    finally:
        Digits.load = original  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epoch-rounds", type=int, default=3)
    parser.add_argument("--tracker", default="mlflow", choices=["mlflow", "none"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loop = hand_loop()
    print("tasks   step ms   step/loop   epoch/loop")
    for tasks in arguments.tasks:
        data = make_data(loop, tasks)
        inputs, targets = loop.data(ROWS, 64, tasks)
        step, time_of_step = ratio(steps(make_trainer(data)), loop.steps(inputs, targets, BATCH), arguments.rounds)
        epoch = (
            epoch_ratio(loop, data, tasks, arguments.tracker, arguments.epoch_rounds) if arguments.epoch_rounds else float("nan")
        )
        print(f"{tasks:5d}  {1e3 * time_of_step:8.2f}  {step:10.2f}  {epoch:11.2f}", flush=True)


if __name__ == "__main__":
    main()
