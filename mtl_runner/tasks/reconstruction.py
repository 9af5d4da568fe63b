"""The input itself, from the features."""

from collections.abc import Sequence
from math import prod

from torch import nn

from mtl_runner.batch import TargetSpec
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.heads import LinearHeads, MapHeads
from mtl_runner.tasks.regression import Regression


class Reconstruction(Regression):
    """Squared error of every value of the input stream.

    R² is one over all values, 1 - Σ (z - y)² / Σ (y - ȳ)²: a pixel that hardly varies weighs little.
    """

    kind = "reconstruction"
    average = "variance_weighted"
    correlated = False
    """Ranks would be a sort of each pixel over all examples."""

    def __init__(self, name: str, spec: TargetSpec) -> None:
        super().__init__(name, spec)

    def head(self, features: FeatureSpec, names: Sequence[str], seed: int) -> nn.Module:
        """A convolution 1 × 1 where the features are a map with the height and width of the image, else a linear layer.

        The target is that image where it has O · H · W values for a map [C, H, W], a whole number O of channels. The linear
        layer reads all features, not their mean over the positions, which would say little of what was where.
        """
        if len(features.shape) == 3:
            channels, height, width = features.shape
            if self.width % (height * width) == 0 and self.spec.shape[1:] in ((), (height, width)):
                return MapHeads(channels, self.width // (height * width), names, seed)
        return LinearHeads(prod(features.shape), self.width, names, seed)
