"""Heads that run as one give what separate layers give."""

import pytest
import torch
from torch import nn

from mtl_runner.batch import TargetSpec
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.heads import LinearHeads, MapHeads
from mtl_runner.seeding import seeded
from mtl_runner.tasks import make_tasks

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


# ---- maps and sequences -------------------------------------------------------------------------------------------

KINDS = {
    "yes": TargetSpec("binary", classes=("no", "yes")),
    "sort": TargetSpec("multiclass", classes=("a", "b", "c")),
    "size": TargetSpec("regression"),
    "pair": TargetSpec("regression", shape=(2,), columns=("u", "v")),
}
SHAPES = {"map": (5, 3, 2), "sequence": (6, 5)}


def made(spec: TargetSpec, shape: tuple[int, ...], names: tuple[str, ...] = NAMES) -> nn.Module:
    (task,) = make_tasks({"one": spec})
    return task.head(FeatureSpec(shape), names, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_has_no_position_reads_the_mean_over_the_positions(kind: str, shape: str) -> None:
    heads = made(KINDS[kind], SHAPES[shape])
    each = torch.randn(3, 7, *SHAPES[shape], dtype=torch.float64)
    heads.double()
    outputs = heads.weight.shape[1]
    for t, layer in enumerate(separate(5, outputs, seed=3)):
        layer.double()
        for n in range(7):
            values = each[t, n].reshape(5, 6) if shape == "map" else each[t, n].T
            expected = layer(values.sum(1) / 6)
            torch.testing.assert_close(heads(each, True)[t, n], expected)
            torch.testing.assert_close(heads(each[t])[t, n], expected)


def test_a_head_of_a_vector_is_the_one_that_it_was() -> None:
    for kind in KINDS:
        heads = made(KINDS[kind], (12,))
        again = LinearHeads(12, heads.weight.shape[1], NAMES, 3)
        features = torch.randn(7, 12)
        assert torch.equal(heads(features), again(features)) and list(heads.state_dict()) == ["weight", "bias"]


def test_heads_of_maps_equal_separate_convolutions_values_and_gradients() -> None:
    heads = MapHeads(5, 4, NAMES, seed=3).double()
    maps = torch.randn(3, 7, 5, 3, 2, dtype=torch.float64)
    shared, apart = heads(maps[0]), heads(maps, True)
    assert shared.shape == apart.shape == (3, 7, 4 * 3 * 2)
    upstream = torch.randn(3, 7, 24, dtype=torch.float64)
    for outputs, inputs in ((shared, maps[:1].expand_as(maps)), (apart, maps)):
        gradients = torch.autograd.grad(outputs, list(heads.parameters()), upstream)
        for t, layer in enumerate(separate(5, 4, seed=3)):
            convolution = nn.Conv2d(5, 4, 1).double()
            with torch.no_grad():
                convolution.weight.copy_(layer.weight[:, :, None, None])
                convolution.bias.copy_(layer.bias)
            own = convolution(inputs[t])
            torch.testing.assert_close(outputs[t], own.reshape(7, -1))
            own.backward(upstream[t].reshape_as(own))
            torch.testing.assert_close(gradients[0][t], convolution.weight.grad[:, :, 0, 0])
            torch.testing.assert_close(gradients[1][t], convolution.bias.grad)


def test_a_head_of_maps_starts_from_its_name_and_the_seed_alone() -> None:
    together, alone, other = MapHeads(5, 2, NAMES, 0), MapHeads(5, 2, ["parity"], 0), MapHeads(5, 2, ["parity"], 1)
    assert torch.equal(together.weight[1], alone.weight[0]) and torch.equal(together.bias[1], alone.bias[0])
    assert not torch.equal(alone.weight, other.weight)


@pytest.mark.parametrize("shape", [(24,), (72,)])
def test_the_value_of_a_pixel_comes_from_the_features_at_its_place(shape: tuple[int, ...]) -> None:
    heads = made(TargetSpec("reconstruction", shape=shape), (5, 4, 6), ("again",))
    assert isinstance(heads, MapHeads)
    features = torch.randn(1, 5, 4, 6, requires_grad=True)
    outputs = heads(features)[0, 0].reshape(-1, 4, 6)  # channels, height, width, as images are
    assert len(outputs) == shape[0] // 24
    for image in outputs:
        (gradient,) = torch.autograd.grad(image[2, 5], features, retain_graph=True)
        assert torch.equal(gradient[0].abs().sum(0).nonzero(), torch.tensor([[2, 5]]))


@pytest.mark.parametrize(("target", "features"), [((7,), (5, 4, 6)), ((24,), (20,)), ((24,), (6, 5)), ((1, 6, 4), (5, 4, 6))])
def test_a_reconstruction_whose_features_are_no_map_of_the_image_reads_them_all(
    target: tuple[int, ...], features: tuple[int, ...]
) -> None:
    heads = made(TargetSpec("reconstruction", shape=target), features)
    assert isinstance(heads, LinearHeads)
    width = torch.Size(features).numel()
    assert heads.weight.shape == (3, torch.Size(target).numel(), width)
    x = torch.randn(2, *features)
    torch.testing.assert_close(heads(x)[1], separate(width, heads.weight.shape[1], 3)[1](x.flatten(1)))
