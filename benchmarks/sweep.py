"""What a sweep costs beside its training steps, and what a second worker saves.

    python benchmarks/sweep.py --jobs 20 --seconds 10     (about six minutes; --jobs 4 --seconds 3 for a quick look)

`mtl-run -m` trains the default network on a table of 50,000 rows (10 numbers, 4 categories, 2 tasks), once per seed, on one
thread. ``wall/steps`` is the time of the whole command, start-up, data, validation, test, figures, MLflow and its model
included, to the sum of what its runs spend in training steps; ``two/one`` is the time of the same command with two workers
(``hydra/launcher=joblib``) to that with one. Each is the median over rounds.
"""

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROWS = 50_000
TASKS = {"bought": {"type": "binary", "columns": "bought"}, "kind": {"type": "multiclass", "columns": "kind"}}
RUN = [sys.executable, "-c", "from mtl_runner.cli import run_main; run_main()"]
TWO = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
CALIBRATION = 1500
"""Steps of the run that says how many there are in a second."""


def make_table(path: Path) -> None:
    """Two tasks that depend on the same few columns."""
    rng = np.random.default_rng(0)
    numbers, categories = rng.normal(size=(ROWS, 10)), rng.integers(0, 8, (ROWS, 4))
    score = numbers[:, :4].sum(1) + categories[:, 0] - 3.5 + rng.normal(size=ROWS)
    bought, kind = np.where(score > 2, "yes", "no"), np.digitize(score + numbers[:, 4], (-2, 2))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{i}" for i in range(10)), *(f"c{i}" for i in range(4)), "bought", "kind"])
        for row in zip(numbers.round(4).tolist(), categories.tolist(), bought.tolist(), kind.tolist(), strict=True):
            writer.writerow([*row[0], *(f"v{value}" for value in row[1]), row[2], f"k{row[3]}"])


def sweep(folder: Path, name: str, jobs: int, steps: int, extra: Sequence[str] = ()) -> tuple[float, float]:
    """Wall time of the command, and the sum of the time in its runs' steps."""
    target = folder / name
    tasks = json.dumps(TASKS).replace('"', "")
    overrides = [
        "dataset=table", f"dataset.path={folder / 'table.csv'}", f"dataset.tasks={tasks}", f"seed=range({jobs})",
        f"trainer.steps={steps}", "trainer.early_stopping.patience=null", "trainer.threads=1", "trainer.progress=false",
        f"tracker.uri=sqlite:///{folder / 'mlflow.db'}", f"hydra.sweep.dir={target}",
    ]  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run([*RUN, "-m", *overrides, *extra], capture_output=True, text=True, cwd=folder, env=_environment())
    wall = time.perf_counter() - start
    lines = [json.loads(text) for path in target.glob("*/metrics.jsonl") for text in path.read_text().splitlines()]
    finished = [path for path in target.glob("*/status.json") if json.loads(path.read_text())["state"] == "finished"]
    if done.returncode or len(finished) != jobs:
        raise SystemExit(f"{len(finished)} of {jobs} jobs have finished:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return wall, sum(line["seconds"]["steps"] for line in lines)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="of training steps in each job")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", action="store_true", help="leave two workers out")
    arguments = parser.parse_args()
    second = not arguments.one and find_spec("hydra_plugins.hydra_joblib_launcher") is not None
    rounds = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_table(folder / "table.csv")
        _, spent = sweep(folder, "calibration", 1, CALIBRATION)
        steps = math.ceil(arguments.seconds * CALIBRATION / spent)
        print("jobs   steps   steps s   wall s   beside s/job   wall/steps   two/one")
        for number in range(arguments.rounds):
            wall, inside = sweep(folder, f"one_{number}", arguments.jobs, steps)
            ratio = sweep(folder, f"two_{number}", arguments.jobs, steps, TWO)[0] / wall if second else math.nan
            rounds.append((inside, wall, (wall - inside) / arguments.jobs, wall / inside, ratio))
        inside, wall, beside, ratio, two = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(
            f"{arguments.jobs:4d}  {steps:6d}  {inside:8.1f}  {wall:7.1f}  {beside:13.2f}  {ratio:11.2f}  {two:8.2f}", flush=True
        )


if __name__ == "__main__":
    main()
