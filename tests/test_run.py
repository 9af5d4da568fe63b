"""A run from end to end: its folder, what it returns, how it ends, and that it can be done again."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import checkpoint, options, same
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from mtl_runner import run
from mtl_runner.errors import UserError
from mtl_runner.folder import Origin
from mtl_runner.trainer import Trainer

Train = Callable[..., Path]
FILES = {
    "config.yaml", "data.json", "status.json", "metrics.jsonl", "test_metrics.json", "confusion.json", "curves.json",
    "labels.csv", "weights.safetensors", "run.log", "checkpoints/last.pt", "checkpoints/best.pt",
}  # fmt: skip


def each_sharing(*quick: str) -> pytest.MarkDecorator:
    """All modes, of which only the ``quick`` are in the quick suite."""
    return pytest.mark.parametrize(
        "sharing", [pytest.param(mode, marks=[] if mode in quick else pytest.mark.slow) for mode in options("sharing")]
    )


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(text)["metrics"] for text in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("figures_too")
def test_the_folder_holds_everything(train: Train) -> None:
    folder = train("encoder.dropout=0.1", choices={"sharing": "hard"})
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    figures = {name for name in found if name.startswith("figures/")}
    assert found - figures == FILES
    each = {
        f"figures/{kind}_{task}.png" for kind in ("confusion", "reliability", "precision_recall") for task in ("digit", "parity")
    }
    assert {"figures/learning_curves.png", "figures/labels.png"} | each == figures
    status = read(folder, "status.json")
    assert status["state"] == "finished" and status["error"] is None and status["epoch"] == 2
    assert status["started"] <= status["ended"] and status["choices"] == {"sharing": "hard"}
    best = checkpoint(folder, "best")
    weights = load_file(folder / "weights.safetensors")
    assert same(weights, {name: value for name, value in best.items() if name in weights})
    assert [name for name in best if name not in weights] == [name for name in best if name.endswith("_extra_state")] != []
    matrix = read(folder, "confusion.json")["digit"]
    correct = sum(matrix["matrix"][i][i] for i in range(10)) / sum(map(sum, matrix["matrix"]))
    assert correct == pytest.approx(read(folder, "test_metrics.json")["tasks"]["digit"]["accuracy"])


def test_the_default_model_learns(train: Train) -> None:
    results = read(train("encoder.hidden=[64,32]", "trainer.epochs=15", "optimizer.lr=5.0e-3"), "test_metrics.json")["tasks"]
    assert results["digit"]["accuracy"] > 0.9 and results["parity"]["roc_auc"] > 0.95 and results["reconstruction"]["r2"] > 0.3


@each_sharing("none", "hard", "soft", "clustered")
def test_the_value_is_the_validation_average_of_the_best_weights(
    sharing: str, make_config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl_runner.figures.draw", lambda folder: None)
    config = make_config(f"sharing={sharing}", "optimizer.lr=0.03", "trainer.epochs=5", "dataset.tasks.parity.role=auxiliary")
    value = run.run(config, tmp_path, Origin({}))
    lines = history(tmp_path)
    assert value == read(tmp_path, "test_metrics.json")["validation_average"]
    primary = {task: f"validation/{task}/{name}" for task, name in read(tmp_path, "test_metrics.json")["primary"].items()}
    if sharing == "none":
        best = [max(line[primary[task]] for line in lines) for task in ("digit", "reconstruction")]
        assert value == pytest.approx(sum(best) / 2)
    else:
        assert value == pytest.approx(max(line["validation/average"] for line in lines))
    epochs = read(tmp_path, "test_metrics.json")["best_epoch"]
    assert epochs.keys() == ({"digit", "parity", "reconstruction"} if sharing == "none" else {",".join(_order(tmp_path))})


def _order(folder: Path) -> list[str]:
    """The tasks in the order of their groups: here one of each kind."""
    return list(read(folder, "data.json")["targets"])


@each_sharing("none", "hard", "soft", "clustered", "ltb", "ple")
def test_a_run_can_be_repeated_from_its_own_configuration(sharing: str, train: Train, tmp_path: Path) -> None:
    first = train(f"sharing={sharing}", "encoder.dropout=0.2", "imbalance=[oversample,focal]", "seed=3")
    torch.rand(7)  # what else was drawn in the process plays no part
    run.run(OmegaConf.load(first / "config.yaml"), tmp_path, Origin({}))
    assert history(first) == history(tmp_path)
    states = [checkpoint(folder, "last") for folder in (first, tmp_path)]
    assert same(*[{key: value for key, value in state.items() if key != "torch_rng"} for state in states])
    assert (first / "test_metrics.json").read_bytes() == (tmp_path / "test_metrics.json").read_bytes()


def test_seed_and_split_seed_move_their_own_things(train: Train) -> None:
    base, seed, split = (train("trainer.epochs=1", *more) for more in ([], ["seed=1"], ["dataset.split_seed=1"]))
    prints = [read(folder, "data.json")["fingerprint"] for folder in (base, seed, split)]
    assert prints[0] == prints[1] != prints[2]
    assert not same(checkpoint(base, "best"), checkpoint(seed, "best"))


def test_the_random_state_of_the_process_is_left_alone(train: Train) -> None:
    before = torch.get_rng_state()
    train("encoder.dropout=0.5", "imbalance=oversample")
    assert torch.equal(before, torch.get_rng_state())


def test_deterministic_algorithms_are_only_used_when_asked_for(train: Train) -> None:
    train("trainer.deterministic=true", "encoder=cnn", "trainer.epochs=1")
    assert torch.are_deterministic_algorithms_enabled()
    train("trainer.epochs=1")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("dataset.only=[digits]", "did you mean 'digit'"),
        ("imbalance.focal.tasks=[digits]", "digits"),
        ("trainer.early_stopping.monitor=averag", "did you mean 'average'"),
        ("dataset.tasks.digit.metric=acuracy", "did you mean 'accuracy'"),
        ("weighting.weights={digits:1}", "did you mean 'digit'"),
        ("trainer.device=cuda:99", "trainer.device=cuda:99"),
    ],
)
def test_a_mistake_leaves_nothing_but_the_log(wrong: str, message: str, train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    with pytest.raises(UserError, match=message) as refused:
        train("imbalance=focal", "weighting=static", wrong, folder=folder)
    assert {path.name for path in folder.iterdir()} <= {"run.log"} and len(str(refused.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("problem", "state", "said"),
    [(KeyboardInterrupt(), "interrupted", None), (RuntimeError("boom"), "failed", "RuntimeError: boom")],
)
def test_however_it_ends_the_folder_says_so(
    problem: BaseException, state: str, said: str | None, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Trainer) -> dict[str, float]:
        raise problem

    monkeypatch.setattr(Trainer, "validate", broken)
    with pytest.raises(type(problem)):
        train(folder=tmp_path / "run")
    status = read(tmp_path / "run", "status.json")
    assert (status["state"], status["error"], status["epoch"]) == (state, said, 0)
    assert status["ended"] and (tmp_path / "run" / "checkpoints" / "last.pt").exists()


def test_what_is_odd_about_the_data_is_said_once(train: Train) -> None:
    folder = train("dataset=synthetic", "dataset.missing=[1,0,0,0]", "dataset.missing_parts=[train,validation,test]")
    log = (folder / "run.log").read_text()
    assert (
        log.count("task_0 has no label in train, validation, test: it is neither trained nor measured")
        == log.count("task_0")
        == 1
    )
    assert "train/task_0/loss" not in history(folder)[-1] and math.isfinite(history(folder)[-1]["validation/average"])


@pytest.mark.parametrize("mode", ["sharing=hard", "sharing=none", "sharing=soft sharing.to=center"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_run_starts_from_the_shared_part_of_another(mode: str, frozen: bool, train: Train) -> None:
    """With dropout and batch norm, whose states are no weights; a frozen part is as it was to the last bit."""
    encoder = ["encoder=cnn", "encoder.channels=[3,4]", "encoder.width=8", "encoder.dropout=0.2"]
    first = train(*encoder, "dataset.only=[digit]")
    later = train(*encoder, *mode.split(), f"init_from={{run: {first}, frozen: {frozen}}}", "seed=1")
    source = {name.removeprefix("sharing.encoder."): value for name, value in checkpoint(first, "best").items()}
    places = {"networks.0.": "encoder.", "stacks.0.stages.": "encoder.stages.", "parts.0.": ""}  # that of the first task
    kept = {name: value for name, value in checkpoint(later, "last")["model"].items() if name.startswith("sharing.")}
    compared = 0
    for name, value in kept.items():
        own = name
        for here, there in places.items():
            own = own.replace(here, there)
        own = own.removeprefix("sharing.encoder.")
        if own in source and not own.endswith("_extra_state") and value.dtype.is_floating_point:
            assert torch.equal(value, source[own]) == frozen, name
            compared += 1
    assert compared == 14


def test_the_validation_average_is_that_of_the_decisions_in_use(train: Train) -> None:
    """Also where a network had stopped early, in the first phase or in the second."""
    small = (
        "dataset.only=[digit,parity]",
        "dataset.tasks.digit.role=auxiliary",
        "dataset.long_tail=50",
        "dataset.tasks.parity.metric=balanced_accuracy",
    )
    phases = ("sharing=none", "trainer.epochs=6", "trainer.early_stopping.patience=1", "encoder=mlp")
    averages = {}
    for name in ("temperature", "threshold"):
        later = (f"imbalance=[classifier_retraining,{name}]", "imbalance.classifier_retraining.epochs=12")
        folder = train(*small, *phases, *later)
        assert (folder / "run.log").read_text().count("stopped early") == 2  # parity, in both phases
        averages[name] = read(folder, "test_metrics.json")["validation_average"]
    assert averages["threshold"] > averages["temperature"] + 0.02


@pytest.mark.parametrize(("sharing", "imbalance"), [("none", "class_weights"), ("hard", "[class_weights,classifier_retraining]")])
def test_weights_of_one_task_are_no_error_in_a_network_without_it(sharing: str, imbalance: str, train: Train) -> None:
    limit = ["imbalance.classifier_retraining.tasks=[digit]"] if "retraining" in imbalance else []
    folder = train(f"sharing={sharing}", f"imbalance={imbalance}", "imbalance.class_weights.values={parity:[1,2]}", *limit)
    assert read(folder, "status.json")["state"] == "finished"


def test_a_resumed_run_keeps_the_primary_metric_that_it_began_with(train: Train) -> None:
    """That of a version before the rule for rare classes, say."""
    folder = train("dataset=synthetic", "dataset.positive_share=0.1", "trainer.epochs=2")
    assert set(read(folder, "test_metrics.json")["primary"].values()) == {"average_precision"}
    known = read(folder, "data.json")
    for spec in known["targets"].values():
        spec["metric"] = None
    (folder / "data.json").write_text(json.dumps(known))
    assert read(folder, "status.json")["test_reads"] == 1
    run.resume(folder, epochs=3)
    assert set(read(folder, "test_metrics.json")["primary"].values()) == {"roc_auc"}
    assert read(folder, "status.json")["test_reads"] == 2, "a comparison says so"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("imbalance=oversample",), "note: 363 training rows become 1,097 an epoch\n"),
        (("imbalance=oversample", "sharing=none"), "an epoch, those of 3 networks together\n"),
        (("imbalance=remedial", "dataset.only=[parity]"), "note: resampling finds nothing to change in the training rows\n"),
        (("imbalance=joint_sampling",), None),
        (("imbalance=balanced_batches",), None),
        (("imbalance=none",), None),
    ],
)
def test_what_becomes_of_the_training_rows_is_said(options: tuple[str, ...], said: str | None, train: Train) -> None:
    log = (train(*options, "dataset.long_tail=20", "trainer.epochs=1") / "run.log").read_text()
    assert ("training rows" in log) == (said is not None) and (said or "") in log


def test_another_run_may_begin_when_training_is_over(
    make_config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the test part is read, and before pictures."""
    monkeypatch.setattr("mtl_runner.outcome._leaves_room", lambda: True)
    monkeypatch.setattr("mtl_runner.figures.draw", lambda folder: None)
    there: list[tuple[bool, bool]] = []
    files = tmp_path / "metrics.jsonl", tmp_path / "test_metrics.json"
    run.run(make_config(), tmp_path, Origin({}), trained=lambda: there.append((files[0].exists(), files[1].exists())))
    assert there == [(True, False)] and files[1].exists()
