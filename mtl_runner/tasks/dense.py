"""What tasks with an output at each pixel have in common."""

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa
import torch
from torch import Tensor, nn

from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import NotApplicable
from mtl_runner.heads import DenseHeads
from mtl_runner.tasks.base import Task


class Dense(Task, ABC):
    """A convolution 1 × 1 on a map of features, brought to the size of the target; measured batch by batch.

    ``spec.shape`` starts with height and width of the target.
    """

    streaming: ClassVar[bool] = True

    def head(self, features: FeatureSpec, names: Sequence[str], seed: int) -> nn.Module:
        """See ``DenseHeads``.

        Raises:
            NotApplicable: the features are no map.
        """
        if len(features.shape) != 3:
            what = "a vector" if len(features.shape) == 1 else "a sequence"
            raise NotApplicable(
                f"dataset.tasks.{self.name}.type={self.kind} needs features at the pixels of an image, and the encoder gives "
                f"{what} for each; encoder=unet gives them, and encoder=cnn or resnet with encoder.features=map"
            )
        height, width = self.spec.shape[:2]
        return DenseHeads(features.shape, self.width, (height, width), names, seed)

    def no_outputs(self) -> Tensor:
        return self.outputs(torch.zeros(0, *self.spec.shape[:2], self.width))


def as_maps(values: Tensor) -> pa.Array:
    """[N, H, W] or [N, H, W, K] as nested lists of fixed size, without a Python object per pixel."""
    array = pa.array(values.detach().cpu().contiguous().numpy().reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array
