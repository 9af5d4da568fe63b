"""How often tasks of different sizes are seen."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from mtl_runner.batch import Split, TargetSpec
from mtl_runner.imbalance.base import Sampler
from mtl_runner.imbalance.rows import has_label, passes, plain_sizes


class TaskSampling(Sampler):
    """Draws rows for task t with probability p_t ∝ min(n_t, K)^(1/T): n_t its labelled rows, T a temperature.

    T = 1 is ``proportional`` to size, T → ∞ ``uniform``; in between small tasks are seen more often than their size says.
    Arivazhagan et al., Massively Multilingual Neural Machine Translation in the Wild, 2019 (arXiv:1907.05019), take T = 5;
    Conneau and Lample, Cross-lingual Language Model Pretraining, NeurIPS 2019, T = 2 (they write α = 0.5); Raffel et al.,
    Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, JMLR 2020, try T of 2 to 8, with a K.

    Tasks on streams of their own: of S streams with a served task, a batch has b · S · p_s rows of stream s, with p_s the sum
    of its tasks' p_t and b the plain loader's rows of each stream. It is a number without chance, rounded so that the epoch
    comes out right, and at least 2. An epoch has the batches, and about the rows, of the plain one.

    Tasks on the same stream: each row is drawn by drawing its task, by p_t, and then one of the rows labelled for it. The row
    keeps all its labels. So the tasks' shares come out as p_t only as far as their labelled rows are different ones; where
    every row is labelled for every task the sizes are equal, and rows are drawn as for one task alone. The rows of a task come in
    random order, each once before any comes again for this task.

    Rows without a label of a served task are not drawn. Streams without a served task are gone through as without it.

    Args:
        by: how p_t follows from sizes; ``temperature`` is the one that reads the key of that name.
        temperature: T, of ``by: temperature``.
        limit: K, the size from which on tasks count as equally large; none by default.
        tasks: draw for these tasks only; all tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass", "regression", "reconstruction"})

    def __init__(
        self,
        *,
        by: Literal["proportional", "uniform", "temperature"] = "temperature",
        temperature: Annotated[float, Ge(1)] = 2.0,
        limit: Annotated[int, Ge(1)] | None = None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.power = {"proportional": 1.0, "uniform": 0.0, "temperature": 1 / temperature}[by]
        self.limit = inf if limit is None else limit

    def plan(
        self, split: Split, targets: Mapping[str, TargetSpec], batch_size: int, generator: torch.Generator
    ) -> list[dict[str, Tensor]]:
        plain = plain_sizes(split, batch_size)
        rows = {name: has_label(split.targets[name]).nonzero().squeeze(1) for name in targets}
        rows = {name: own for name, own in rows.items() if len(own)}
        shares = self.shares({name: len(own) for name, own in rows.items()})
        of_stream = {stream: {n: share for n, share in shares.items() if split.streams[n] == stream} for stream in split.inputs}
        served = sum(bool(tasks) for tasks in of_stream.values())
        orders = {}
        for stream, tasks in of_stream.items():
            sizes = _sizes(plain, sum(tasks.values()) * served) if tasks else plain
            if tasks:
                drawn = _drawn({name: (rows[name], share) for name, share in tasks.items()}, sum(sizes), generator)
            else:
                drawn = passes(torch.arange(split.size(stream)), sum(sizes), generator)
            orders[stream] = drawn.split(sizes)
        return [{stream: pieces[batch] for stream, pieces in orders.items()} for batch in range(len(plain))]

    def shares(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """p_t of each task, from its number of labelled rows, above 0."""
        rates = {name: min(size, self.limit) ** self.power for name, size in sizes.items()}
        return {name: rate / sum(rates.values()) for name, rate in rates.items()}


def _sizes(plain: Sequence[int], factor: float) -> list[int]:
    """``factor`` times each of these, rounded so that sums come out right as well; at least 2, or as it was below."""
    ends = (torch.tensor([0, *plain], dtype=torch.float64).cumsum(0) * factor).round().long()
    return [max(size, min(2, before)) for size, before in zip(ends.diff().tolist(), plain, strict=True)]


def _drawn(tasks: Mapping[str, tuple[Tensor, float]], count: int, generator: torch.Generator) -> Tensor:
    """``count`` rows, each of a task drawn by the tasks' shares."""
    shares = torch.tensor([share for _, share in tasks.values()], dtype=torch.float64)
    owner = torch.multinomial(shares, count, replacement=True, generator=generator)
    order = torch.empty(count, dtype=torch.long)
    for number, (rows, _) in enumerate(tasks.values()):
        mine = owner == number
        order[mine] = passes(rows, int(mine.sum()), generator)
    return order
