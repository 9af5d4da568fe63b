"""scikit-learn's bundled handwritten digits: 1,797 images of 8 × 8 pixels (UCI 80, optical recognition of handwritten digits)."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from mtl_runner.batch import Batch, Data
from mtl_runner.datasets.base import Dataset, known, task_options
from mtl_runner.datasets.rows.arrays import Source, assembled
from mtl_runner.datasets.rows.preparation import Number, Preparation, Target
from mtl_runner.datasets.splitting import Splitting, split
from mtl_runner.datasets.stratify import Ints
from mtl_runner.errors import UserError
from mtl_runner.seeding import derive

BRIGHTEST = 16.0
_PIXELS = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
_TARGETS = {
    "digit": Target("multiclass", ("digit",), tuple("0123456789"), {str(digit): digit for digit in range(10)}),
    "parity": Target("binary", ("parity",), ("even", "odd"), {"even": 0, "odd": 1, "0": 0, "1": 1}),
    "reconstruction": Target("reconstruction", _PIXELS, center=(0.0,) * 64, scale=(BRIGHTEST,) * 64),
}


class Digits(Dataset):
    """Images [N, 1, 8, 8], 0 (paper) to 1 (ink), and three tasks on them.

    ``digit`` (10 classes), ``parity`` (binary, positive: odd), ``reconstruction`` (the 64 pixels, row by row). Split 60/20/20,
    stratified by digit, whatever the tasks are.

    Args:
        tasks: which tasks, with their options ``role`` and ``metric``.
        only: train only these; rows and parts stay the same.
        hidden: share of the pixels that are set to 0 (paper) in the inputs, in each image others, in training others each time;
            not in the reconstruction, which then has to fill them in (Vincent et al., "Extracting and composing robust
            features with denoising autoencoders", ICML 2008); None: the inputs are whole.
        long_tail: imbalance ratio r of the training part: digit c keeps n · r^(-c/9) rows, n those of digit 0; None: balanced.
        fold: test on this one of ``folds`` parts instead of a random fifth.
        split_seed: moves the split.
    """

    provides = frozenset({"image"})

    def __init__(
        self,
        *,
        tasks: dict[str, dict[str, Any] | None] | list[str] | None = None,
        only: list[str] | None = None,
        hidden: Annotated[float, Gt(0), Lt(1)] | None = None,
        long_tail: Annotated[float, Gt(1)] | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
        split_seed: int = 0,
        stream: str = "input",
    ) -> None:
        self.options = task_options(list(_TARGETS) if tasks is None else tasks, ("role", "metric"))
        for name in self.options:
            known(name, _TARGETS, "dataset.tasks: task")
        if long_tail is not None and not long_tail > 1:
            raise UserError(f"dataset.long_tail={long_tail} is not a ratio above 1")
        self.only, self.hidden, self.long_tail, self.stream = only, hidden, long_tail, stream
        self.splitting = Splitting(validation=0.2, test=0.2, fold=fold, folds=folds, seed=split_seed)

    def load(self) -> Data:
        """The images, split."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images, digits = bunch.data, bunch.target.astype(np.int64)
        parts = split(self.splitting, digits[:, None], None)
        if self.long_tail is not None:
            parts["train"] = long_tailed(digits, parts["train"], self.long_tail, self.splitting.seed)
        preparation = Preparation(
            tuple(Number(name, scale=BRIGHTEST) for name in _PIXELS),
            tasks={name: _TARGETS[name] for name in self.options},
            stream=self.stream,
            number_field="image",
            shape=(1, 8, 8),
        )
        values: dict[str, NDArray[Any]] = {"digit": digits, "parity": (digits % 2).astype(np.float32)}
        values["reconstruction"] = (images / BRIGHTEST).astype(np.float32)
        inputs = (images / BRIGHTEST).astype(np.float32)
        if self.hidden is not None:
            draws = np.random.default_rng(derive(self.splitting.seed, "hidden")).random(inputs.shape)
            draws[parts["train"]] = 1  # those are drawn anew for each batch
            inputs[draws < self.hidden] = 0
        source = Source(
            {"image": inputs.reshape(-1, 1, 8, 8)}, {name: values[name] for name in self.options}, {"row": np.arange(len(digits))}
        )
        data = assembled(source, parts, preparation, self.options, self.only)
        return data if self.hidden is None else replace(data, augmentation=Hidden(self.hidden))


@dataclass(frozen=True)
class Hidden:
    """Sets pixels to 0, each with this probability."""

    share: float

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """What is drawn depends on the generator alone."""
        inputs = {}
        for stream, fields in batch.inputs.items():
            image = fields["image"]
            shown = torch.rand(image.shape, generator=generator) >= self.share
            inputs[stream] = {**fields, "image": image * shown.to(image.device)}
        return replace(batch, inputs=inputs)


def long_tailed(labels: Ints, rows: Ints, ratio: float, seed: int) -> Ints:
    """Of ``rows``, those that stay so that class c of C has n · ratio^(-c / (C - 1)) rows (n: those of class 0; at least 1)."""
    generator = np.random.default_rng(derive(seed, "long tail"))
    members = [generator.permutation(rows[labels[rows] == label]) for label in range(int(labels.max()) + 1)]
    last = max(len(members) - 1, 1)
    kept = [member[: max(1, round(len(members[0]) * ratio ** (-place / last)))] for place, member in enumerate(members)]
    return np.sort(np.concatenate(kept))
