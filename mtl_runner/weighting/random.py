"""Random loss weighting (RLW)."""

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from mtl_runner.seeding import Draws
from mtl_runner.weighting.base import DirectWeighting, Options, equal_share


class RLW(DirectWeighting):
    """Σ_t w_t L_t with weights that are drawn anew in every step, for the tasks with labels in the batch.

    Lin, Ye, Zhang & Tsang, Reasonable Effectiveness of Random Weighting, TMLR 2022. ``normal``: w = softmax(z) with
    standard normal z. ``dirichlet``: w ~ Dirichlet(1, …, 1), uniform on the simplex; these weights vary more. Either way the
    mean weight of n tasks is 1 / n: in expectation this is equal weighting.

    Weights sum to 1; heads get them too. One backward pass; no memory.

    Args:
        tasks: names of the tasks.
        distribution: normal or dirichlet.
        options: those of every weighting.
    """

    def __init__(
        self, tasks: Sequence[str], *, distribution: Literal["normal", "dirichlet"] = "normal", **options: Unpack[Options]
    ) -> None:
        super().__init__(tasks, **options)
        self.distribution = distribution
        self.draws_of_weights = Draws()

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """1 / n: the weights are those of a mean."""
        return equal_share(active)

    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        generator = self.draws_of_weights.generator(losses.device)
        if self.distribution == "normal":
            scores = torch.empty_like(losses).normal_(generator=generator)
        else:
            scores = torch.empty_like(losses).exponential_(generator=generator).log_()
        return scores.masked_fill(~active, -torch.inf).softmax(-1).masked_fill(~active, 0)
