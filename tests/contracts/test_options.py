"""Every option in ``conf/`` runs with its defaults on digits, or stands on a short list of refusals with the reason."""

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from handmade import TASKS, made, options, trainer_on, training_on
from omegaconf import DictConfig, OmegaConf

from mtl_runner.build import check_combination
from mtl_runner.config import GROUPS, check, config_dir, plug
from mtl_runner.config.schema import plain
from mtl_runner.errors import UserError

REFUSED = {
    "dataset=table": ("the user names the file and the tasks", "dataset.path"),
    "dataset=adult": ("a file that is not in the package", "there is no file"),
    "dataset=ctg": ("a file that is not in the package", "there is no file"),
    "dataset=mi_complications": ("a file that is not in the package", "there is no file"),
    "dataset=parkinsons": ("a file that is not in the package", "there is no file"),
    "dataset=ai4i2020": ("a file that is not in the package", "there is no file"),
    "dataset=tables": ("the user names the files and the tasks", "dataset.tables"),
    "dataset=openml": ("the user names the data set", "dataset=openml needs dataset.name"),
    "dataset=python": ("the user names the function", "dataset.function"),
    "dataset=recsys": ("the user names the file and the tasks", "dataset.path"),
    "dataset=images": ("the user names the file and the tasks", "dataset.path"),
    "dataset=celeba": ("files that are not in the package", "are missing: list_attr_celeba.txt, list_landmarks_align_celeba.txt"),
    "dataset=multi_mnist": ("files that are not in the package", "are missing: train-images-idx3-ubyte.gz"),
    "dataset=office": ("files that are not in the package", "is missing: office-31/"),
    "dataset=movielens": ("files that are not in the package", "are missing: u.data, u.user, u.item"),
    "dataset=census_income": ("files that are not in the package", "are missing: census-income.data.gz"),
    "dataset=aliexpress": ("files that are not in the package", "are missing: train.csv, test.csv"),
    "dataset=dense": ("the user names the folder and the tasks", "dataset.path"),
    "dataset=coco": ("the user names the file and the tasks", "dataset.path"),
    "dataset=nyuv2": ("files that are not in the package", "are missing: train/image/, train/label/"),
    "dataset=cityscapes": ("files that are not in the package", "are missing: train/image/, train/label/"),
    "dataset=shapes": ("outputs at each pixel; an mlp gives a vector for each image", "needs features at the pixels"),
    "dataset=conll": ("the user names the file and the tasks", "dataset.path"),
    "dataset=text": ("the user names the file and the tasks", "either dataset.path and dataset.tasks, or dataset.corpora"),
    "dataset=glue": ("files that are not in the package", "are missing: CoLA/train.tsv, CoLA/dev.tsv"),
    "encoder=ft_transformer": ("a token per column; digits has images", "ft_transformer .*columns|ft_transformer reads"),
    "encoder=embedding": ("a vector per category; digits has images", "embedding reads"),
    "encoder=pretrained": ("the user names the folder", "encoder.path"),
    "imbalance=smote": ("rows of a table; digits has images", "smote works on .*image"),
    "imbalance=borderline_smote": ("rows of a table; digits has images", "borderline_smote works on .*image"),
    "imbalance=adasyn": ("rows of a table; digits has images", "adasyn works on .*image"),
    "imbalance=smote_tomek": ("rows of a table; digits has images", "smote_tomek works on .*image"),
    "imbalance=mlsmote": ("rows of a table; digits has images", "mlsmote works on .*image"),
    "imbalance=density_weights": ("for regression; digits has none", "none of the tasks .* it is for regression"),
}
"""Reviewed: why an option cannot run with its defaults, and words of the message that says so."""

SLOW = {"tracker=mlflow", "encoder=resnet", "encoder=unet", "encoder=transformer"}
NOTHING_SHARED = {"soft", "low_rank", "joint_feature"}
"""Modes whose tasks have no parameter in common, though they train together."""


def looks_at_gradients(option: str) -> bool:
    node = plain(OmegaConf.load(config_dir() / "weighting" / f"{option}.yaml"))
    return plug(node, "weighting").func.needs in ("gramian", "jacobian")  # type: ignore[attr-defined]


EVERY = [f"{group}={option}" for group in (*GROUPS, "trainer") for option in options(group)]
RUNNING = [
    pytest.param(option, marks=pytest.mark.slow) if option in SLOW or option.startswith("weighting=") else option
    for option in EVERY
    if option not in REFUSED
]


def finished(folder: Path) -> None:
    """The run came to its end, and every main task has a finite primary metric."""
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    results = json.loads((folder / "test_metrics.json").read_text())
    assert all(math.isfinite(row[results["primary"][task]]) for task, row in results["tasks"].items())
    assert math.isfinite(results["average"]["primary"])


@pytest.mark.parametrize("option", RUNNING)
def test_every_option_runs_with_its_defaults(
    option: str, make_config: Callable[..., DictConfig], train: Callable[..., Path]
) -> None:
    overrides = [option, "trainer.epochs=1", "trainer.device=cpu", "trainer.progress=false"]
    check(plain(make_config(*overrides)), [])
    finished(train(*overrides))


@pytest.mark.parametrize("option", REFUSED)
def test_a_refusal_is_a_message(option: str, make_config: Callable[..., DictConfig], train: Callable[..., Path]) -> None:
    reason, words = REFUSED[option]

    def start() -> None:
        check(plain(make_config(option)), [])
        train(option)

    with pytest.raises(UserError, match=words) as refused:
        start()
    assert option in EVERY and reason and len(str(refused.value).splitlines()) <= 2


ONE_OF_EACH_KIND = {"equal", "uncertainty", "famo", "gradnorm", "mgda", "imtl", "moco", "modo", "db_mtl"}
"""Weightings that every sharing mode is tried with."""
WITH_ALL = ("hard", "cross_stitch", "ple", "adapters", "ltb")
"""Modes that are tried with all: they differ most in what they share and where."""


@pytest.mark.parametrize(
    ("sharing", "weighting"),
    [
        pytest.param(
            sharing, weighting, marks=[] if sharing == "hard" or weighting in ("uncertainty", "mgda") else pytest.mark.slow
        )
        for sharing, weighting in product(options("sharing"), options("weighting"))
        if sharing in WITH_ALL or weighting in ONE_OF_EACH_KIND
    ],
)
def test_every_sharing_runs_with_every_weighting(sharing: str, weighting: str, make_config: Callable[..., DictConfig]) -> None:
    """But for those that compare gradients of what is shared, where nothing is: that is said before any data are read."""
    chosen = [f"sharing={sharing}", f"weighting={weighting}"]
    if sharing in NOTHING_SHARED and looks_at_gradients(weighting):
        with pytest.raises(
            UserError, match=f"weighting={weighting} compares .* sharing={sharing} has none; sharing=hard has them"
        ):
            check_combination(make_config(*chosen))
    else:
        config = make_config(*chosen, "encoder.hidden=[7,5]", "trainer.batch_size=16")
        check_combination(config)
        last = list(training_on(made(), config).fit())[-1].metrics
        assert all(math.isfinite(last[f"validation/{task}/loss"]) for task in TASKS)


@pytest.mark.parametrize("weighting", [each for each in options("weighting") if looks_at_gradients(each)])
def test_without_any_shared_parameter_weightings_of_gradients_say_so(weighting: str, train: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=f"weighting={weighting} compares .* here none is shared and trained"):
        train(f"weighting={weighting}", "sharing.shared_stages=0")
    finished(train(f"weighting={weighting}", "dataset.only=[digit]", "trainer.epochs=1"))  # a task alone conflicts with nobody


ONE_AT_EACH_PLACE = {"oversample", "balanced_batches", "ldam", "threshold", "mixup", "classifier_retraining"}
"""Imbalance strategies that act in different ways: these are tried with every mode, and all with the modes that differ most."""


@pytest.mark.parametrize(
    ("sharing", "imbalance"),
    [
        pytest.param(
            *(sharing, imbalance),
            marks=[] if sharing in ("none", "soft") and imbalance in ONE_AT_EACH_PLACE else pytest.mark.slow,
        )
        for sharing, imbalance in product(options("sharing"), options("imbalance"))
        if f"imbalance={imbalance}" not in REFUSED and (sharing in ("none", "hard", "soft") or imbalance in ONE_AT_EACH_PLACE)
    ],
)
def test_every_sharing_runs_with_every_imbalance_strategy(sharing: str, imbalance: str, train: Callable[..., Path]) -> None:
    finished(train(f"sharing={sharing}", f"imbalance={imbalance}", "trainer.epochs=1", "dataset.long_tail=20"))


@pytest.mark.parametrize(("optimizer", "scheduler"), [*product(options("optimizer"), options("scheduler"))])
def test_every_optimizer_runs_with_every_scheduler(optimizer: str, scheduler: str, train: Callable[..., Path]) -> None:
    finished(train(f"optimizer={optimizer}", f"scheduler={scheduler}", "trainer.epochs=2"))


def test_precision_bf16_runs(train: Callable[..., Path]) -> None:
    for encoder in ("mlp", "cnn", "rnn"):
        finished(train(f"encoder={encoder}", "trainer.precision=bf16", "trainer.epochs=1"))


@pytest.mark.parametrize("weighting", options("weighting"))
def test_a_step_that_is_not_finite_is_skipped_and_its_task_named(weighting: str, make_config: Callable[..., DictConfig]) -> None:
    """Whether a loss is infinite, or only a gradient is; the weights stay as they were."""
    trainer = trainer_on(made(), make_config(f"weighting={weighting}", "trainer.max_skipped=1"))
    batch = next(trainer.loader.epoch(trainer.training_part(), 1))
    head = next(group.head for group in trainer.groups.values() if "size" in group.names)
    hook = head.weight.register_hook(lambda gradient: gradient * torch.nan)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.train_step(batch)
    assert trainer.progress.skipped == 1
    assert all(torch.equal(one, other) for one, other in zip(before, trainer.model.parameters(), strict=True))
    hook.remove()
    trainer.train_step(batch)
    assert trainer.progress.skipped_in_a_row == 0
    with torch.no_grad():
        head.weight.fill_(torch.inf)
    trainer.train_step(batch)
    with pytest.raises(UserError, match="no finite loss or gradient of size in 2 steps"):
        trainer.train_step(batch)
