"""What do strategies against class imbalance change, and what do they cost?

    python experiments/imbalance/imbalance.py --data-dir data

Trains every data set of ``study.yaml`` with every sharing mode, strategy and seed. The seed moves the split, the initial weights
and the order of the rows, so that a run and that of ``none`` with the same seed have the same test part; strategies at the place
"decision" read the outputs of ``none``'s network. A line for each run and task goes into ``--runs``; what is there with the same
overrides is not run again. ``results.csv``, the figure, and the tables between the two marks of ``README.md`` are made of all
lines that are there, with ``--jobs 0`` without any run.
"""

import argparse
import csv
import hashlib
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra import compose, initialize_config_dir
from torch import Tensor

from mtl_runner import build
from mtl_runner.batch import Data, labelled
from mtl_runner.config import config_dir, plug
from mtl_runner.config.schema import plain
from mtl_runner.evaluate import measured
from mtl_runner.tasks.group import pack
from mtl_runner.training import Training

HERE = Path(__file__).resolve().parent
METRICS = (
    "balanced_accuracy", "g_mean", "f1", "mcc", "rarest_recall",
    "roc_auc", "average_precision", "log_loss", "brier", "calibration_error",
)  # fmt: skip
"""``rarest_recall`` is the recall of the class with the fewest training rows."""
SHOWN = {
    "balanced_accuracy": "balanced accuracy", "f1": "macro F1", "roc_auc": "ROC-AUC",
    "average_precision": "average precision", "calibration_error": "calibration error",
}  # fmt: skip
KEYS = ("data", "sharing", "strategy", "seed")
COLUMNS = (*KEYS, "settings", "task", *METRICS)
MARKS = ("<!-- tables: written by imbalance.py -->", "<!-- end of tables -->")
FIGURE = "imbalance.png"
Row = dict[str, Any]


# ---- one run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A training, and the strategies that read its outputs in another way."""

    data: str
    sharing: str
    strategy: str
    seed: int
    overrides: tuple[str, ...]
    decided: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def settings(self) -> str:
        """What tells whether a recorded run is this one; where the data lie does not matter."""
        words = [word for word in (*self.overrides, *map(str, self.decided)) if not word.startswith("data_dir=")]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]

    @property
    def key(self) -> tuple[str, ...]:
        return self.data, self.sharing, self.strategy, str(self.seed), self.settings


def configured(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return plain(compose("config", ["trainer.progress=false", *overrides]))


def run(job: Job) -> list[Row]:
    """Train, and look at the test part, once for each way of reading the outputs."""
    torch.set_num_threads(1)
    node = configured(*job.overrides)
    data = loaded(yaml.safe_dump(node["dataset"]))
    build.check_strategies(node, data.targets, data.streams)
    model = build.make_model(node, data.streams, data.targets)
    training = build.make_training(node, build.trainer_options(node["trainer"]), data, model, torch.device("cpu"))
    for _ in training.fit():
        pass
    training.restore_best()
    rows = []
    for strategy, overrides in ((job.strategy, ()), *job.decided):
        reading = configured(*job.overrides, *overrides) if overrides else node
        training.adjust(build.make_adjusters(reading, data.targets))
        known: Row = {**dict(zip(KEYS, job.key, strict=False)), "strategy": strategy, "settings": job.settings}
        rows += [known | {"task": task} | values for task, values in tested(training, data).items()]
    return rows


@lru_cache(1)
def loaded(dataset: str) -> Data:
    data: Data = plug(yaml.safe_load(dataset), "dataset")().load()
    return data


def tested(training: Training, data: Data) -> dict[str, dict[str, float]]:
    """The metrics of the main tasks that have classes, on the test part."""
    model = training.model
    test = pack(data.splits["test"], model.task_groups)
    seen = measured(model, test, training.plan.eval_batch_size)
    metrics = seen.report().metrics
    found = {}
    for task, matrix in seen.confusions().items():
        if data.targets[task].role == "main":
            recall = recall_of(matrix, rarest(data.splits["train"].targets[task], len(matrix)))
            found[task] = {name: recall if name == "rarest_recall" else metrics[task][name] for name in METRICS}
    return found


def rarest(labels: Tensor, classes: int) -> int:
    """The class with the fewest rows."""
    return int(torch.bincount(labels[labelled(labels)].long(), minlength=classes).argmin())


def recall_of(matrix: Sequence[Sequence[int]], label: int) -> float:
    """From a confusion matrix with a row for each true class; NaN without an example of the class."""
    examples = sum(matrix[label])
    return matrix[label][label] / examples if examples else math.nan


# ---- all runs ---------------------------------------------------------------------------------------------------------


def jobs(study: Mapping[str, Any], seeds: int, more: Sequence[str], chosen: Sequence[str] = ()) -> Iterator[Job]:
    """Seed by seed, so that a study that was cut short is balanced; ``chosen`` are data sets, all if empty."""
    for seed, (data, its), (mode, sharing), (strategy, own) in product(
        range(seeds), study["data"].items(), study["sharing"].items(), study["trained"].items()
    ):
        if strategy in its.get("without", {}).get(mode, ()) or (chosen and data not in chosen):
            continue
        moved = (f"seed={seed}", f"dataset.split_seed={seed}")
        decided = tuple((name, tuple(words)) for name, words in study["decided"].items()) if strategy == "none" else ()
        yield Job(data, mode, strategy, seed, (*study["common"], *its["overrides"], *sharing, *own, *moved, *more), decided)


def missing(job: Job) -> str | None:
    """The file that the data set of a job is read from, where it is not there."""
    path = configured(*job.overrides)["dataset"].get("path")
    return str(path) if path and not Path(path).exists() else None


def recorded(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record(rows: Iterable[Row], path: Path) -> None:
    """At the end of the file, as it is there."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)


def work_off(work: Sequence[Job], processes: int) -> Iterator[tuple[Job, list[Row] | BaseException]]:
    """What came out of each, as soon as it is there: its lines, or what went wrong."""
    with ThreadPoolExecutor(1) if processes == 1 else ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        futures = {pool.submit(run, job): job for job in work}
        for future in as_completed(futures):
            yield futures[future], future.exception() or future.result()


def run_all(work: Sequence[Job], processes: int, path: Path) -> list[str]:
    """Record what comes out; a line for each that failed."""
    failures = []
    for number, (job, found) in enumerate(work_off(work, processes), 1):
        name = ", ".join(job.key[:4])
        if isinstance(found, BaseException):
            failures.append(f"{name}: {type(found).__name__}: {found}")
        else:
            record(found, path)
        print(f"{number} of {len(work)}: {failures[-1] if isinstance(found, BaseException) else name}", flush=True)
    return failures


def there(plan: Iterable[Job]) -> list[Job]:
    """Those whose data are there; a line for each data set that is not."""
    absent: dict[str, str | None] = {}
    for job in plan:
        if job.data not in absent:
            absent[job.data] = missing(job)
            if absent[job.data]:
                print(f"{job.data} is left out: there is no {absent[job.data]}; see --data-dir", flush=True)
    return [job for job in plan if not absent[job.data]]


# ---- the tables -------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float], test_share: float = 0.0) -> tuple[float, float]:
    """Mean, and half of its 95 % interval by Student's t.

    With ``test_share``, the rows of the test part for each training row, the variance is that of runs whose parts overlap:
    s² (1 / n + test_share) instead of s² / n (Nadeau and Bengio, Inference for the generalization error, Machine Learning 2003).
    """
    from scipy.stats import t

    numbers = torch.tensor(values, dtype=torch.float64)
    if len(values) < 2:
        return float(numbers.mean()), math.nan
    return float(numbers.mean()), float(t.ppf(0.975, len(values) - 1) * numbers.std() * (1 / len(values) + test_share) ** 0.5)


def averaged(rows: Iterable[Row], metric: str) -> dict[tuple[str, str, str], dict[str, dict[str, float]]]:
    """Values by run without its seed, by seed, by task; those that are undefined are left out."""
    values: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for row in rows:
        if not math.isnan(value := float(row[metric])):
            runs = values.setdefault((row["data"], row["sharing"], row["strategy"]), {})
            runs.setdefault(row["seed"], {})[row["task"]] = value
    return values


def differences(runs: Mapping[str, Mapping[str, float]], base: Mapping[str, Mapping[str, float]]) -> list[float]:
    """For each seed that both have: the mean over the tasks that both have a value for."""
    shared = [(seed, runs[seed].keys() & base[seed].keys()) for seed in sorted(runs.keys() & base.keys(), key=int)]
    return [sum(runs[seed][task] - base[seed][task] for task in both) / len(both) for seed, both in shared if both]


def summary(rows: Sequence[Row], study: Mapping[str, Any]) -> list[Row]:
    """A line for each data set, sharing and strategy: ``none``'s means, the others' differences to them, with half intervals.

    ``<metric>`` is the mean, ``<metric>_half`` half of its interval, ``<metric>_wide`` half of the one for overlapping parts.
    """
    values = {metric: averaged(rows, metric) for metric in METRICS}
    lines = []
    for data, mode, strategy in product(study["data"], study["sharing"], (*study["trained"], *study["decided"])):
        key, base = (data, mode, strategy), (data, mode, "none")
        if not all(key in values[metric] and base in values[metric] for metric in METRICS):
            continue
        line: Row = dict(zip(KEYS, key, strict=False))
        for metric in METRICS:
            zero = {seed: dict.fromkeys(tasks, 0.0) for seed, tasks in values[metric][base].items()}
            numbers = differences(values[metric][key], zero if strategy == "none" else values[metric][base])
            line |= {"seeds": len(numbers)}
            line[metric], line[f"{metric}_half"] = interval(numbers)
            line[f"{metric}_wide"] = interval(numbers, study["data"][data]["test_share"])[1]
        lines.append(line)
    return lines


def sure(line: Row, metric: str) -> int:
    """1 or -1 where the wide interval of a difference is above or below 0, else 0."""
    mean, half = line[metric], line[f"{metric}_wide"]
    return int(mean > half) - int(mean < -half)


def tables(lines: Sequence[Row]) -> str:
    """One for each data set, and one that counts."""
    pieces = []
    for data, group in groupby(lines, lambda line: line["data"]):
        head = [["sharing", "strategy", *SHOWN.values()]]
        body = [[line["sharing"], line["strategy"], *(_cell(line, metric) for metric in SHOWN)] for line in group]
        pieces.append(f"### {data}\n\n{_markdown(head + body)}")
    counts = [["strategy", *SHOWN.values()]]
    for strategy in dict.fromkeys(line["strategy"] for line in lines if line["strategy"] != "none"):
        own = [line for line in lines if line["strategy"] == strategy]
        signs = {metric: [sure(line, metric) for line in own] for metric in SHOWN}
        counts.append([f"{strategy} ({len(own)})", *(f"{s.count(1)} up, {s.count(-1)} down" for s in signs.values())])
    return "\n".join([f"### How often a difference is sure\n\n{_markdown(counts)}", *pieces])


def _cell(line: Row, metric: str) -> str:
    own = line["strategy"] == "none"
    text = f"{line[metric]:{'' if own else '+'}.3f} ± {line[f'{metric}_half']:.3f}"
    return f"**{text}**" if not own and sure(line, metric) else text


def _markdown(table: Sequence[Sequence[str]]) -> str:
    text = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([text[0], "|" + "---|" * len(table[0]), *text[1:]]) + "\n"


def between_marks(page: str, text: str) -> str:
    """``page`` with ``text`` between its marks; at its end where it has none."""
    before, _, rest = page.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    return f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{after or chr(10)}"


def write(lines: Sequence[Row], path: Path) -> None:
    names = [metric + ending for metric in METRICS for ending in ("", "_half", "_wide")]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*KEYS[:3], "seeds", *names], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{v:.4f}" if isinstance(v, float) else v for key, v in line.items()} for line in lines)


def results(path: Path) -> list[Row]:
    """The lines of a summary as ``write`` has written them."""
    return [{key: v if key in KEYS else float(v) for key, v in row.items()} for row in recorded(path)]


def draw(lines: Sequence[Row], places: Mapping[str, str], path: Path) -> None:
    """Change in balanced accuracy against change in ROC-AUC: a row for each sharing mode, a column for each data set."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    shown = [line for line in lines if line["strategy"] != "none"]
    data, modes, strategies = (list(dict.fromkeys(line[key] for line in shown)) for key in KEYS[:3])
    marks = dict(zip(dict.fromkeys(places.values()), "osD^", strict=False))
    figure = Figure(figsize=(3.1 * len(data) + 2.2, 2.9 * len(modes)), dpi=110, layout="constrained")
    grid = figure.subplots(len(modes), len(data), squeeze=False)
    for (row, mode), (column, name) in product(enumerate(modes), enumerate(data)):
        axes = grid[row][column]
        for line in (line for line in shown if (line["data"], line["sharing"]) == (name, mode)):
            axes.errorbar(
                line["roc_auc"], line["balanced_accuracy"], line["balanced_accuracy_half"], line["roc_auc_half"],
                fmt=marks[places[line["strategy"]]], color=colormaps["tab20"](strategies.index(line["strategy"])),
                markersize=5, linewidth=0.8, label=line["strategy"],
            )  # fmt: skip
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set_title(f"{name}, sharing {mode}", loc="left", fontsize=9)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=5)
    figure.supxlabel("change in ROC-AUC", fontsize=9)
    figure.supylabel("change in balanced accuracy", fontsize=9)
    named = {label: mark for axes in figure.axes for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    entries = [f"{strategy} ({places[strategy]})" for strategy in strategies]
    figure.legend([named[strategy] for strategy in strategies], entries, loc="outside right upper", fontsize=7, frameon=False)
    figure.savefig(path)


def places_of(study: Mapping[str, Any]) -> dict[str, str]:
    """Where each strategy acts."""
    found: dict[str, str] = {}
    for strategy, overrides in (study["trained"] | study["decided"]).items():
        for each in build.make_strategies(configured(*overrides)).values():
            found[strategy] = each.place
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="processes; 0: only write what the recorded runs show")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME", help="only these data sets")
    parser.add_argument("--data-dir", help="where the data sets lie; as in the configuration, if not given")
    parser.add_argument("--study", type=Path, default=HERE / "study.yaml")
    parser.add_argument("--runs", type=Path, default=HERE / "runs" / "runs.csv", help="a line for each run and task")
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    study = yaml.safe_load(arguments.study.read_text(encoding="utf-8"))
    more = [f"data_dir={arguments.data_dir}"] if arguments.data_dir else []
    plan = list(jobs(study, arguments.seeds, more, arguments.data))
    failures = []
    if arguments.jobs:
        arguments.runs.parent.mkdir(parents=True, exist_ok=True)
        known = {tuple(row[key] for key in (*KEYS, "settings")) for row in recorded(arguments.runs)}
        failures = run_all([job for job in there(plan) if job.key not in known], arguments.jobs, arguments.runs)
    settings = {job.settings for job in plan}
    finish([row for row in recorded(arguments.runs) if row["settings"] in settings], study, arguments.output)
    if failures:
        sys.exit(f"{len(failures)} runs failed; the first: {failures[0]}")


def finish(rows: Sequence[Row], study: Mapping[str, Any], output: Path) -> None:
    """The results, and the page and the figure that are made of them."""
    if not rows:
        sys.exit("no run is recorded")
    output.mkdir(parents=True, exist_ok=True)
    write(summary(rows, study), output / "results.csv")
    lines = results(output / "results.csv")
    page = output / "README.md"
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    page.write_text(between_marks(before, tables(lines)), encoding="utf-8")
    draw(lines, places_of(study), output / FIGURE)


if __name__ == "__main__":
    main()
