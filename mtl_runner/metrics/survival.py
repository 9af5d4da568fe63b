"""Metrics of predicted risks, where the time to an event may be cut short by censoring.

Shape legend: T tasks, N examples.
"""

import math

import torch
from torch import Tensor

from mtl_runner.metrics.base import Metric, diverged, in_order, usable

SURVIVAL = (Metric("concordance", True, "values"),)


def survival(risks: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Harrell's concordance index of T tasks, [T] (Harrell et al., JAMA 1982).

    Of all pairs in which one example is known to have had its event before the other one's time, the share in which its risk is
    the higher; equal risks count one half. Of two examples of the same time, one with the event and one censored, the event is
    the earlier one; two events at the same time are no pair.

    NaN: where there is no such pair.

    Args:
        risks: higher for an earlier event, [T, N].
        targets: [T, N, 2], the time and whether it is that of the event (1) or of censoring (0); NaN where there is no label.
    """
    risks, targets = usable(risks), usable(targets)
    mask = ~targets.isnan().any(-1)
    event = (targets[..., 1] > 0.5) & mask
    # examples without a label come first: nobody's event is before them
    time = targets[..., 0].double().masked_fill(~mask, -math.inf)
    order = _by_time(time, event)
    time, event, values = (value.gather(1, order) for value in (time, event, _ranks(risks.nan_to_num())))
    size = time.shape[1]
    # the examples known to be later than an event at t: censored ones at t, and all after t
    later = torch.searchsorted(time, time) + _events_at(time, event)
    lower, equal = _below(values, later)
    pairs = ((size - later) * event).sum(1).double()
    concordant = (lower * event).sum(1).double() + (equal * event).sum(1).double() / 2
    return in_order(SURVIVAL, {"concordance": concordant / pairs}, diverged(risks, mask))


def _by_time(time: Tensor, event: Tensor) -> Tensor:
    """Order by time; at the same time events first."""
    first = (~event).to(torch.int8).argsort(stable=True, dim=1)
    return first.gather(1, time.gather(1, first).argsort(stable=True, dim=1))


def _events_at(time: Tensor, event: Tensor) -> Tensor:
    """Number of events at the time of each place of a sorted row."""
    before = torch.nn.functional.pad(event.long().cumsum(1), (1, 0))
    return before.gather(1, torch.searchsorted(time, time, right=True)) - before.gather(1, torch.searchsorted(time, time))


def _ranks(values: Tensor) -> Tensor:
    """Whole numbers in the order of the values, equal for equal ones."""
    ordered, order = values.sort(1)
    rank = torch.nn.functional.pad((ordered[:, 1:] != ordered[:, :-1]).long().cumsum(1), (1, 0))[:, : values.shape[1]]
    return torch.empty_like(rank).scatter_(1, order, rank)


def _below(values: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """For each place i of a row, how many values at the places ``starts[i]`` … N - 1 are below values[i], and how many equal.

    A wavelet matrix: rows are split by the values' bits, the highest first, and each place's range of places is followed
    through it. O(N log N), where comparing all pairs is O(N²).
    """
    size = values.shape[1]
    row, left, right = values, starts, torch.full_like(starts, size)
    below = torch.zeros_like(starts)
    for bit in reversed(range(max(1, size - 1).bit_length())):
        one = row >> bit & 1
        zeros = torch.nn.functional.pad((1 - one).cumsum(1), (1, 0))  # before each place
        up, total = values >> bit & 1 == 1, zeros[:, -1:]
        low, high = zeros.gather(1, left), zeros.gather(1, right)
        below += (high - low) * up
        left, right = torch.where(up, total + left - low, low), torch.where(up, total + right - high, high)
        place = torch.where(one == 1, total + torch.arange(size, device=row.device) - zeros[:, :-1], zeros[:, :-1])
        row = torch.empty_like(row).scatter_(1, place, row)
    return below, right - left
