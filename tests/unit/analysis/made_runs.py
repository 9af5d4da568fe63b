"""Run folders with made numbers, as finished runs leave them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_runner.analysis.results import Result, read

Scores = Mapping[str, Mapping[str, float | None]]
KINDS = {"balanced_accuracy": "multiclass", "roc_auc": "binary", "rmse": "regression", "r2": "regression", "mcc": "binary"}

ACCURACY, ERROR = "balanced_accuracy", "rmse"
WORKED = {
    "none": [(0.80, 2.0), (0.75, 2.5), (0.50, 4.0)],
    "hard": [(0.84, 1.8), (0.72, 2.0), (0.55, 5.0)],
}
"""By sharing and seed: accuracy and error. The gains in % are (5, 10), (-4, 20), (10, -25); Δm is 7.5, 8, -7.5."""


def made_run(
    folder: Path,
    scores: Scores,
    choices: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    validation: float | None = 0.5,
    auxiliary: Sequence[str] = (),
    status: Mapping[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A run folder.

    Args:
        scores: test metrics by task, the primary one first.
        choices: options of the groups, beside ``dataset: digits``.
        options: further keys of groups.
        auxiliary: tasks that are not main.
        status: in place of what ``status.json`` says.
        more: top-level keys of the configuration.
    """
    chosen = {"dataset": "digits", "sharing": "hard", "weighting": "equal", "imbalance": "none", **(choices or {})}
    groups: dict[str, Any] = {"dataset": {"split_seed": 0, "fold": None}, "sharing": {}, "weighting": {}, "imbalance": {}}
    for group, keys in (options or {}).items():
        groups[group] = groups.get(group, {}) | dict(keys)
    trainer = {"epochs": 30, "steps": None, "batch_size": 128, "early_stopping": {"patience": 10}}
    config = {"trainer": trainer, **groups, "tracker": {"uri": None}, "name": "made", "seed": seed, "init_from": None, **more}
    targets = {
        task: {"kind": KINDS.get(next(iter(row)), "binary"), "role": "auxiliary" if task in auxiliary else "main"}
        for task, row in scores.items()
    }
    primary = {task: next(iter(row)) for task, row in scores.items()}
    main = [row[primary[task]] for task, row in scores.items() if task not in auxiliary]
    known = [value for value in main if value is not None]
    average = {"primary": sum(known) / len(known)} if known else {}
    line = {"epoch": 1, "step": 9, "time": 1.7e9, "seconds": {"train": 2.0}, "metrics": {"validation/average": 0.5}}
    files = {
        "config.yaml": config,  # JSON is YAML
        "status.json": {
            "state": "finished", "started": "2026-11-21T08:00:00+00:00", "ended": "2026-11-21T08:00:30+00:00", "choices": chosen,
            "overrides": [], "commit": "c0ffee", "version": "0.1.0", "sweep": "runs/2026-11-21/08-00-00",
            "train_seconds": 2.0 + seed, "parameters": 100, "tuned": None, "host": "here", "test_reads": 1, **(status or {}),
        },
        "data.json": {"targets": targets, "fingerprint": f"of {groups['dataset']}",
                      "rows": {"train": {"input": 80}, "validation": {"input": 20}, "test": {"input": 20}}},
        "test_metrics.json": {"tasks": scores, "primary": primary, "average": average, "validation_average": validation},
        "metrics.jsonl": line,
    }  # fmt: skip
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content) + "\n", encoding="utf-8")
    return folder


def worked(home: Path, **validation: float) -> list[Result]:
    """The runs of ``WORKED``."""
    runs = [
        made_run(
            home / f"{sharing}_{seed}",
            {"sort": {ACCURACY: accuracy}, "size": {ERROR: error}},
            {"sharing": sharing},
            seed=seed,
            validation=validation.get(sharing, 0.5),
        )
        for sharing, values in WORKED.items()
        for seed, (accuracy, error) in enumerate(values)
    ]
    return [read(run) for run in runs]


def table(home: Path, values: Mapping[str, Sequence[float | None]], metric: str = ACCURACY, **validation: float) -> list[Result]:
    """Runs of one task ``sort``: by sharing, a value for each seed."""
    runs = [
        made_run(
            home / f"{name}_{seed}", {"sort": {metric: value}}, {"sharing": name}, seed=seed, validation=validation.get(name, 0)
        )
        for name, row in values.items()
        for seed, value in enumerate(row)
    ]
    return [read(run) for run in runs]
