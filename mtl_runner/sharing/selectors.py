"""Gates that select experts by binary codes (DSelect-k).

Shape legend: T tasks, N examples, E experts, k selectors of a gate, m digits of a code, W the width of what a gate reads.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from mtl_runner.encoders.stacked import Rows, chosen
from mtl_runner.sharing.gates import linear, uniform

_LITTLE = 1e-6
"""Added before a logarithm or a division."""
_Z, _W = 0.01, 0.05
"""Bounds of the uniform initial values, as in the authors' code: of codes in units of γ, and of the selectors' logits."""


def smooth_step(z: Tensor, gamma: float) -> Tensor:
    """0 up to -γ/2, 1 from γ/2 on, between them -2 (z/γ)³ + 3/2 (z/γ) + 1/2; its derivative is continuous."""
    u = (z / gamma).clamp(-0.5, 0.5)
    return u * (1.5 - 2 * u.square()) + 0.5


def binary_codes(experts: int) -> Tensor:
    """[E, m] boolean: row e holds the digits of e, the highest first, in m = ⌈log₂ E⌉ of them."""
    digits = (experts - 1).bit_length()
    return torch.tensor([[bool(e >> (digits - 1 - bit) & 1) for bit in range(digits)] for e in range(experts)])


class Selectors(nn.Module, ABC):
    """Gates of T tasks, each with k selectors of one expert among E."""

    codes: Tensor

    def __init__(self, experts: int, k: int, gamma: float) -> None:
        super().__init__()
        self.k, self.gamma = k, gamma
        self.register_buffer("codes", binary_codes(experts), persistent=False)

    def select(self, z: Tensor) -> Tensor:
        """r [..., k, E] from z [..., k, m]: the products of S(z_b) where digit b of the expert is 1 and 1 - S(z_b) where it is 0.

        Digit by digit, as the derivative of a product in one operation waits for the device where a factor is 0.
        """
        steps = smooth_step(z.float(), self.gamma).unsqueeze(-2)
        factors = torch.where(self.codes, steps, 1 - steps).unbind(-1)
        selected = factors[0]
        for factor in factors[1:]:
            selected = selected * factor
        return selected

    @abstractmethod
    def forward(self, x: Tensor, apart: bool = False, rows: Rows = None) -> Tensor:
        """Weights [T, N, E] or [T, E]."""

    @abstractmethod
    def selected(self, x: Tensor, rows: Rows) -> Tensor:
        """r [T, N, k, E] or [T, 1, k, E] at x [N, W]."""


class StaticSelectors(Selectors):
    """Codes and selectors' logits are parameters."""

    def __init__(self, tasks: int, experts: int, k: int, gamma: float, width: int) -> None:
        super().__init__(experts, k, gamma)
        self.z = nn.Parameter(uniform((tasks, k, self.codes.shape[1]), _Z * gamma))
        self.w = nn.Parameter(uniform((tasks, k), _W))

    def forward(self, x: Tensor, apart: bool = False, rows: Rows = None) -> Tensor:
        weights = chosen(self.w, rows).softmax(-1).unsqueeze(-1)
        return (weights * self.select(chosen(self.z, rows))).sum(-2)

    def selected(self, x: Tensor, rows: Rows) -> Tensor:
        return self.select(chosen(self.z, rows)).unsqueeze(1)


class ExampleSelectors(Selectors):
    """Codes and selectors' logits are affine in what the gate reads."""

    def __init__(self, tasks: int, experts: int, k: int, gamma: float, width: int) -> None:
        super().__init__(experts, k, gamma)
        digits = k * self.codes.shape[1]
        self.z_weight = nn.Parameter(uniform((tasks, digits, width), _Z * gamma))
        self.z_bias = nn.Parameter(uniform((tasks, digits), _Z * gamma))
        self.w_weight = nn.Parameter(uniform((tasks, k, width), _W))
        self.w_bias = nn.Parameter(uniform((tasks, k), _W))

    def forward(self, x: Tensor, apart: bool = False, rows: Rows = None) -> Tensor:
        logits = linear(x, chosen(self.w_weight, rows), apart) + chosen(self.w_bias, rows).unsqueeze(1)
        weights = logits.softmax(-1, dtype=torch.float32).unsqueeze(-1)
        return (weights * self._selected(x, apart, rows)).sum(-2)

    def _selected(self, x: Tensor, apart: bool, rows: Rows) -> Tensor:
        z = linear(x, chosen(self.z_weight, rows), apart) + chosen(self.z_bias, rows).unsqueeze(1)
        return self.select(z.unflatten(-1, (self.k, -1)))

    def selected(self, x: Tensor, rows: Rows) -> Tensor:
        return self._selected(x, False, rows)


def disorder(r: Tensor) -> Tensor:
    """Σ over selectors of their entropy -Σ_e r_e log r_e, [...] from r [..., k, E]."""
    return -(r * (r + _LITTLE).log()).sum((-2, -1))


def unreachable(r: Tensor) -> Tensor:
    """Σ over selectors of 1 / Σ_e r_e, [...] from r [..., k, E]: large where codes are those of experts that there are not."""
    return (1 / (r.sum(-1) + _LITTLE)).sum(-1)
