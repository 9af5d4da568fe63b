"""Sluice networks."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.encoders.stack import each
from mtl_runner.encoders.stacked import Rows, chosen
from mtl_runner.sharing.base import Boundary, Inputs, Table, own
from mtl_runner.sharing.channels import channel_axis
from mtl_runner.sharing.stitching import StitchedNetworks


class Sluice(StitchedNetworks):
    """One network per task; after each stage, the subspaces of all networks are mixed, and at the end the stages.

    The C channels that a stage gives (units of a vector or a sequence, maps of an image) are divided into G subspaces; where G
    does not divide C, the last has fewer. With x_jh the subspace h of task j's network, [N, …, C / G], and α of each stage
    [T, G, T, G],

        x̃_ig = Σ_jh α_igjh x_jh,    features of task i = Σ_k β_ik x̃_i after stage k.

    The second sum is over the stages whose output has the shape of the features, as others cannot be added: all blocks of a
    transformer but the one that pools, layers of equal width of a perceptron. Where this is the last alone there is no β.

    A penalty keeps the subspaces apart, λ Σ_{stages, tasks} Σ_{g<h} ‖W_g W_hᵀ‖²_F: W_g are the rows that make subspace g of
    each matrix (kernels flattened) of the stage that has as many rows as the stage has channels. A stage without such a
    matrix, as those of a recurrent network, adds nothing.

    Ruder, Bingel, Augenstein and Søgaard, Latent multi-task architecture learning, AAAI 2019. Departures: the authors' code
    takes two matrices of an LSTM, multiplied as W_gᵀ W_h, and stitches the two directions apart; its initial α for several
    subspaces depends on the order of the tasks, here it is the one for a single subspace (``own``).

    Cost: that of T networks, and T G multiplications per number that these give after a stage.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task; they have to be the same.
        subspaces: G.
        own: initial weight of a subspace in its own mixture; the others share the rest, (1 - own) / (T G - 1).
        last: initial β of the last stage; the others share the rest.
        strength: λ; 0.1 is that of the authors' example.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        subspaces: Annotated[int, Ge(1)] = 2,
        own: Annotated[float, Ge(0), Le(1)] = 0.9,
        last: Annotated[float, Ge(0), Le(1)] = 0.9,
        strength: Annotated[float, Ge(0)] = 0.1,
    ) -> None:
        super().__init__(encoder, streams)
        self.subspaces, self.strength = subspaces, strength
        tasks, depth = len(streams), len(self.shapes)
        self.axes = [channel_axis(shape) for shape in self.shapes]
        self.skipping = [k for k, shape in enumerate(self.shapes[:-1]) if shape == self.features.shape]
        """Stages before the last whose output is in the features."""
        pairs = tasks * subspaces
        start = torch.full((pairs, pairs), (1 - own) / (pairs - 1)).fill_diagonal_(own) if pairs > 1 else torch.ones(1, 1)
        shape = (tasks, subspaces, tasks, subspaces)
        self.alpha = nn.ParameterList(nn.Parameter(start.reshape(shape).clone()) for _ in range(depth))
        self.beta = None
        if self.skipping:
            before = torch.full((tasks, len(self.skipping)), (1 - last) / len(self.skipping))
            self.beta = nn.Parameter(torch.cat([before, torch.full((tasks, 1), last)], 1))

    def trunk(self, inputs: Inputs) -> Boundary:
        """What the last stage gives, and the mixtures after those stages that are in the features; each [T, N, …]."""
        skipped = []

        def mix(number: int, x: Tensor) -> Tensor:
            x = self._mix(number, x)
            if number in self.skipping:
                skipped.append(x)
            return x

        last = self.through(inputs, len(self.shapes), mix)
        return (last, *skipped)

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        (last, *skipped), rows = boundary, self.rows(tasks)
        features = [*(own(x, rows, apart) for x in skipped), self._mix(-1, last, rows, apart)]
        if self.beta is None:
            return features[0]
        shares = chosen(self.beta, rows)
        return torch.einsum("ik,ki...->i...", shares, torch.stack(features))

    def _mix(self, number: int, x: Tensor, rows: Rows = None, apart: bool = False) -> Tensor:
        """The rows of x̃ after a stage, from x [T, N, …], or, ``apart``, for each from a copy of its own, [rows, T, N, …]."""
        weights, axis, groups = chosen(self.alpha[number], rows), self.axes[number], self.subspaces
        place = 2 if apart else 1
        first = x.movedim(axis, place)  # […, T, C, N, …]
        channels, size = first.shape[place], -(-first.shape[place] // groups)
        padded = functional.pad(first.flatten(place + 1), (0, 0, 0, groups * size - channels))
        parts = padded.unflatten(place, (groups, size)).flatten(place + 1).flatten(place - 1, place)  # […, T G, numbers]
        if apart:
            product = weights.flatten(2) @ parts
        else:
            product = (weights.flatten(2).flatten(0, 1) @ parts).unflatten(0, (len(weights), groups))
        joined: Tensor = product.unflatten(2, (size, *first.shape[place + 1 :])).flatten(1, 2)[:, :channels]
        return joined.movedim(1, axis)

    def penalty(self) -> Tensor | None:
        if not self.strength:
            return None
        terms = [
            (one @ other.mT).square().sum()
            for stage, shape, axis in zip(self.networks.stages, self.shapes, self.axes, strict=True)
            for matrices in _matrices(stage, shape[axis])
            for one, other in combinations(matrices.split(-(-shape[axis] // self.subspaces), 1), 2)
        ]
        return self.strength * torch.stack(terms).sum() if terms else None

    def shared(self) -> list[nn.Parameter]:
        """The rows of the last α and of β belong to one task each."""
        return [] if len(self.tasks) == 1 else [*self.of_the_networks(len(self.shapes)), *self.alpha[:-1]]

    def tables(self) -> dict[str, Table]:
        """α of each stage, and β."""
        spaces = range(1, self.subspaces + 1)
        names = tuple(f"{task} {space}" for task in self.tasks for space in spaces) if self.subspaces > 1 else tuple(self.tasks)
        tables = {
            f"alpha_{number}": Table(
                f"what each subspace takes from each after stage {number}", names, names, alpha.detach().flatten(2).flatten(0, 1)
            )
            for number, alpha in enumerate(self.alpha, 1)
        }
        if self.beta is not None:
            stages = tuple(f"stage {k + 1}" for k in (*self.skipping, len(self.shapes) - 1))
            tables["beta"] = Table("what each task takes from each stage", tuple(self.tasks), stages, self.beta.detach())
        return tables


def _matrices(stage: nn.Module, channels: int) -> list[Tensor]:
    """The stage's matrices with one row for each channel, of all networks: [T, channels, columns]."""
    return [
        values.flatten(2) for values in each(stage) if values.ndim > 2 and values.shape[1] == channels and values.requires_grad
    ]
