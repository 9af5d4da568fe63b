"""MLflow's page as a person sees it: `mtl ui` in a browser, with a sweep's runs in it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import pytest
from chromium import chromium

from mtl_runner.tracking import sync
from mtl_runner.tracking.session import _experiment

CONFIG = """\
dataset: {_target_: mtl_runner.datasets.digits.Digits}
tracker: {_target_: mtl_runner.tracking.mlflow_tracker.MlflowTracker, uri: null}
name: a study
"""
METRICS = ("train/digit/loss", "validation/digit/accuracy")


def tracked(folder: Path, sweep: str, seed: int) -> str:
    """A finished job of a sweep, made by hand, in MLflow; its identifier there."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"{CONFIG}seed: {seed}\n")
    choices = {"dataset": "digits", "encoder": "mlp", "sharing": "hard", "weighting": "equal"}
    status = {"state": "finished", "started": "2026-11-21T08:00:00+00:00", "ended": "2026-11-21T08:00:30+00:00", "epoch": 3}
    more = {
        "error": None,
        "choices": choices,
        "overrides": [f"seed={seed}"],
        "sweep": f"runs/2026-11-21/{sweep}",
        "name": "a study",
    }
    (folder / "status.json").write_text(json.dumps({**status, **more}))
    lines = [
        {"epoch": epoch, "step": epoch, "time": 1.7e9 + epoch, "metrics": dict.fromkeys(METRICS, seed + 1 / epoch)}
        for epoch in (1, 2, 3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return sync(folder)


@contextmanager
def served() -> Iterator[str]:
    """The address that `mtl ui` prints for the experiment."""
    command = [sys.executable, "-c", "from mtl_runner.cli import app_main; app_main()", "ui"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as page:
        try:
            assert page.stdout is not None
            lines = [page.stdout.readline() for _ in range(2)]
            address = re.fullmatch(r"  a study: (http://\S+)\n", lines[1])
            assert address, lines
            yield address[1]
        finally:
            os.kill(page.pid, signal.SIGINT)
            page.wait(30)


LINKS = """
[...document.querySelectorAll('a[href*="/runs/"]')]
    .map(link => [link.href.match(/runs\\/([0-9a-f]{32})/)[1], link.innerText, link.getBoundingClientRect().left])
"""
"""Of each run that a page lists: identifier, name, and how far it is from the left edge."""
CURVES = """
[...document.querySelectorAll('.js-plotly-plot')]
    .flatMap(plot => plot.data ?? []).filter(curve => curve.metricKey).map(curve => [curve.uuid, curve.metricKey, curve.y])
"""
"""Of each curve that is drawn: its run, its metric, and its values."""
AXES = "document.querySelector('.js-plotly-plot')?.data?.[0]?.dimensions?.map(axis => [axis.label, axis.values])"
"""Of a plot of parallel coordinates."""


@pytest.mark.slow
def test_a_sweep_in_mlflows_page(folder: Path) -> None:
    """From the address that is printed to the sweep's runs, one below the other, and to the curves of exactly some of them."""
    with chromium(folder / "profile") as page:
        runs = [tracked(folder / "runs" / "1" / str(seed), "08-00-00", seed) for seed in range(3)]
        other = tracked(folder / "runs" / "2" / "0", "09-00-00", 7)
        with served() as address:
            page.open(address)
            page.wait("document.body.innerText.includes('4 matching runs')")
            names, edges = {}, set()
            for run, name, left in page.wait(LINKS):
                names[run] = name
                edges.add(left)
            assert names == {
                run: f"digits-mlp-hard-equal seed={seed}" for run, seed in zip([*runs, other], (0, 1, 2, 7), strict=True)
            }
            assert len(edges) == 1, "some runs are indented: they are below another"

            some = quote(f"attributes.run_id IN ({', '.join(map(repr, runs))})")
            page.open(f"{address}&compareRunsMode=CHART&searchFilter={some}")
            page.wait("document.body.innerText.includes('3 matching runs')")
            page.wait(f"new Set(({CURVES}).map(([run, metric]) => run + metric)).size == {len(runs) * len(METRICS)}")
            drawn = {(run, metric): values for run, metric, values in page.value(CURVES)}
            for seed, run in enumerate(runs):
                for metric in METRICS:
                    assert drawn.pop((run, metric)) == pytest.approx([seed + 1, seed + 1 / 2, seed + 1 / 3])
            assert not drawn

            lists = {"runs": runs, "experiments": ["1"]}
            compared = "&".join(f"{name}={quote(json.dumps(ids))}" for name, ids in lists.items())
            page.open(f"{address.partition('/#')[0]}/#/compare-runs?{compared}")
            page.wait("document.body.innerText.includes('Comparing 3 Runs')")
            axes = dict(page.wait(AXES))
            assert sorted(axes["train/digit/loss"]) == pytest.approx([1 / 3, 4 / 3, 7 / 3])
            assert {run for run, *_ in page.value(LINKS)} == set(runs)
            assert not page.errors


class Experiments:
    """What is asked of MLflow's client."""

    def __init__(self, tags: dict[str, str] | None) -> None:
        self.tags = tags

    def get_experiment_by_name(self, name: str) -> Any:
        return None if self.tags is None else SimpleNamespace(tags=self.tags, lifecycle_stage="active", experiment_id="7")

    def create_experiment(self, name: str, artifact_location: str | None, tags: dict[str, str]) -> str:
        self.tags = tags
        return "7"

    def set_experiment_tag(self, number: str, key: str, value: str) -> None:
        assert number == "7" and self.tags is not None
        self.tags[key] = value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "custom_model_development"),
        ({}, "custom_model_development"),
        ({"mlflow.experimentKind": "no_inferred_type"}, "custom_model_development"),
        ({"mlflow.experimentKind": "genai_development"}, "genai_development"),
    ],
)
def test_an_experiment_is_one_of_training(before: dict[str, str] | None, after: str) -> None:
    """A new one, and one that is there already, unless somebody has said that it is another."""
    client = Experiments(before)
    assert _experiment(cast(Any, client), "a study", None) == "7"
    assert client.tags == {"mlflow.experimentKind": after}
