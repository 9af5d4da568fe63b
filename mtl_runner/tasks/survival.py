"""The time until an event, known only from below where it was censored.

Shape legend: T tasks, N examples, B intervals.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.errors import UserError
from mtl_runner.imbalance.base import weighted_mean
from mtl_runner.metrics.survival import survival
from mtl_runner.tasks.base import Task, chosen_option, positive_option


class Survival(Task):
    """Targets [T, N, 2]: the time, and 1 for an event or 0 for censoring.

    ``model: cox`` has a logarithmic relative hazard h [T, N] and the partial likelihood of the batch: for each event
    log Σ_j exp(h_j) - h_i over those whose time is not before (Cox, JRSS B 1972), with the ties of Efron (JASA 1977) or Breslow
    (Biometrics 1974). Only examples of one batch are compared: with large batches it is nearer to that of all.

    ``model: discrete`` has a logit for each interval between ``cuts``, [T, N, B], of the hazard: the probability of the event in
    it, given that it did not come before. The loss is -Σ log(1 - hazard) over the intervals that were survived, and -log hazard
    of the one with the event (Singer & Willett, Journal of Educational Statistics 1993). A censored example has survived the
    intervals that had ended by then; after the last cut all have.
    """

    kind = "survival"

    def __init__(
        self,
        name: str,
        spec: TargetSpec,
        *,
        model: Literal["cox", "discrete"] = "cox",
        ties: Literal["efron", "breslow"] = "efron",
        intervals: int = 10,
        cuts: Sequence[float] = (),
    ) -> None:
        super().__init__(name, spec)
        self._discrete = chosen_option(name, "model", model, ("cox", "discrete")) == "discrete"
        self._efron = chosen_option(name, "ties", ties, ("efron", "breslow")) == "efron"
        positive_option(name, "intervals", intervals)
        self._cuts = torch.tensor(_rising(name, cuts))
        if self._discrete and not len(self._cuts):
            raise UserError(f"dataset.tasks.{name}.cuts: model=discrete needs the times at which its intervals end")

    @property
    def width(self) -> int:
        return len(self._cuts) if self._discrete else 1

    def outputs(self, raw: Tensor) -> Tensor:
        return raw if self._discrete else raw.squeeze(-1)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        time, event = targets[..., 0], targets[..., 1]
        weight = torch.ones_like(time) if weights is None else weights.amin(-1)
        if self._discrete:
            return weighted_mean(hazard_loss(outputs, time, event, self._cuts.to(time)), weight), (weight > 0).any(1)
        return partial_likelihood(outputs, time, event * weight, weight, self._efron)

    def evaluate(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        return survival(-self._mean_time(outputs) if self._discrete else outputs, targets)

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """``cox``: the relative hazard. ``discrete``: the mean time up to the last cut, and the probability of surviving each."""
        if not self._discrete:
            return {f"{self.name}_hazard_ratio": pa.array(outputs.cpu().double().exp().numpy())}
        outputs = outputs.cpu().double()
        alive = F.logsigmoid(-outputs).cumsum(-1).exp().numpy()
        columns = {self.name: pa.array(self._mean_time(outputs).numpy())}
        return columns | {f"{self.name}_survival_{cut:g}": pa.array(alive[:, i]) for i, cut in enumerate(self._cuts.tolist())}

    def _mean_time(self, outputs: Tensor) -> Tensor:
        """The area under the survival curve up to the last cut, with straight lines between the cuts, from 0."""
        alive = F.pad(F.logsigmoid(-outputs).cumsum(-1).exp(), (1, 0), value=1.0)
        ends = F.pad(self._cuts.to(outputs), (1, 0))
        return ((alive[..., 1:] + alive[..., :-1]) / 2 * ends.diff()).sum(-1)


def _rising(name: str, cuts: object) -> list[float]:
    listed = list(cuts) if isinstance(cuts, Sequence) and not isinstance(cuts, str) else [cuts]
    numbers = [cut for cut in listed if isinstance(cut, int | float) and not isinstance(cut, bool) and 0 < cut < float("inf")]
    if len(numbers) < len(listed) or any(one >= other for one, other in pairwise(numbers)):
        raise UserError(f"dataset.tasks.{name}.cuts={cuts}: times above 0 that rise are expected, such as [30,90,365]")
    return [float(cut) for cut in numbers]


def hazard_loss(logits: Tensor, time: Tensor, event: Tensor, cuts: Tensor) -> Tensor:
    """Negative log-likelihood of discrete hazards, [T, N].

    Args:
        logits: of the hazard in each interval (c_{b-1}, c_b], [T, N, B]; the first begins anywhere below c_1.
        time, event: [T, N].
        cuts: c_1 … c_B, rising.
    """
    happened = torch.searchsorted(cuts, time.contiguous())
    ended = torch.searchsorted(cuts, time.contiguous(), right=True)
    survived = torch.where(event > 0, happened, ended)
    place = torch.arange(len(cuts), device=logits.device)
    here = (place == happened[..., None]) & (event > 0)[..., None]
    return (F.softplus(logits) * (place < survived[..., None]) + F.softplus(-logits) * here).sum(-1)


def partial_likelihood(h: Tensor, time: Tensor, events: Tensor, weights: Tensor, efron: bool) -> tuple[Tensor, Tensor]:
    """Mean negative log partial likelihood of an event, and whether there is any, both [T].

    Σ_i w_i (log S(t_i) - h_i) / Σ_i w_i over the events i, with S(t) = Σ w_j exp(h_j) over the j with t_j >= t. Efron's way takes
    l / d of the sum over the d events at t away from the l-th of them (l = 0 … d - 1), and their mean weight for each.

    Args:
        h: [T, N].
        time: [T, N].
        events: the weight of an event, 0 of an example without one, [T, N].
        weights: of all examples, 0 of those without a label, [T, N].
        efron: Breslow's way otherwise.
    """
    # those without a label come last and are in nobody's sum
    order = time.masked_fill(weights <= 0, -torch.inf).argsort(stable=True, dim=1, descending=True)
    time, h, events, weights = (value.gather(1, order) for value in (time, h, events, weights))
    time = time.masked_fill(weights <= 0, -torch.inf)
    logs = h + weights.masked_fill(weights <= 0, 1).log()
    first, last = torch.searchsorted(-time, -time), torch.searchsorted(-time, -time, right=True) - 1
    log_sum = logs.logcumsumexp(1).gather(1, last)
    weight = events
    if efron:
        is_event = (events > 0).to(h.dtype)
        count, sums, share = (_sum_by(first, value) for value in (is_event, events, (logs - log_sum).exp() * is_event))
        before = is_event.cumsum(1) - is_event  # events before this one, and of them those at its own time
        place = before - before.gather(1, first)
        log_sum = log_sum + torch.log1p(-(place * is_event / count.clamp(min=1)) * share)
        weight = is_event * sums / count.clamp(min=1)
    total = events.sum(1)
    return (weight * log_sum - events * h).sum(1) / total.clamp(min=torch.finfo(h.dtype).tiny), total > 0


def _sum_by(group: Tensor, values: Tensor) -> Tensor:
    """Of each place the sum of the values of its group; ``group`` [T, N] has numbers below N."""
    return torch.zeros_like(values).scatter_add(1, group, values).gather(1, group)
