"""Networks whose parameters are to lie in few dimensions."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.sharing.base import Table
from mtl_runner.sharing.networks import Networks, Strength, per_stage


class LowRank(Networks):
    """One network per task, and a penalty on the trace norm of their parameters: λ Σ_l ‖W_l‖_*.

    W_l [T, P_l] has for a row all parameters of stage l of one task's network, and its trace norm (nuclear norm) is the sum
    of its singular values. Argyriou, Evgeniou & Pontil, "Convex multi-task feature learning", Machine Learning 73, 2008; Ji &
    Ye, "An accelerated gradient method for trace norm minimization", ICML 2009; for linear models in MALSAR (Zhou, Chen &
    Ye, 2011). With one linear stage it is their penalty. In the stems, where they have parameters, each parameter of the
    networks that read one stream is a matrix of its own; heads are not penalised.

    The penalty compares parameters, which means something only where unit k of a layer is the same in all networks: all
    networks start as one, with the initial weights of ``sharing=hard``, and drop the same units; ranks start at 1.

    The optimizer takes gradient steps, no proximal ones, on the smoothed Σ_i √(σ_i² + ε), ε = 10⁻⁶ Σ_i σ_i², from
    the eigenvalues σ_i² of W Wᵀ [T, T]. The gradient is finite for equal and for zero singular values; those that a proximal
    step would make 0 become about a thousandth of the norm of W, and jump around that by the learning rate.

    Cost: that of T networks, and T² P + T³ for the penalty.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        strength: λ, or one for each stage of the encoder; the stem takes the first.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        strength: Strength = 1e-3,
    ) -> None:
        super().__init__(encoder, streams, start="shared")
        self.strengths = per_stage(strength, len(self.stack_list()[0].stages))

    def matrices(self) -> list[list[Tensor]]:
        """Of each stage W_l, where it has parameters, and at last those of the stems."""
        *stages, stems = self.matched()
        whole = [[torch.cat([values.flatten(1) for values in stage], 1)] if stage else [] for stage in stages]
        return [*whole, [values.flatten(1) for values in stems]]

    def penalty(self) -> Tensor | None:
        if not any(self.strengths) or len(self.tasks) < 2:
            return None
        terms = [
            strength * trace_norm(matrix)
            for strength, stage in zip([*self.strengths, self.strengths[0]], self.matrices(), strict=True)
            for matrix in stage
            if matrix.requires_grad
        ]
        return torch.stack(terms).sum() if terms else None

    def spectra(self) -> dict[str, Tensor]:
        """Singular values of each W_l, the largest first, by the name of the stage."""
        with torch.no_grad():
            found = {f"stage {number}": stage[0] for number, stage in enumerate(self.matrices()[:-1], 1) if stage}
            return {name: squared_singular_values(matrix).flip(0).sqrt() for name, matrix in found.items()}

    def metrics(self) -> dict[str, float]:
        """The effective rank of each W_l."""
        return {f"effective_rank_{name.replace(' ', '_')}": effective_rank(values) for name, values in self.spectra().items()}

    def tables(self) -> dict[str, Table]:
        spectra = self.spectra()
        if not spectra:
            return {}
        columns = tuple(f"σ{number}" for number in range(1, len(self.tasks) + 1))
        values = torch.stack(list(spectra.values()))
        return {"singular_values": Table("singular values of the tasks' parameters", tuple(spectra), columns, values)}


def squared_singular_values(matrix: Tensor) -> Tensor:
    """Of a matrix [T, P], T of them in ascending order."""
    return cast(Tensor, torch.linalg.eigvalsh(matrix @ matrix.mT)).clamp_min(0)


def trace_norm(matrix: Tensor) -> Tensor:
    """Σ √(σ² + ε), ε = 10⁻⁶ Σ σ²; of a matrix of zeros about 0."""
    squares = squared_singular_values(matrix)
    return (squares + 1e-6 * squares.sum() + torch.finfo(squares.dtype).tiny).sqrt().sum()


def effective_rank(values: Tensor) -> float:
    """exp(-Σ p log p) with p = σ / Σ σ: Roy & Vetterli, "The effective rank", EUSIPCO 2007."""
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())
