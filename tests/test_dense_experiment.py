"""``experiments/segmentation_and_depth_on_shapes.yaml`` beats linear models of each pixel's neighbourhood and position."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_recommendation_experiment import overrides
from torch.nn import functional

from mtl_runner.batch import Split
from mtl_runner.datasets.shapes import Shapes
from mtl_runner.metrics import dense

EXPERIMENT = Path(__file__).resolve().parents[1] / "experiments" / "segmentation_and_depth_on_shapes.yaml"
AROUND = 2


def patches(split: Split) -> NDArray[np.float32]:
    """Of each pixel the colours of 5 × 5 around it, and where it is: [N · H · W, 77]."""
    image = split.inputs["input"]["image"]
    size = image.shape[-1]
    padded = functional.pad(image, (AROUND,) * 4, mode="replicate")
    shifts = range(2 * AROUND + 1)
    seen = [padded[:, :, down : down + size, right : right + size] for down in shifts for right in shifts]
    line = torch.linspace(-1, 1, size).expand(len(image), 1, size, size)
    return torch.cat([*seen, line, line.transpose(2, 3)], 1).movedim(1, -1).flatten(0, 2).numpy()


@pytest.mark.slow
def test_it_beats_linear_models_of_pixels(train: Callable[..., Path]) -> None:
    found = json.loads((train(*overrides(EXPERIMENT)) / "test_metrics.json").read_text())["tasks"]
    data: Any = Shapes(only=["segmentation", "depth"]).load()
    training, test = data.splits["train"], data.splits["test"]
    x, new = patches(training), patches(test)
    some = np.random.default_rng(0).choice(len(x), 40_000, replace=False)
    classes, depths = (test.targets[name][None] for name in ("segmentation", "depth"))
    labels = training.targets["segmentation"].flatten().numpy()[some]
    for weights in (None, "balanced"):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, tol=1e-3, class_weight=weights)).fit(
            x[some], labels
        )
        scores = torch.from_numpy(model.decision_function(new)).view(*classes.shape, -1)
        linear = dense.segmentation(dense.segmentation_summary(scores, classes))
        assert found["segmentation"]["miou"] > linear["miou"].item() + 0.1
        assert found["segmentation"]["pixel_accuracy"] > linear["pixel_accuracy"].item() + 0.03
    (scale,) = data.targets["depth"].scale
    ridge = make_pipeline(StandardScaler(), Ridge()).fit(x[some], training.targets["depth"].flatten().numpy()[some])
    guess = torch.from_numpy(ridge.predict(new)).view(depths.shape)
    linear = dense.depth(dense.depth_summary(guess * scale, depths * scale))
    assert found["depth"]["delta_1"] > linear["delta_1"].item() + 0.08
    assert found["depth"]["abs_err"] < linear["abs_err"].item() - 0.1
