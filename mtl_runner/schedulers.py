"""Learning-rate schedules that torch's own do not cover."""

import math
from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Cosine(LRScheduler):
    """Learning rate at epoch e of E: min + ½ (initial - min)(1 + cos(π e / E)); constant after E.

    Loshchilov & Hutter, SGDR, ICLR 2017, without restarts. torch's ``CosineAnnealingLR`` goes from one rate to the next
    and cannot take a new E; this one depends on e and E alone, so that a run that is resumed with a larger budget goes on
    along the longer curve.

    Args:
        optimizer: its ``lr`` is the initial rate.
        epochs: E, the planned number of epochs.
        min_lr: rate at the end.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, *, min_lr: Annotated[float, Ge(0)] = 0.0) -> None:
        self.epochs = epochs
        self.min_lr = min_lr
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        done = min(self.last_epoch / self.epochs, 1)
        return [self.min_lr + (base - self.min_lr) * (1 + math.cos(math.pi * done)) / 2 for base in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "epochs": self.epochs})
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate  # the restored one is that of the shorter curve
