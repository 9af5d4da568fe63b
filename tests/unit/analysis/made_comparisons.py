"""Comparisons of any size with made numbers."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mtl_runner.analysis.compare import compare
from mtl_runner.analysis.comparison import Comparison, Finding
from mtl_runner.analysis.results import Result

SHARINGS = ("hard", "soft", "mmoe", "cross_stitch", "mtan")
WEIGHTINGS = ("equal", "dynamic", "nash_mtl", "uncertainty", "dwa", "famo")


def history(rng: np.random.Generator, tasks: Sequence[str], epochs: int, moving: bool) -> tuple[dict[str, Any], ...]:
    """Saturating validation averages, and weights that drift or stay."""
    level, speed = rng.normal(0.8, 0.02), rng.uniform(2, 6)
    drift = np.cumsum(rng.normal(0, 0.05, (epochs, len(tasks))), axis=0) if moving else np.zeros((epochs, len(tasks)))
    return tuple(
        {
            "epoch": epoch + 1,
            "metrics": {
                "validation/average": float(level * (1 - np.exp(-(epoch + 1) / speed)) + rng.normal(0, 0.004)),
                **{f"weight/{task}": float(np.exp(drift[epoch, place])) for place, task in enumerate(tasks)},
            },
        }
        for epoch in range(epochs)
    )


@cache
def made(
    groups: int = 4,
    tasks: int | tuple[str, ...] = 3,
    seeds: int = 5,
    baseline: bool = True,
    metric: str = "roc_auc",
    title: str = "sharing × weighting on adult",
) -> Comparison:
    """The first group is the baseline, where there is one; weights move where the weighting is not ``equal``."""
    rng = np.random.default_rng(7)
    labels = [f"task_{place}" for place in range(tasks)] if isinstance(tasks, int) else list(tasks)
    pairs = [(sharing, weighting) for weighting, sharing in product(WEIGHTINGS, SHARINGS)]
    settings = ([("none", "equal")] if baseline else []) + pairs
    level, seed = rng.uniform(0.6, 0.9, len(labels)), rng.normal(0, 0.01, (seeds, len(labels)))
    runs: list[Result] = []
    for place, (sharing, weighting) in enumerate(settings[:groups]):
        values = level + rng.normal(0, 0.015, len(labels)) + seed + rng.normal(0, 0.004, (seeds, len(labels)))
        runs += [
            Result(
                id=f"{place:04x}{s:028x}",
                folder=Path(f"runs/2026-11-21/10-00-00/{place}_{s}"),
                settings={"sharing": sharing, "weighting": weighting, "trainer.epochs": "30"},
                seed=s,
                split="split_seed=0",
                scores={label: {metric: float(values[s, t])} for t, label in enumerate(labels)},
                primary=dict.fromkeys(labels, metric),
                average=float(values[s].mean()),
                seconds=12.5 + place + s,
                parameters=12_345.0 * (1 + place),
                history=history(rng, labels, 12 - s % 2, weighting != "equal"),
                validation=float(values[s].mean()),
            )
            for s in range(seeds)
        ]
    findings = (
        Finding(True, "data: one split, with the same rows in every group (by fingerprint)"),
        Finding(False, "search: not the same in all groups: the baseline was not tuned, others were: trials 0 (none), 20 (soft)"),
    )
    address = "http://127.0.0.1:5000/#/compare-runs?runs=[%22a%22,%22b%22]&experiments=[%221%22]"
    return replace(compare(runs, title), findings=findings, mlflow=address)
