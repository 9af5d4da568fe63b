"""What a method remembers of the tasks' gradients."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """A matrix [T, P] that is carried from step to step; P is known at the first step only.

    It is part of the state dict, with the grouping of the tasks that it belongs to, and moves to the device of the gradients
    when they come.
    """

    steps: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.rows: Tensor | None = None
        self.grouping: tuple[str, ...] | None = None
        self.register_buffer("steps", torch.zeros(count, dtype=torch.long))

    def regroup(self, grouping: tuple[str, ...]) -> None:
        """Forget all where tasks are grouped in another way than before: the rows' entries are other parameters' then."""
        if self.grouping not in (None, grouping):
            self.rows = None
        self.grouping = grouping

    def begin(self, jacobian: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """The rows so far, to be changed in place, and in how many steps each task was active, [T], this one included.

        Both start at zero, and anew where what is shared has changed.
        """
        if self.rows is None or self.rows.shape != jacobian.shape:
            self.rows = torch.zeros_like(jacobian)
            self.steps.zero_()
        self.rows = self.rows.to(jacobian)
        self.steps += active
        return self.rows, self.steps

    def average(self, jacobian: Tensor, active: Tensor, rates: Tensor) -> Tensor:
        """Each active row goes ``rates`` [T] of the way to its gradient; in the first step that counted it all the way."""
        assert self.rows is not None
        rates = rates.masked_fill(self.steps == 1, 1).masked_fill(~active, 0)
        return self.rows.lerp_(jacobian, rates.to(jacobian)[:, None])

    def get_extra_state(self) -> dict[str, Any]:
        return {"rows": self.rows, "grouping": self.grouping}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.rows = None if state["rows"] is None else state["rows"].clone()
        self.grouping = state.get("grouping")  # the first checkpoints had none
