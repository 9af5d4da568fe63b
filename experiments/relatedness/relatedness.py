"""When does sharing pay, and do the modes that look for it find which tasks are related?

    python experiments/relatedness/relatedness.py

Eight linear regression tasks whose relatedness is planted: all in one group, in two groups, or unrelated. Runs every setting of
``study.yaml`` with every mode and seed, prints the table, and writes ``results.csv`` (a line for each run), ``README.md`` and
``relatedness.png`` into ``--output``. The seed moves both the data and the training. R² is the mean of the eight tasks on the
test part, with the weights of the best epoch of the validation part; it is at most 0.8, as a fifth of the scores' variance is
noise.

Shape legend: T tasks.
"""

import argparse
import csv
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra import compose, initialize_config_dir
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from mtl_runner import build
from mtl_runner.config import config_dir, plug
from mtl_runner.config.schema import plain
from mtl_runner.evaluate import averages, evaluate
from mtl_runner.model import MultiTaskModel
from mtl_runner.sharing.relation import clusters_of
from mtl_runner.tasks.group import pack

HERE = Path(__file__).resolve().parent
NUMBERS = ("average", "clusters", "rand", "inside", "across")
"""What a run is measured by: R²; how many clusters were found, and how well (adjusted Rand index); mean learned relation of the
pairs of one planted group, and of two."""
Row = dict[str, Any]
FIGURE = "relatedness.png"
ABOUT = """# When does sharing pay?

`python experiments/relatedness/relatedness.py` writes this page. Eight linear regression tasks with 100 inputs and 200 training
rows, each labelled for all tasks, and an encoder of 64 and 32 units: all tasks in one group (cosine 0.95 between their true
weights), in two groups of four (0.95 within a group, 0 across), or unrelated (0). R² is the mean of the tasks on the test part;
0.8 is all there is to explain. The relation is what `clustered` and `task_relation` have learned, averaged over pairs of tasks
of one planted group and of two; the adjusted Rand index says how well the clusters that were found, or that follow from the
relation, are the two planted groups. `clustered, affinity` is told that there are two clusters, `clustered, learned` is not.
"""


def configured(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return plain(compose("config", ["trainer.progress=false", *overrides]))


def run(setting: str, mode: str, seed: int, overrides: Sequence[str]) -> Row:
    """Train, and look at the test part and at what the mode has learned."""
    torch.set_num_threads(1)
    node = configured(*overrides, f"seed={seed}", f"dataset.split_seed={seed}")
    dataset = plug(node["dataset"], "dataset")()
    data = dataset.load()
    model = build.make_model(node, data.streams, data.targets)
    training = build.make_training(node, build.trainer_options(node["trainer"]), data, model, torch.device("cpu"))
    for _ in training.fit():
        pass
    training.restore_best()
    test = pack(data.splits["test"], model.task_groups)
    report = evaluate(model, test, training.plan.eval_batch_size)
    row: Row = {"setting": setting, "mode": mode, "seed": seed, "average": averages(report.metrics, model.tasks)["primary"]}
    row["best_epoch"] = " ".join(str(trainer.learner.stopping.best_epoch) for trainer in training.trainers)
    return row | learned(model, dataset.groups)


def learned(model: MultiTaskModel, planted: Sequence[int]) -> Row:
    """The clusters that a mode has found, or that follow from its relation of the tasks, as many as are planted."""
    tables = model.sharing.tables()
    if "relation" not in tables:
        return {}
    relation = tables["relation"].values
    found = tables["clusters"].values.argmax(1).tolist() if "clusters" in tables else None
    labels = clusters_of(relation, len(set(planted)), 0.0) if found is None else found
    groups = torch.tensor(planted)
    alike = groups[:, None] == groups
    pairs = ~torch.eye(len(groups), dtype=torch.bool)
    row = {"inside": _mean(relation[alike & pairs]), "across": _mean(relation[~alike])}
    if found is not None:
        row["clusters"] = len(set(found))
    if 1 < len(set(planted)) < len(planted):
        row["rand"] = adjusted_rand_score(planted, labels)
    return row


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None


# ---- all runs, and the table ------------------------------------------------------------------------------------------


def jobs(study: Mapping[str, Any], seeds: int, more: Sequence[str]) -> Iterator[Callable[[], Row]]:
    for seed, (setting, theirs), (mode, its) in product(range(seeds), study["settings"].items(), study["modes"].items()):
        yield partial(run, setting, mode, seed, [*study["common"], *theirs, *its, *more])


def call(job: Callable[[], Row]) -> Row:
    return job()


def all_rows(work: Sequence[Callable[[], Row]], processes: int) -> Iterator[Row]:
    """In the order of the work, each as soon as it and those before it are there."""
    if processes == 1:
        yield from map(call, work)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(call, work)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval by Student's t."""
    from scipy.stats import t

    numbers = torch.tensor(values, dtype=torch.float64)
    if len(values) < 2:
        return float(numbers.mean()), float("nan")
    return float(numbers.mean()), float(t.ppf(0.975, len(values) - 1) * numbers.std() / len(values) ** 0.5)


def summary(rows: Iterable[Row]) -> list[Row]:
    """A line for each setting and mode: means with intervals; differences are within seeds."""
    each: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        each.setdefault((row["setting"], row["mode"]), {})[row["seed"]] = row
    lines = []
    for (setting, mode), runs in each.items():
        line: Row = {"setting": setting, "mode": mode}
        for name in NUMBERS:
            if values := [row[name] for row in runs.values() if row.get(name) is not None]:
                line[name] = interval(values)
        if mode != "none" and (setting, "none") in each:
            line["gain"] = interval([row["average"] - each[setting, "none"][seed]["average"] for seed, row in runs.items()])
        lines.append(line)
    return lines


def markdown(lines: Sequence[Row]) -> str:
    heads = {"average": "R²", "gain": "over `none`", "clusters": "clusters", "rand": "adjusted Rand index",
             "inside": "relation inside", "across": "relation across"}  # fmt: skip
    table = [["setting", "sharing", *heads.values()]]
    table += [[line["setting"], line["mode"], *(_cell(line.get(name), name) for name in heads)] for line in lines]
    text = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([text[0], "|" + "---|" * len(table[0]), *text[1:]]) + "\n"


def _cell(value: tuple[float, float] | None, name: str) -> str:
    if value is None:
        return ""
    digits = 3 if name in ("average", "gain") else 2 if name != "clusters" else 1
    mean = f"{value[0]:{'+' if name == 'gain' else ''}.{digits}f}"
    return mean if value[1] != value[1] else f"{mean} ± {value[1]:.{digits}f}"


def commit() -> str:
    """That of the project, with ``+`` where files differ from it."""
    called = partial(subprocess.run, cwd=HERE, capture_output=True, text=True, check=False)
    hashed, changed = (called(["git", *words]).stdout.strip() for words in (["rev-parse", "--short", "HEAD"], ["diff", "HEAD"]))
    return (hashed or "unknown") + ("+" if changed else "")


def write(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["setting", "mode", "seed", *NUMBERS, "best_epoch"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()} for row in rows)


def draw(lines: Sequence[Row], path: Path) -> None:
    """What each mode gains over no sharing, with its interval, setting by setting."""
    from matplotlib.figure import Figure

    shown = [line for line in lines if "gain" in line]
    settings = list(dict.fromkeys(line["setting"] for line in shown))
    figure = Figure(figsize=(3.1 * max(len(settings), 1), 2.6), dpi=130, layout="constrained")
    for axes, setting in zip(
        figure.subplots(1, len(settings), sharex=True, sharey=True, squeeze=False)[0], settings, strict=True
    ):
        own = [line for line in shown if line["setting"] == setting]
        for place, line in enumerate(own):
            axes.errorbar(line["gain"][0], place, xerr=line["gain"][1], fmt="o", color="#2a6f97", capsize=3)
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set_yticks(range(len(own)), [line["mode"] for line in own])
        axes.set_title(setting, loc="left", fontsize=10)
        axes.set_xlabel("R² over none")
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].invert_yaxis()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("overrides", nargs="*", help="further overrides for every run, as trainer.epochs=5")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    study = yaml.safe_load((HERE / "study.yaml").read_text(encoding="utf-8"))
    work = list(jobs(study, arguments.seeds, arguments.overrides))
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in all_rows(work, arguments.processes):
        rows.append(row)
        write(rows, arguments.output / "results.csv")
        print(
            f"{len(rows)} of {len(work)}: {row['setting']}, {row['mode']}, seed {row['seed']}: {row['average']:.3f}", flush=True
        )
    lines = summary(rows)
    said = f"Seeds 0 to {arguments.seeds - 1}, mean ± half of the 95 % interval; `study.yaml` at commit {commit()}."
    said += f" Further overrides: {' '.join(arguments.overrides)}." if arguments.overrides else ""
    table = markdown(lines)
    (arguments.output / "README.md").write_text(f"{ABOUT}\n{said}\n\n{table}\n![]({FIGURE})\n", encoding="utf-8")
    draw(lines, arguments.output / FIGURE)
    print(table)


if __name__ == "__main__":
    main()
