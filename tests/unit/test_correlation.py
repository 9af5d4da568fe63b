"""Correlations equal scipy's, whatever is tied, missing or constant, and of several outputs are the mean of theirs."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mtl_runner.batch import TargetSpec
from mtl_runner.metrics.correlation import correlation
from mtl_runner.tasks import make_tasks


def case(seed: int) -> tuple[Tensor, Tensor]:
    """Two tasks of 1 … 3 outputs, tied with every third seed, a third of the labels missing."""
    generator = torch.Generator().manual_seed(seed)
    targets = 2 * torch.randn(2, [3, 30, 500][seed % 3], 1 + seed % 3, generator=generator)
    values = targets + 3 * torch.randn(targets.shape, generator=generator)
    if seed % 2:
        values, targets = values.round(), targets.round()
    return values, targets.masked_fill(torch.rand(targets.shape, generator=generator) < 0.3, math.nan)


def oracle(values: Tensor, targets: Tensor) -> dict[str, float]:
    """Of one task, [N, K]."""
    pairs = [(z[~y.isnan()].double().numpy(), y[~y.isnan()].double().numpy()) for z, y in zip(values.T, targets.T, strict=True)]
    pairs = [(z, y) for z, y in pairs if len(np.unique(y)) > 1]
    if not pairs or any(len(np.unique(z)) == 1 for z, _ in pairs):
        return {"pearson": math.nan, "spearman": math.nan}
    return {name: float(np.mean([getattr(stats, f"{name}r")(z, y)[0] for z, y in pairs])) for name in ("pearson", "spearman")}


@pytest.mark.parametrize("seed", range(30))
def test_both_equal_scipys(seed: int) -> None:
    values, targets = case(seed)
    found = correlation(values, targets)
    for task in range(2):
        assert {name: x[task].item() for name, x in found.items()} == pytest.approx(
            oracle(values[task], targets[task]), abs=1e-12, nan_ok=True
        )
    if values.shape[-1] == 1:
        for name, flat in correlation(values[..., 0], targets[..., 0]).items():
            torch.testing.assert_close(flat, found[name], equal_nan=True)


def test_constant_predictions_have_none_and_an_output_whose_labels_are_constant_is_left_out() -> None:
    rising = torch.arange(999.0)[None, :, None] / 7
    constant = torch.full_like(rising, 0.1)
    for values, targets in ((constant, rising), (rising, constant), (constant, constant), (rising, rising * math.nan)):
        assert all(x.isnan().all() for x in correlation(values, targets).values())
    both = [torch.cat(pair, -1) for pair in ((rising, -rising), (rising, constant))]
    assert {name: x.item() for name, x in correlation(*both).items()} == pytest.approx({"pearson": 1, "spearman": 1})
    assert all(x.isnan().all() for x in correlation(torch.cat([rising, constant], -1), torch.cat([rising, rising], -1)).values())
    cubed = correlation(rising**3, rising)
    assert cubed["spearman"].item() == 1 and cubed["pearson"].item() < 0.95


def test_a_regression_can_be_selected_by_either_and_a_reconstruction_has_none() -> None:
    for metric in ("pearson", "spearman"):
        for loss in ("mse", "gaussian"):
            (task,) = make_tasks({"t": TargetSpec("regression", metric=metric, options={"loss": loss})})
            outputs = torch.randn(1, 20, 2) if loss == "gaussian" else torch.randn(1, 20)
            found = task.evaluate(outputs, outputs[..., 0] if loss == "gaussian" else outputs, [task.spec])
            assert (
                task.primary.name == metric
                and found[metric].item() == pytest.approx(1)
                and {*found} == {each.name for each in task.metrics}
            )
    (task,) = make_tasks({"t": TargetSpec("reconstruction", shape=(3,))})
    values = torch.randn(1, 20, 3)
    assert [*task.evaluate(values, values, [task.spec])] == ["r2", "mae", "rmse"] == [each.name for each in task.metrics]
