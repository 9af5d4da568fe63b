"""What belongs to one network in training: optimizer, clipping, schedule, early stopping, best weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mtl_runner.model import Network


@dataclass
class Stopping:
    """Early stopping on a score of which higher is better."""

    patience: int | None
    min_delta: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0

    def update(self, score: float | None, epoch: int) -> bool:
        """Whether this epoch's weights are to be kept: better than those kept by ``min_delta``, or any while none has a score.

        An epoch without a score, because a metric is undefined or the loss diverged, is never better than one with.
        """
        if score is not None and (self.best is None or score > self.best + self.min_delta):
            self.best, self.best_epoch, self.waited = score, epoch, 0
            return True
        self.waited += 1
        if self.best is None:
            self.best_epoch = epoch
            return True
        return False

    @property
    def done(self) -> bool:
        """Whether the score has not improved for ``patience`` epochs; never where there was no score at all."""
        return self.patience is not None and self.best is not None and self.waited >= self.patience


class Learner:
    """Trains one network. Several of them are independent; where tasks are coupled there is one for all.

    Args:
        network: the part of the model.
        optimizer: over its parameters.
        scheduler: steps once an epoch.
        clip_norm: largest 2-norm of the network's gradient.
        stopping: its early stopping.
    """

    def __init__(
        self, network: Network, optimizer: Optimizer, scheduler: LRScheduler | None, clip_norm: float | None, stopping: Stopping
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.clip_norm = clip_norm
        self.stopping = stopping
        self._parameters = network.parameters()
        self._modules = nn.ModuleList(network.modules)
        self.best = self.weights()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def gradient_norm(self) -> Tensor:
        """The 2-norm of the network's gradient, as ``torch.nn.utils.get_total_norm`` in half of its time: it is one device's."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) if gradients else torch.zeros(())

    def step(self, norm: Tensor | None = None) -> None:
        """Clip, then move the parameters; ``norm`` is that of the gradient, where it is known."""
        if self.clip_norm is not None:
            clip_grads_with_norm_(self._parameters, self.clip_norm, self.gradient_norm() if norm is None else norm)
        self.optimizer.step()

    def end_epoch(self, score: float | None, epoch: int) -> None:
        """Keep the weights if they are the best, and move the learning rate."""
        if self.stopping.update(score, epoch):
            self.best = self.weights()
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if score is not None:
                self.scheduler.step(score)
        elif self.scheduler is not None:
            self.scheduler.step()

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def restore_best(self) -> None:
        self.load_weights(self.best)

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "stopping": vars(self.stopping) | {},
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for name in ("best", "best_epoch", "waited"):
            setattr(self.stopping, name, state["stopping"][name])
        self.best = state["best"]

    def weights(self) -> dict[str, Tensor]:
        """A copy of the network's weights."""
        return {name: value.detach().clone() for name, value in self._modules.state_dict().items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        self._modules.load_state_dict(weights)
