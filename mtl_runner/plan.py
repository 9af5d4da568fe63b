"""How long to train, and how far training has come."""

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class Plan:
    """How long and how to train; see ``conf/trainer/default.yaml``."""

    epochs: int
    steps: int | None
    monitor: str
    l1: float
    precision: str
    eval_batch_size: int
    max_skipped: int
    log_gradients_every: int | None
    start: int = 0
    """Epochs before the first one that the plan is for."""


@dataclass
class Progress:
    """Where the training of a network stands; part of the checkpoint."""

    epoch: int = 0
    step: int = 0
    skipped: int = 0
    """Steps that were not taken, as a loss was not finite."""
    skipped_in_a_row: int = 0


def planned_epochs(epochs: int | None, steps: int | None, steps_per_epoch: int) -> int:
    """The budget in epochs; a budget in steps takes as many epochs as it begins."""
    if steps is not None:
        return ceil(steps / steps_per_epoch)
    assert epochs is not None  # one of the two is given: the configuration was checked
    return epochs
