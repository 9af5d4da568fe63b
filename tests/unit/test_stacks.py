"""T modules as one against the same modules one after the other."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders.base import Dropout, Encoder
from mtl_runner.encoders.cnn import CNN
from mtl_runner.encoders.mlp import MLP, Residual
from mtl_runner.encoders.stack import _LARGE, EncoderStack, OneByOne, each, run, stack
from mtl_runner.encoders.stacked import Stacked, StackedLinear
from mtl_runner.encoders.stems import VectorStem

T, N = 4, 9
SPEC = StreamSpec({"numeric": (3,), "categorical": (2,)}, (5, 4))
FIELDS = {"numeric": torch.randn(N, 3), "categorical": torch.randint(4, (N, 2))}
LAYERS: dict[str, Any] = {
    "linear": lambda: nn.Linear(6, 6),
    "linear without bias": lambda: nn.Linear(6, 6, bias=False),
    "layer norm": lambda: _moved(nn.LayerNorm(6)),
    "batch norm": lambda: _moved(nn.BatchNorm1d(6)),
    "dropout": lambda: Dropout(0.4),
    "chain": lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), Dropout(0.3), nn.Linear(8, 6)),
    "chain that begins alike": lambda: nn.Sequential(nn.Tanh(), nn.Linear(6, 6)),
    "residual": lambda: Residual(nn.Sequential(nn.Linear(6, 6), nn.GELU())),
    "unknown": lambda: nn.Sequential(nn.Flatten(), nn.PReLU(), nn.Linear(6, 6)),
}
layers = pytest.mark.parametrize("layer", LAYERS)


def _moved(layer: Any) -> nn.Module:
    """With scales and shifts that are not 1 and 0."""
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.normal_()
    return layer  # type: ignore[no-any-return]


def both(layer: str) -> tuple[list[nn.Module], nn.Module]:
    """Four modules, and the stack of their copies."""
    torch.manual_seed(1)
    modules = [LAYERS[layer]() for _ in range(T)]
    return modules, stack([copy.deepcopy(module) for module in modules])


def alone(modules: Sequence[nn.Module], x: Tensor, apart: bool) -> Tensor:
    return torch.stack([module(x[t] if apart else x) for t, module in enumerate(modules)])


@layers
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_stack_gives_what_its_modules_give_and_the_same_gradients(layer: str, apart: bool, training: bool) -> None:
    modules, together = both(layer)
    together.train(training)
    for module in modules:
        module.train(training)
    x = torch.randn(T, N, 6) if apart else torch.randn(N, 6)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, (found, is_apart) = alone(modules, one, apart), run(together, other, None, apart)
    torch.testing.assert_close(found, expected)
    assert is_apart
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    found.backward(upstream)
    torch.testing.assert_close(other.grad, one.grad)
    values = each(together)
    for place, same in enumerate(zip(*(module.parameters() for module in modules), strict=True)):
        torch.testing.assert_close(values[place].detach(), torch.stack(same).detach())
    gradients = [parameter.grad for parameter in together.parameters()]
    if not isinstance(together, OneByOne):
        theirs = [torch.stack([p.grad for p in same]) for same in zip(*(m.parameters() for m in modules), strict=True)]
        torch.testing.assert_close(gradients, theirs, atol=1e-5, rtol=1e-4)
    for buffers in zip(*(module.buffers() for module in modules), strict=True):
        assert any(
            torch.allclose(torch.stack(buffers).to(own), own) for own in together.buffers() if own.shape[1:] == buffers[0].shape
        )


@layers
@pytest.mark.parametrize("rows", [[2], [1, 2], [3, 0]])
@pytest.mark.parametrize("apart", [False, True])
def test_some_rows_run_alone(layer: str, rows: list[int], apart: bool) -> None:
    modules, together = both(layer)
    assert isinstance(together, Stacked)
    together.train()
    x = torch.randn(len(rows), N, 6) if apart else torch.randn(N, 6)
    chosen = [modules[row].train() for row in rows]
    torch.testing.assert_close(together(x, None, apart, rows), alone(chosen, x, apart))
    before = {name: value.clone() for name, value in together.named_buffers()}
    rest = [row for row in range(T) if row not in rows]
    whole = copy.deepcopy(together).eval()(torch.ones(N, 6))[rest]
    untouched = both(layer)[1]
    assert isinstance(untouched, Stacked)
    torch.testing.assert_close(whole, untouched.eval()(torch.ones(N, 6))[rest])  # the others' statistics did not move
    assert before.keys() == dict(together.named_buffers()).keys()


def test_a_layer_that_is_alike_for_all_is_there_once() -> None:
    relu = nn.ReLU()
    assert stack([relu, nn.ReLU()]) is relu
    chain = stack([nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(3)])
    assert len(list(chain.modules())) == 4 and each(relu) == []


def test_large_layers_and_unknown_ones_run_one_by_one() -> None:
    edge = _LARGE // 128
    assert isinstance(stack([nn.Linear(edge, 128) for _ in range(2)]), StackedLinear)
    assert isinstance(stack([nn.Linear(edge + 1, 128) for _ in range(2)]), OneByOne)
    assert isinstance(stack([nn.Sequential(nn.Linear(2, 2), nn.Conv1d(1, 1, 1)) for _ in range(2)]), OneByOne)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "layer", "dropout": 0.3},
        {"norm": "batch", "activation": "tanh"},
        {"residual": True, "hidden": (7, 7, 7)},
        {"hidden": (600, 600)},
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [False, True])
def test_encoders_of_a_stream_as_one(options: dict[str, Any], training: bool) -> None:
    encoders: list[Encoder] = [MLP({"x": SPEC}, **({"hidden": (7, 5)} | options)) for _ in range(T)]
    together = EncoderStack([copy.deepcopy(encoder) for encoder in encoders], "x").train(training)
    expected = torch.stack([encoder.train(training)("x", FIELDS) for encoder in encoders])
    torch.testing.assert_close(together(FIELDS), expected)
    assert sum(p.numel() for p in together.parameters()) == sum(p.numel() for e in encoders for p in e.parameters())
    stages = [torch.stack(same) for same in zip(*(encoder.stages.parameters() for encoder in encoders), strict=True)]
    torch.testing.assert_close([values for stage in together.each_stage() for values in stage], stages)


def test_image_encoders_run_one_by_one_from_their_first_stage_to_their_last() -> None:
    encoders: list[Encoder] = [CNN({"x": StreamSpec({"image": (1, 6, 6)})}, channels=(2, 3), width=4) for _ in range(T)]
    together = EncoderStack([copy.deepcopy(encoder) for encoder in encoders], "x")
    fields = {"image": torch.randn(N, 1, 6, 6)}
    assert together.apart_all_the_way
    torch.testing.assert_close(together(fields), torch.stack([encoder("x", fields) for encoder in encoders]))


def test_a_category_that_training_does_not_know_stays_zero() -> None:
    stems = [VectorStem(SPEC, 2) for _ in range(T)]
    together = stack(stems)
    together(FIELDS | {"categorical": torch.zeros(N, 2, dtype=torch.long)}).square().sum().backward()
    together(FIELDS).sum().backward()
    for table in together.parameters():
        assert not table.grad[:, 0].any() and not table.detach()[:, 0].any() and table.grad.any()


@pytest.mark.parametrize("layer", ["linear", "batch norm", "unknown"])
def test_what_is_frozen_stays_frozen_and_in_evaluation_mode(layer: str) -> None:
    modules = [LAYERS[layer]().requires_grad_(False) for _ in range(T)]
    together = stack(modules).train()
    assert not together.training and not any(parameter.requires_grad for parameter in together.parameters())
    before = copy.deepcopy(together.state_dict())
    together(torch.randn(N, 6))
    assert all(torch.equal(value, before[name]) for name, value in together.state_dict().items())
