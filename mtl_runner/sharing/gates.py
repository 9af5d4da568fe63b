"""Gates of mixtures of experts: how much each expert counts for each task.

Shape legend: T tasks, N examples, E experts, W the width of what a gate reads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtl_runner.encoders.stacked import Rows, chosen
from mtl_runner.sharing.base import Table


class Gates(nn.Module):
    """softmax(W_t x), the weights of E experts for each of T tasks; no bias.

    Args:
        tasks: T.
        experts: E.
        width: W.
    """

    def __init__(self, tasks: int, experts: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(uniform((tasks, experts, width), width**-0.5))

    def forward(self, x: Tensor, apart: bool = False, rows: Rows = None) -> Tensor:
        """[T, N, E] from x [N, W], or, ``apart``, [T, N, W]."""
        logits = linear(x, chosen(self.weight, rows), apart)
        return torch.softmax(logits, -1, dtype=torch.float32)


def uniform(shape: Sequence[int], bound: float) -> Tensor:
    """Between -bound and bound."""
    return torch.empty(*shape).uniform_(-bound, bound)


def linear(x: Tensor, weight: Tensor, apart: bool) -> Tensor:
    """[T, N, outputs] from weight [T, outputs, W] and x [N, W], or, ``apart``, [T, N, W]."""
    if apart:
        return x @ weight.mT
    flat: Tensor = nn.functional.linear(x, weight.flatten(0, 1))
    return flat.view(-1, *weight.shape[:2]).transpose(0, 1)


def mix(weights: Tensor, outputs: Tensor, apart: bool = False) -> Tensor:
    """Σ_e w_te y_e, [T, N, …].

    Args:
        weights: [T, N, E], or [T, E] where they are the same for all examples.
        outputs: [E, N, …] of experts that all tasks read, or, ``apart``, [T, E, N, …].
        apart: see ``outputs``.
    """
    examples = "n" if weights.ndim == 3 else ""
    tasks = "t" if apart else ""
    return torch.einsum(f"t{examples}e,{tasks}e{examples}...->t{examples}...", weights.to(outputs.dtype), outputs)


class Importance(nn.Module):
    """How much each of T tasks uses each of E experts: the mean of its gate's weights over the last epoch's training examples.

    Args:
        tasks: T.
        experts: E.
    """

    total: Tensor
    examples: Tensor

    def __init__(self, tasks: int, experts: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(tasks, experts))
        self.register_buffer("examples", torch.zeros(tasks))

    def reset(self) -> None:
        self.total.zero_()
        self.examples.zero_()

    def add(self, weights: Tensor, rows: Rows = None) -> None:
        """Count ``weights`` [T, N, E] or [T, E] of the tasks in ``rows``, in training only."""
        if not self.training:
            return
        values = weights.detach().view(len(weights), -1, weights.shape[-1])
        fine = values.isfinite().all(2)  # a step that is skipped, as an input is not finite, leaves no trace
        index = slice(None) if rows is None else list(rows)
        self.total[index] += values.masked_fill(~fine.unsqueeze(2), 0).sum(1)
        self.examples[index] += fine.sum(1)

    def mean(self) -> Tensor:
        """[T, E]; NaN before the first epoch."""
        return self.total / self.examples.unsqueeze(1)

    def figures(self, name: str, tasks: Sequence[str]) -> dict[str, float]:
        """CV² for each task, as ``<name>/<task>``: the variance of the weights over the experts divided by their squared mean.

        It is 0 where a task uses all experts the same, and E - 1 where it uses one alone. Shazeer et al., "Outrageously large
        neural networks", ICLR 2017, Section 4, there summed over the examples of a batch and not over those of an epoch.
        """
        means = self.mean()
        values = (means.var(1, correction=0) / means.mean(1).square()).tolist()
        return {f"{name}/{task}": value for task, value in zip(tasks, values, strict=True) if value == value}

    def table(self, title: str, tasks: Sequence[str], experts: Sequence[str]) -> Table:
        return Table(title, tuple(tasks), tuple(experts), self.mean())
