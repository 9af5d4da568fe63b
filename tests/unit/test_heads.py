"""Heads that run as one give what separate layers give."""

import torch
from torch import nn

from mtl_runner.heads import LinearHeads
from mtl_runner.seeding import seeded

NAMES = ("digit", "parity", "a.b/c")


def separate(width: int, outputs: int, seed: int) -> list[nn.Linear]:
    layers = []
    for name in NAMES:
        with seeded(seed, "head", name):
            layers.append(nn.Linear(width, outputs))
    return layers


def test_heads_as_one_matrix_equal_separate_layers_values_and_gradients() -> None:
    heads, layers = LinearHeads(12, 4, NAMES, seed=3), separate(12, 4, seed=3)
    features = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0))  # flattened per example
    outputs = heads(features)
    assert outputs.shape == (3, 7, 4)
    upstream = torch.randn(3, 7, 4)
    outputs.backward(upstream)
    for t, layer in enumerate(layers):
        own = layer(features.flatten(1))
        torch.testing.assert_close(outputs[t], own)
        own.backward(upstream[t])
        torch.testing.assert_close(heads.weight.grad[t], layer.weight.grad)
        torch.testing.assert_close(heads.bias.grad[t], layer.bias.grad)


def test_a_head_starts_from_its_name_and_the_seed_alone() -> None:
    together, alone, other = LinearHeads(5, 2, NAMES, 0), LinearHeads(5, 2, ["parity"], 0), LinearHeads(5, 2, ["parity"], 1)
    assert torch.equal(together.weight[1], alone.weight[0]) and torch.equal(together.bias[1], alone.bias[0])
    assert not torch.equal(alone.weight, other.weight)
    assert not torch.equal(together.weight[0], together.weight[1])


def test_heads_on_features_of_their_own_equal_those_on_shared_ones() -> None:
    heads = LinearHeads(12, 4, NAMES, seed=3)
    features = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0))
    each = torch.stack([features, 2 * features, features - 1])
    together = heads(each, apart=True)
    assert together.shape == (3, 7, 4)
    for t in range(3):
        torch.testing.assert_close(together[t], heads(each[t])[t])
    torch.testing.assert_close(heads(features.expand(3, 7, 3, 4), apart=True), heads(features))
