"""``mtl affinity``: its files, the groups that it finds, and what it says of mistakes."""

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sklearn.metrics import adjusted_rand_score
from standins import Command, Jobs

from mtl_runner.affinity import MEASURES, measured, proposed
from mtl_runner.config.schema import plain

SMALL = (
    "dataset=synthetic", "tracker=none", "trainer.progress=false", "trainer.device=cpu", "encoder.hidden=[8]", "trainer.epochs=1",
    "dataset.dimension=8", "dataset.rows=300", "dataset.validation_rows=100", "dataset.test_rows=20",
)  # fmt: skip
METHODS = ("labels", "inputs", "lookahead")
DISJOINT = ("dataset=synthetic", "dataset.n_tasks=6", "dataset.groups=[0,1,0,1,1,0]", "dataset.disjoint=true",
            "dataset.disjoint_parts=[train,validation]", "dataset.dimension=16", "dataset.rows=6000",
            "dataset.validation_rows=3000", "encoder.hidden=[64,32]", "trainer.epochs=4")  # fmt: skip
"""Every row is labelled for one task only, in training and in validation."""


def test_files_and_an_option(mtl: Command, folder: Path) -> None:
    result = mtl("affinity", "--budget", "2", *(f"--method={name}" for name in METHODS), *SMALL)
    assert result.code == 0, result.err
    made = folder / "affinity" / "synthetic"
    assert {path.stem for path in made.glob("*.csv")} == set(METHODS)
    assert {path.stem for path in made.glob("*.png")} == set(METHODS) - {"inputs"}, "all tasks have the same rows"
    (title, *columns), *rows = csv.reader((made / "lookahead.csv").read_text().splitlines())
    assert columns == [row[0] for row in rows] == ["task_0", "task_1", "task_2", "task_3"] and "row on column" in title
    assert "proposed groups" in result.out and "sharing=grouped_by_lookahead" in result.out
    groups = yaml.safe_load((made / "sharing" / "grouped_by_labels.yaml").read_text())["groups"]
    assert groups == [["task_0", "task_1"], ["task_2", "task_3"]]


@pytest.mark.parametrize("own", ["", "-cd 'my own' -cn odd", "-cd 'my own'", "-cd . -cn listed"])
def test_the_printed_line_can_be_used(mtl: Command, mtl_run: Command, jobs: Jobs, folder: Path, own: str) -> None:
    """Where the configuration came from a folder of one's own, too: of two such folders Hydra takes the last."""
    (folder / "my own/encoder").mkdir(parents=True)
    (folder / "my own/encoder/own.yaml").write_text("defaults: [mlp]\n")
    (folder / "my own/odd.yaml").write_text("defaults: [config, {override encoder: own}, _self_]\nname: odd\n")
    place = f"hydra: {{searchpath: ['file://{folder}/my own']}}"
    (folder / "listed.yaml").write_text(f"defaults: [config, {{override encoder: own}}, _self_]\n{place}\n")
    result = mtl("affinity", "--method=labels", "-o", "out put", *shlex.split(own), *SMALL, "sharing=none")
    assert result.code == 0, result.err
    line = shlex.split(result.out.rpartition("train with one of them: ")[2].strip())
    done = mtl_run(*line[1:])
    assert line[0] == "mtl-run" and done.code == 0, done.err
    (call,) = jobs.calls
    assert call["choices"]["sharing"] == "grouped_by_labels" and call["config"]["name"] == (
        "odd" if "odd" in own else "mtl_runner"
    )
    assert set(SMALL) < set(call["overrides"]) and call["choices"]["encoder"] == ("own" if "-cn" in own else "mlp")


@pytest.mark.slow
def test_the_option_runs(mtl: Command, mtl_run: Command, folder: Path) -> None:
    assert mtl("affinity", "--method=labels", *SMALL).code == 0
    done = mtl_run("--config-dir", "affinity/synthetic", "sharing=grouped_by_labels", *SMALL, "hydra.run.dir=run")
    assert done.code == 0, done.err
    assert json.loads((folder / "run/status.json").read_text())["choices"]["sharing"] == "grouped_by_labels"
    clusters = (folder / "run/sharing/clusters.csv").read_text().splitlines()
    assert [line.split(",")[1:] for line in clusters[1:]] == [["1", "0"], ["1", "0"], ["0", "1"], ["0", "1"]]


def test_the_same_seed_gives_the_same_tables(make_config: Callable[..., Any]) -> None:
    node = plain(make_config(*SMALL))
    one, two = ({each.name: each.values for each in measured(node, MEASURES)} for _ in range(2))
    assert list(one) == ["labels", "inputs", "parameters", "representations", "rsa", "gradients", "lookahead"]
    assert all(torch.equal(one[name].nan_to_num(), two[name].nan_to_num()) for name in one)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--method", "gradient"), "did you mean 'gradients'?"),
        (
            ("-m", "dataset=synthetic"),
            "-m is --method here, and takes the name of a measure; without it: mtl affinity dataset=synthetic",
        ),
        (("sharing=sofft",), "did you mean 'soft'?"),
        (("seed=1,2",), "seed=1,2"),
        (("--config-dir", "nowhere"), "nowhere"),
        (("--budget", "0"), "--budget"),
        (("dataset=synthetic", "dataset.n_tasks=1", "dataset.groups=1"), "only one"),
        (("-m", "gradients", *SMALL, "sharing=hard", "sharing.shared_stages=0"), "shared_stages"),
    ],
)
def test_mistakes_are_said_and_leave_nothing(mtl: Command, folder: Path, arguments: tuple[str, ...], said: str) -> None:
    result = mtl("affinity", *arguments)
    assert result.code == 2 and said in result.err and "Traceback" not in result.err
    assert not list(folder.iterdir())


def found(config: Any, names: tuple[str, ...]) -> dict[str, float]:
    """By measure, how well the proposed groups are the planted ones."""
    node = plain(config)
    planted, scores = node["dataset"]["groups"], {}
    for each in measured(node, {name: MEASURES[name] for name in names}):
        groups = proposed(each.values.numpy(), 2)
        labels = [next(number for number, group in enumerate(groups) if task in group) for task in range(len(planted))]
        scores[each.name] = adjusted_rand_score(planted, labels) if each.tells else 0.0
    return scores


def test_groups_are_found_where_labels_cannot(make_config: Callable[..., Any]) -> None:
    scores = found(make_config(*DISJOINT), ("labels", "gradients", "lookahead"))
    assert scores == {"labels": 0, "gradients": 1, "lookahead": 1}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_groups_are_found_by_every_measure_of_networks(make_config: Callable[..., Any], seed: int) -> None:
    names = ("labels", "inputs", "parameters", "representations", "rsa", "gradients", "lookahead")
    scores = found(make_config(*DISJOINT, f"seed={seed}", f"dataset.split_seed={seed}"), names)
    assert scores.pop("labels") == 0 and scores.pop("inputs") < 1
    assert set(scores.values()) == {1.0}, scores
