"""Weigh each example's squared error by how rare labels like its own are."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.batch import labelled
from mtl_runner.errors import UserError
from mtl_runner.imbalance.base import Criterion


class DensityWeights(Criterion):
    """w(y) (z - y)², with w ∝ 1 / density(y) or 1 / √density(y): label distribution smoothing.

    The training labels from the smallest to the largest are counted in equal bins, and the counts smoothed with a symmetric
    kernel k over the distance d of two bins, largest at 0: exp(-d² / 2σ²), the triangle 1 - 2 |d| / (ks + 1), or exp(-|d| /
    σ), for |d| ≤ (ks - 1) / 2. An example has the weight of its label's bin; each output of a task with several has bins of
    its own. Yang et al., Delving into Deep Imbalanced Regression, ICML 2021. Density is that of the paper: their code takes
    the root, or bounds counts to 5 … 1000, before it smooths, and its Gaussian kernel has mirrored ends. One bin, or a kernel
    of one bin and as many labels in each, is the squared error.

    Size: weights average 1 over the labelled training examples, so the loss is that of the squared error where errors do not
    depend on the label; larger where rare labels have large errors. Cost: four operations and a look-up per value.

    A label beyond those of the training part has the weight of the nearest bin, and an empty bin without neighbours that of
    the sparsest one. Of targets with more axes than [T, N, K] all positions share their bins.

    Args:
        bins: number of bins.
        kernel: k.
        ks: bins that the kernel spans, an odd number; 1: no smoothing.
        sigma: σ of ``gaussian`` and ``laplace``, in bins.
        reweight: by 1 / density or by its square root.
        tasks: limit it to these tasks; all regression tasks otherwise.

    Raises:
        UserError: ``ks`` is even.
    """

    kinds = frozenset({"regression"})
    low: Tensor
    per_unit: Tensor
    first: Tensor
    weights: Tensor

    def __init__(
        self,
        *,
        bins: Annotated[int, Ge(1)] = 100,
        kernel: Literal["gaussian", "triangular", "laplace"] = "gaussian",
        ks: Annotated[int, Ge(1)] = 5,
        sigma: Annotated[float, Gt(0)] = 2.0,
        reweight: Literal["inverse", "sqrt_inverse"] = "sqrt_inverse",
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        if ks % 2 == 0:
            raise UserError(f"imbalance.density_weights.ks={ks}: must be odd, as the kernel has a middle")
        self.bins = bins
        self.power = -1.0 if reweight == "inverse" else -0.5
        self.window = _window(kernel, ks, sigma)
        for name in ("low", "per_unit", "weights"):
            self.register_buffer(name, torch.zeros(1), persistent=False)
        self.register_buffer("first", torch.zeros(1, dtype=torch.long), persistent=False)

    def fit(self, targets: Tensor, classes: int) -> None:
        tasks, several = len(targets), targets.ndim == 3
        values = targets.transpose(1, 2) if several else targets.flatten(1)[:, None]  # [T, K, examples and positions]
        mask = labelled(values)
        low = torch.where(mask, values, torch.inf).amin(-1)
        width = torch.where(mask, values, -torch.inf).amax(-1) - low
        shape = (tasks, 1, -1) if several else (tasks,) + (1,) * (targets.ndim - 1)
        self.low = torch.where(width >= 0, low, 0).view(shape)
        self.per_unit = torch.where(width > 0, self.bins / width, 0).view(shape)
        self.first = (torch.arange(width.numel(), device=width.device) * self.bins).view(shape)
        places = self._place(torch.where(labelled(targets), targets, self.low))
        places = (places.transpose(1, 2) if several else places.flatten(1)[:, None])[mask]
        counts = torch.bincount(places, minlength=width.numel() * self.bins).view(-1, self.bins).double()
        self.weights = self._weights(counts).flatten()

    def _place(self, targets: Tensor) -> Tensor:
        """Where each target's weight stands in the table."""
        return ((targets - self.low) * self.per_unit).clamp(0, self.bins - 1).long() + self.first

    def _weights(self, counts: Tensor) -> Tensor:
        """Weights of the bins from their counts, both [T · K, bins]."""
        window = self.window.to(counts.device)
        density = F.conv1d(counts[:, None], window.view(1, 1, -1), padding=len(window) // 2).squeeze(1)
        sparsest = torch.where(density > 0, density, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=1)
        weights = torch.where(density > 0, density, sparsest) ** self.power
        total = (weights * counts).sum(1, keepdim=True)
        return (weights * torch.where(total > 0, counts.sum(1, keepdim=True) / total, 1)).float()

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.weights[self._place(targets)] * (outputs - targets) ** 2


def _window(kernel: str, ks: int, sigma: float) -> Tensor:
    distance = torch.arange(ks, dtype=torch.float64).sub(ks // 2).abs()
    if kernel == "gaussian":
        return torch.exp(-((distance / sigma) ** 2) / 2)
    if kernel == "triangular":
        return 1 - 2 * distance / (ks + 1)
    return torch.exp(-distance / sigma)
