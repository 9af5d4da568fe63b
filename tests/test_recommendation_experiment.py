"""``experiments/recommendation.yaml`` beats what is learned from the same inputs without the products of users and items."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from mtl_runner.batch import Split
from mtl_runner.config import plug

EXPERIMENT = Path(__file__).resolve().parents[1] / "experiments" / "recommendation.yaml"


def overrides(experiment: Path = EXPERIMENT) -> list[str]:
    """The experiment's values as they would be typed."""
    values = yaml.safe_load(experiment.read_text())
    chosen = [
        f"{key.removeprefix('override').strip(' /')}={value}"
        for line in values.pop("defaults")[1:-1]
        for key, value in line.items()
    ]
    flat = {f"{group}.{key}": value for group, keys in values.items() if group != "name" for key, value in keys.items()}
    return chosen + [f"{key}={json.dumps(value)}".replace(chr(34), "") for key, value in flat.items()]


def table(split: Split, encoder: OneHotEncoder) -> Any:
    """Each category's own column, and the numbers."""
    fields = split.inputs["input"]
    return sparse.hstack([encoder.transform(fields["categorical"].numpy()), sparse.csr_matrix(fields["numeric"].numpy())]).tocsr()


@pytest.mark.slow
def test_it_beats_linear_models_and_the_mean_of_an_item(
    make_config: Callable[..., DictConfig], train: Callable[..., Path]
) -> None:
    typed = overrides()
    found = json.loads((train(*typed) / "test_metrics.json").read_text())["tasks"]
    node: Any = OmegaConf.to_container(make_config(*typed).dataset)
    data = plug(node, "dataset")().load()
    training, test = data.splits["train"], data.splits["test"]
    encoder = OneHotEncoder(handle_unknown="ignore").fit(training.inputs["input"]["categorical"].numpy())
    x, new = table(training, encoder), table(test, encoder)
    for task, margin in (("click", 0.04), ("purchase", 0.03)):
        linear = LogisticRegression(max_iter=300).fit(x, training.targets[task].numpy()).decision_function(new)
        assert found[task]["roc_auc"] > roc_auc_score(test.targets[task].numpy(), linear) + margin

    stars, truth = training.targets["rating"].numpy(), test.targets["rating"].numpy()
    rated, tested = ~np.isnan(stars), ~np.isnan(truth)
    items, shown = (split.inputs["input"]["categorical"][:, 1].numpy() for split in (training, test))
    means = [stars[rated & (items == item)].mean() if (rated & (items == item)).any() else 0 for item in range(items.max() + 1)]
    for guess in (np.array(means)[shown], Ridge().fit(x[rated], stars[rated]).predict(new)):
        error = np.sqrt(np.mean((guess - truth)[tested] ** 2)) * data.targets["rating"].scale[0]
        assert found["rating"]["rmse"] < error - 0.03
