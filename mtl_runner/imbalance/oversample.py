"""Random oversampling of the rows of rare classes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtl_runner.batch import Split, TargetSpec, labelled
from mtl_runner.imbalance.base import Resampler, class_counts


class Oversample(Resampler):
    """Repeats training rows of rare classes until every class is as frequent as the largest one.

    For one task: every row stays, and each class gets ``n_max - n_c`` further rows, drawn from its own with
    replacement (``RandomOverSampler`` of imbalanced-learn). For several tasks on the same rows no choice of rows
    balances all of them: a row with classes c_1 … c_T then appears mean_t(n_max,t / n_c_t) times on average, which is
    the same thing for one task, and a compromise for several. A row without a label counts 1 in the mean.
    The further rows are drawn anew in each epoch.

    Args:
        tasks: balance these tasks only; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass"})

    def __init__(self, *, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks)

    def __call__(self, split: Split, targets: Mapping[str, TargetSpec], generator: torch.Generator) -> Split:
        rows = {stream: torch.arange(split.size(stream)) for stream in split.inputs}
        for stream in rows:
            served = [name for name in targets if split.streams[name] == stream and labelled(split.targets[name]).any()]
            if len(served) == 1:
                rows[stream] = torch.cat([rows[stream], *_fill_up(split.targets[served[0]], targets[served[0]], generator)])
            elif served:
                ratios = torch.stack([_ratio(split.targets[name], targets[name]) for name in served]).mean(0)
                rows[stream] = torch.repeat_interleave(rows[stream], _round(ratios, generator))
        return split.take(rows)


def _fill_up(target: Tensor, spec: TargetSpec, generator: torch.Generator) -> list[Tensor]:
    counts = class_counts(target[None], len(spec.classes))[0].long()
    further = []
    for label in range(len(spec.classes)):
        own = (target == label).nonzero().squeeze(1).cpu()
        if len(own):
            draws = torch.randint(len(own), (int(counts.max()) - len(own),), generator=generator)
            further.append(own[draws])
    return further


def _ratio(target: Tensor, spec: TargetSpec) -> Tensor:
    """n_max / n_c of each row's class, 1 where it has no label."""
    counts = class_counts(target[None], len(spec.classes))[0]
    mask = labelled(target)
    return torch.where(mask, (counts.max() / counts)[torch.where(mask, target, 0).long()], 1.0).cpu()


def _round(values: Tensor, generator: torch.Generator) -> Tensor:
    """Integers with these expected values; in float64, so that no sum is rounded up to the next integer."""
    return (values + torch.rand(len(values), generator=generator, dtype=torch.float64)).floor().long()
