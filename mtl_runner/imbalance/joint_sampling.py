"""Row weights that bring the classes of all tasks near balance at once, and draws with these weights."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from torch import Tensor

from mtl_runner.batch import Split, TargetSpec, labelled
from mtl_runner.errors import NotApplicable
from mtl_runner.imbalance.base import Resampler
from mtl_runner.imbalance.rows import on

Array = NDArray[np.float64]


class JointSampling(Resampler):
    """Draws as many rows as there are, with weights that bring every task's class shares as near to balance as they get at once.

    The weights w_i of the N rows of a stream (mean 1) minimise

        strength / 2 · Σ_t Σ_c (p_tc - 1 / C_t)²  +  1 / N · Σ_i w_i log w_i
        subject to  Σ_i w_i = N  and  least · min(1, r_i⁻) ≤ w_i ≤ most · max(1, r_i⁺)

    where p_tc = Σ_{i: y_it = c} w_i / Σ_{i: y_it labelled} w_i is the weighted share of class c among the labelled rows of task
    t, and C_t the number of its classes that occur. r_it = N_t / (C_t n_tc) is the weight that balances task t alone (its N_t
    labelled rows, n_tc of the row's class); r_i⁻ and r_i⁺ are the smallest and largest of the row's tasks. The first term comes
    before the second, which chooses, of all weights that balance equally well, those that stay nearest to the data. So

    - where balance can be had for all tasks at once the shares are 1 / C_t, up to 1 / strength, and w_i is the product of one
      factor for each of the row's labels: raking (Deming and Stephan, On a Least Squares Adjustment of a Sampled Frequency Table
      When the Expected Marginal Totals are Known, Annals of Mathematical Statistics 1940), or entropy balancing (Hainmueller,
      Entropy Balancing for Causal Effects, Political Analysis 2012). For one task these are the inverse class frequencies;
    - where tasks stand in each other's way the sum of squared distances from balance is as small as any weights make it. No
      task is given up for another, as the sum of absolute distances would have it; and one that cannot be helped does not
      keep the others from balance, as the largest distance would.

    The bounds are counted from what balancing one task alone would ask for, so that they never bind for one task. ``most``
    is needed because a row that is rare in several tasks at once is the cheapest means to balance them: of 1,000 rows with two
    labels of ten rows each and one row with both, it would be drawn 388 times, and 50 times for one label alone. 2 permits 100.
    At 1, rows that are common in every task make room for it instead: they would hardly be seen. ``least`` sees to it that a row
    that is common in all tasks is not dropped: it still comes about once in ten epochs, or in 10 C for C classes.

    Many tasks that are each rare among other rows cannot be balanced together: the mass goes to the few rows that are rare in
    several, and what is learned of all others suffers (``experiments/imbalance``, twelve tasks). A smaller ``strength`` stays
    nearer to the data, and ``class_weights`` or ``oversample`` treat each task for itself.

    Rows without a label of a task count for its shares neither way. The problem is convex where every row is labelled for every
    task, and is solved exactly, by Newton's method for its dual on the distinct combinations of labels. Else p_tc is a ratio;
    it is linearised at the last weights until these stay, which gives a local minimum.

    Rows are drawn in systematic order (one random offset, rows of like labels side by side in random order): row i comes
    ⌊w_i⌋ or ⌈w_i⌉ times, w_i on average, a combination of labels as often as its weight says, up to one row; independent draws
    scatter by the root of that. Rows carry all their labels. The weights are computed once for a training part, in
    O(K · F²) a step, for K combinations and F = Σ (C_t - 1): 139 binary tasks on 100,000 rows, no two
    labelled alike, take ten seconds, and 40 tasks on 3,000 rows a tenth of one.

    Args:
        strength: what squared imbalance costs, against the relative entropy of the weights.
        most: a row is drawn at most this many times as often as the balance of one of its tasks alone would ask for.
        least: … and at least this many times as often.
        tasks: balance these tasks only; all binary and multiclass tasks otherwise.

    Raises:
        NotApplicable: a task has one label for each position of an example, which rows cannot be chosen by.
    """

    kinds = frozenset({"binary", "multiclass"})

    def __init__(
        self,
        *,
        strength: Annotated[float, Gt(0)] = 1e5,
        most: Annotated[float, Ge(1)] = 2.0,
        least: Annotated[float, Gt(0), Le(1)] = 0.1,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.strength = strength
        self.most = most
        self.least = least
        self._known: tuple[weakref.ref[Split], tuple[str, ...], dict[str, tuple[Array, NDArray[np.int64]]]] | None = None

    def __call__(self, split: Split, targets: Mapping[str, TargetSpec], generator: torch.Generator) -> Split:
        rows = {stream: torch.arange(split.size(stream)) for stream in split.inputs}
        for stream, (weights, cells) in self.weights(split, targets).items():
            rows[stream] = torch.repeat_interleave(rows[stream], systematic(weights, cells, generator))
        return split.take(rows)

    def weights(self, split: Split, targets: Mapping[str, TargetSpec]) -> dict[str, tuple[Array, NDArray[np.int64]]]:
        """By stream: the weight of each row [N], and the number of its combination of labels [N]."""
        if self._known is not None and self._known[0]() is split and self._known[1] == tuple(targets):
            return self._known[2]
        found = {}
        for stream in split.inputs:
            served = [name for name in on(split, stream) if name in targets]
            codes = [code for name in served if (code := _codes(name, split.targets[name])) is not None]
            if codes:
                cells, index, counts = np.unique(np.stack(codes, 1), axis=0, return_inverse=True, return_counts=True)
                solved = balancing(cells.astype(np.int64), counts / counts.sum(), self.strength, self.most, self.least)
                found[stream] = (solved[index.ravel()], index.ravel())
        self._known = (weakref.ref(split), tuple(targets), found)
        return found


def _codes(name: str, target: Tensor) -> NDArray[np.int16] | None:
    """Class numbers from 0 on [N], without the classes that do not occur, -1 where there is no label; None if fewer than two."""
    if target.ndim > 1:
        raise NotApplicable(f"imbalance.joint_sampling: task {name} has more than one label a row; leave it out with tasks=[…]")
    known = labelled(target).numpy()
    classes, codes = np.unique(target.numpy()[known].astype(np.int64), return_inverse=True)
    if len(classes) < 2:
        return None
    result = np.full(len(target), -1, dtype=np.int16)
    result[known] = codes
    return result


def balancing(cells: NDArray[np.int64], share: Array, strength: float, most: float, least: float) -> Array:
    """The weights of combinations of labels [K, T] (-1: none) with these shares [K] of the rows; see ``JointSampling``."""
    bases = [_contrasts(int(codes.max()) + 1) for codes in cells.T]
    alone = [_alone(codes, share) for codes in cells.T]
    bounds = least * np.minimum(1, np.min(alone, axis=0)), most * np.maximum(1, np.max(alone, axis=0))
    rounds = 1 if (cells >= 0).all() else 30
    weights, price = np.ones(len(cells)), np.zeros(1 + sum(basis.shape[1] for basis in bases))
    # a small strength first, then larger ones from its result: within reach of Newton's method
    for step in np.geomspace(min(1.0, strength), strength, 4):
        for _ in range(rounds):
            before = weights
            columns, offset = _linear(cells, bases, share * weights)
            weights, price = _dual_newton(columns, offset, share, bounds, step, price, 1e-18 if step == strength else 1e-8)
            if np.abs(weights / before - 1).max() < (1e-4 if step == strength else 0.1):
                break
    return weights


def _linear(cells: NDArray[np.int64], bases: list[Array], mass: Array) -> tuple[Array, Array]:
    """Columns [K, F] and offset [F]: offset + columnsᵀ mass' is p - 1 / C in the tasks' bases, to first order at ``mass``."""
    columns, offset = [], []
    for codes, basis in zip(cells.T, bases, strict=True):
        mask = codes >= 0
        classes = np.bincount(codes[mask], mass[mask], len(basis))
        now = classes / classes.sum() @ basis
        columns.append(np.where(mask[:, None], basis[codes] - now, 0) / classes.sum())
        offset.append(now)
    return np.hstack(columns), np.concatenate(offset)


def _contrasts(classes: int) -> Array:
    """Orthonormal columns [C, C - 1] that sum to 0: |basisᵀ p| is the distance of shares p from 1 / C."""
    return np.linalg.qr(np.hstack([np.ones((classes, 1)), np.eye(classes)[:, 1:]]))[0][:, 1:]


def _alone(codes: NDArray[np.int64], share: Array) -> Array:
    """The weights [K] that balance one task; 1 where it has no label."""
    mask = codes >= 0
    mass = np.bincount(codes[mask], share[mask])
    return np.where(mask, mass.sum() / len(mass) / mass[codes], 1.0)


def _dual_newton(
    columns: Array, offset: Array, share: Array, bounds: tuple[Array, Array], strength: float, price: Array, tolerance: float
) -> tuple[Array, Array]:
    """min_w share · (w log w) + strength / 2 |offset + columnsᵀ (share w)|², for share · w = 1 and w within bounds.

    With multipliers (μ, z) of the two sums, w = exp(μ - columns z), cut at the bounds; (μ, z) minimise
    share · w (1 + θ - log w) - μ - z · offset + |z|² / (2 strength), θ = μ - columns z, convex.
    """
    design = np.hstack([np.ones((len(columns), 1)), -columns])
    linear = np.concatenate([[1.0], offset])
    low, high = np.log(bounds[0]), np.log(bounds[1])
    ridge = np.full(len(linear), 1 / strength)
    ridge[0] = 0

    def value(x: Array) -> tuple[float, Array, Array]:
        theta = design @ x
        logs = np.clip(theta, low, high)
        w = np.exp(logs)
        return float(share @ (w * (1 + theta - logs)) - x @ linear + x @ (ridge * x) / 2), theta, w

    current, theta, w = value(price)
    for _ in range(200):
        gradient = design.T @ (share * w) - linear + ridge * price
        free = (theta > low) & (theta < high)
        half = design[free] * np.sqrt(share * w)[free, None]
        hessian = half.T @ half
        hessian.flat[:: len(linear) + 1] += ridge + 1e-12
        move = np.linalg.solve(hessian, -gradient)
        slope = float(gradient @ move)
        if slope > -tolerance:
            break
        length = 1.0
        while (trial := value(price + length * move))[0] > current + 1e-4 * length * slope and length > 1e-12:
            length /= 2
        if trial[0] >= current:
            break
        price, (current, theta, w) = price + length * move, trial
    return w, price


def systematic(weights: Array, cells: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    """How often each row is drawn [N], N in all: ⌊w⌋ or ⌈w⌉ times, w on average; rows of a cell stand side by side."""
    draws = torch.rand(len(weights) + 1, generator=generator, dtype=torch.float64).numpy()
    order = np.argsort(cells + draws[1:])
    ends = np.cumsum(weights[order])
    ends = np.floor(ends * (len(weights) / ends[-1]) + draws[0])
    ends[-1] = len(weights)
    counts = np.empty(len(weights), dtype=np.int64)
    counts[order] = np.diff(ends, prepend=0)
    return torch.from_numpy(counts)
