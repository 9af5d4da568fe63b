"""The last layer of a network, by its structure."""

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mtl_runner.encoders.base import SideBySide
from mtl_runner.encoders.stacked import StackedBatchNorm, StackedLayerNorm

NORMALISATIONS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase, StackedLayerNorm, StackedBatchNorm)


def last_layer(module: nn.Module, among: Collection[int]) -> list[nn.Parameter]:
    """Weights and biases of the last layer in a module that has any ``among`` these parameters, given by their ``id``.

    Layers are the innermost modules with parameters, in the order in which they were put in; a normalisation is none. Of modules
    ``SideBySide``, and of those in a dictionary, as the stems of several streams, each gives its last layer.
    """
    if isinstance(module, NORMALISATIONS):
        return []
    inner = [found for child in module.children() if (found := last_layer(child, among))]
    if isinstance(module, SideBySide | nn.ModuleDict):
        return [parameter for found in inner for parameter in found]
    return inner[-1] if inner else [parameter for parameter in module.parameters(recurse=False) if id(parameter) in among]
