"""DSelect-k: a mixture of experts with sparse differentiable gates."""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.encoders.stacked import Rows
from mtl_runner.errors import NotApplicable
from mtl_runner.sharing.base import Boundary, Inputs
from mtl_runner.sharing.experts import MultiGate
from mtl_runner.sharing.selectors import ExampleSelectors, Selectors, StaticSelectors, disorder, unreachable


class DSelectK(MultiGate):
    """``mmoe`` with gates that select at most k of the E experts, and can be differentiated everywhere.

    A selector has a binary code of m = ⌈log₂ E⌉ digits z ∈ ℝᵐ. With the smooth step S(z) = 0 for z ≤ -γ/2, 1 for z ≥ γ/2
    and -2 (z/γ)³ + 3/2 (z/γ) + 1/2 between, its weight of expert e is

        r_e(z) = Π_b S(z_b)^[digit b of e is 1] · (1 - S(z_b))^[it is 0],

    1 for one expert and 0 for the others once all digits are outside (-γ/2, γ/2). Task t has k selectors z_i, weighed
    with α = softmax(a), a ∈ ℝᵏ: its weight of expert e is Σ_i α_i r_e(z_i). The z_i and a are parameters of the task, or,
    with ``per_example``, affine in the vector v(x) that gates read (see ``mmoe``). The paper has both.

    To the objective are added, for each task and selector, λ · entropy of r, which makes codes binary, and, where E is
    not a power of 2, 1 / Σ_e r_e, as codes without an expert would take weight away (until none does, weights sum to less
    than 1); with ``per_example`` the means over the rows of the batch. These act on the gates alone: v(x) is a constant
    in them, other than in the authors' code, so that they are no part of what tasks could conflict over.

    Hazimeh et al., "DSelect-k: Differentiable selection in the mixture of experts with applications to multi-task learning",
    NeurIPS 2021. γ = 1, λ = 1e-6, the initial values (uniform in ±γ/100 for codes, ±0.05 for a) and the 1e-6 in the
    logarithm are those of the authors' code, whose entropy term is off unless asked for; Σ_e r_e gets 1e-6 too, so that the
    penalty stays finite. With so small a λ it is the tasks' losses that make codes binary, if anything does.
    ``importance_cv2`` and the table ``gates`` are those of ``mmoe``.

    Cost: that of ``mmoe``; experts of weight 0 are computed too.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        experts: E.
        k: number of selectors of a gate, at most E.
        gamma: γ, the width of the smooth step.
        entropy: λ.
        per_example: whether gates look at the example; else a task weighs the experts the same for all.
        shared_stages: proportion of the encoder's stages that all experts have in common, rounded to whole stages.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        experts: Annotated[int, Ge(2)] = 4,
        k: Annotated[int, Ge(1)] = 2,
        gamma: Annotated[float, Gt(0)] = 1.0,
        entropy: Annotated[float, Ge(0)] = 1e-6,
        per_example: bool = True,
        shared_stages: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        if k > experts:
            raise NotApplicable(f"sharing.k={k}: there are {experts} experts to select from (sharing.experts)")
        super().__init__(encoder, streams, experts, shared_stages)
        self.entropy = entropy
        kind = ExampleSelectors if per_example else StaticSelectors
        self.gates: Selectors = kind(len(streams), experts, k, gamma, self.vector.width)
        self.full = experts == 2 ** self.gates.codes.shape[1]
        self._read: dict[str, Tensor] = {}

    def weights(self, x: Tensor, apart: bool, rows: Rows) -> Tensor:
        return self.gates(x, apart, rows)  # type: ignore[no-any-return]

    def trunk(self, inputs: Inputs) -> Boundary:
        boundary = super().trunk(inputs)
        if self.training:
            self._read = {stream: x.detach().float() for stream, x in zip(self.order, boundary[1::2], strict=True)}
        return boundary

    def penalty(self) -> Tensor | None:
        """From what the gates read in the last training pass, as its graph is gone by now."""
        if not self._read or (self.full and not self.entropy):
            return None
        terms = []
        for stream, x in self._read.items():
            rows = self.rows([task for task in self.tasks if self.streams[task] == stream])
            r = self.gates.selected(x, rows)
            values = self.entropy * disorder(r) if self.entropy else torch.zeros(())
            terms.append((values if self.full else values + unreachable(r)).mean(1).sum())
        return torch.stack(terms).sum()
