"""Soft parameter sharing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mtl_runner.encoders.base import Encoder, EncoderFactory
from mtl_runner.sharing.none import Separate


class Soft(Separate):
    """One network per task, and a penalty that pulls the encoders' parameters θ_1 … θ_T together.

    ========== ==================================================
    ``to``     penalty, for ``norm: l2``
    ========== ==================================================
    centroid   λ Σ_i ‖θ_i - θ̄‖², θ̄ the mean of the θ_i
    center     λ Σ_i ‖θ_i - θ_0‖², θ_0 trained with the rest
    pairs      λ Σ_{i<j} ‖θ_i - θ_j‖²; for two tasks λ ‖θ_A - θ_B‖²
    ========== ==================================================

    ``norm: l1`` has Σ |·| in place of ‖·‖². Stages are compared across all tasks, stems among the tasks of a stream;
    heads are never pulled. Evgeniou & Pontil, Regularized multi-task learning, KDD 2004; Duong et al., Low resource
    dependency parsing, ACL 2015.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        strength: λ.
        norm: l2 or l1.
        to: what the parameters are pulled to: centroid, center or pairs.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        strength: Annotated[float, Ge(0)] = 1e-3,
        norm: Literal["l1", "l2"] = "l2",
        to: Literal["centroid", "center", "pairs"] = "centroid",
    ) -> None:
        order = sorted(set(streams.values()))

        def alike(streams: Sequence[str], name: str) -> Encoder:
            # made for all streams, as their stems may end in another shape where there are several: stages are to compare
            network = encoder(order, name)
            network.stems = nn.ModuleDict({stream: network.stems[stream] for stream in streams})
            return network

        super().__init__(alike, streams)
        self.strength = strength
        self.norm = norm
        self.target = to
        self.center = nn.ParameterList()
        self.after_load()

    def after_load(self) -> None:
        """The centre starts in the middle of the networks."""
        if self.target == "center":
            self.center = nn.ParameterList(torch.stack(same).detach().mean(0) for same in self._matched())

    def penalty(self) -> Tensor | None:
        if self.strength == 0 or len(self.networks) < 2:
            return None
        terms = [
            self._term(torch.stack(same).flatten(1), i)
            for i, same in enumerate(self._matched())
            if any(value.requires_grad for value in same)  # a frozen parameter cannot be pulled
        ]
        return self.strength * torch.stack(terms).sum() if terms else None

    def _term(self, values: Tensor, index: int) -> Tensor:
        """The penalty of one parameter, from its T values [T, P]."""
        if self.target == "pairs":
            return _pairs(values, self.norm)
        anchor = self.center[index].flatten() if self.target == "center" else values.mean(0)
        difference = values - anchor
        return difference.abs().sum() if self.norm == "l1" else difference.square().sum()

    def _matched(self) -> Iterator[list[Tensor]]:
        """The same parameter of the networks that have it, one list after the other."""
        yield from zip_parameters([network.stages for network in self.encoders()])
        for stream in sorted(set(self.streams.values())):
            stems = [net.stems[stream] for net, own in zip(self.encoders(), self.streams.values(), strict=True) if own == stream]
            if len(stems) > 1:
                yield from zip_parameters(stems)


def zip_parameters(modules: list[nn.ModuleList] | list[nn.Module]) -> Iterator[list[Tensor]]:
    """The parameters of modules of one architecture, those of the same name together."""
    for same in zip(*(module.parameters() for module in modules), strict=True):
        yield list(same)


def _pairs(values: Tensor, norm: str) -> Tensor:
    """Σ_{i<j} of ‖v_i - v_j‖² or of |v_i - v_j|, without the T² differences.

    The squares sum to T Σ_i ‖v_i - v̄‖²; in ascending order, the k-th of T values enters the sum of absolute
    differences 2k - T + 1 times (k from 0).
    """
    tasks = len(values)
    if norm == "l2":
        return tasks * (values - values.mean(0)).square().sum()
    ranks = torch.arange(tasks, dtype=values.dtype, device=values.device)
    return ((2 * ranks - tasks + 1) @ values.sort(0).values).sum()
