"""Temperature scaling."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mtl_runner import metrics
from mtl_runner.batch import Decision
from mtl_runner.imbalance.base import Adjuster

LOWEST, HIGHEST = 0.01, 100.0
_STEPS = 100


class TemperatureScaling(Adjuster):
    """Probabilities are those of z / T; one T > 0 for each task has the lowest log loss on the validation part.

    The log loss is convex in β = 1 / T: its derivative mean_i(E_p[z_i] - z_i,y), p = softmax(β z_i), is brought to 0 by Newton
    steps in float64, by halving where they leave what is left of the interval 0.01 ≤ T ≤ 100. Predicted classes stay as they
    are. O(N C) a step, about ten of them.

    T stays 1 where it has nothing to learn from: less than two classes among the examples; not one example that the model gets
    wrong, for which the lower T the better; nothing better than T = 1.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Args:
        tasks: limit it to these tasks; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass", "ranking"})

    def __init__(self, *, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks)

    def fit(self, name: str, outputs: Tensor, targets: Tensor, prior: Tensor) -> Decision:
        outputs, labels = outputs.detach().cpu(), targets.long().cpu()
        logits = outputs.double() if outputs.ndim > 1 else functional.pad(outputs.double()[:, None], (1, 0))
        given = logits.gather(1, labels[:, None])[:, 0]
        if len(labels.unique()) < 2 or not logits.isfinite().all() or torch.equal(given, logits.amax(1)):
            return Decision()
        decision = Decision(temperature=1 / _best_beta(logits, given))
        found, default = (_log_loss(each.calibrated(outputs), labels) for each in (decision, Decision()))
        return decision if found < default else Decision()


def _best_beta(logits: Tensor, given: Tensor) -> float:
    """β in [1 / HIGHEST, 1 / LOWEST] where the log loss of β · logits [N, C] is lowest; ``given`` [N] are those of the truth."""
    low, high, beta = 1 / HIGHEST, 1 / LOWEST, 1.0
    for _ in range(_STEPS):
        shares = (beta * logits).softmax(1)
        mean = (shares * logits).sum(1)
        slope = float((mean - given).mean())
        low, high = (low, beta) if slope > 0 else (beta, high)
        curvature = float((shares * (logits - mean[:, None]).square()).sum(1).mean())
        newton = beta - slope / curvature if curvature > 0 else 0.0
        after = newton if low < newton < high else (low * high) ** 0.5
        if abs(after - beta) <= 1e-12 * beta:
            break
        beta = after
    return beta


def _log_loss(logits: Tensor, labels: Tensor) -> float:
    """As it is reported."""
    values = (
        metrics.binary(logits[None], labels[None].float()) if logits.ndim == 1 else metrics.multiclass(logits[None], labels[None])
    )
    return float(values["log_loss"])
