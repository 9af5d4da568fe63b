"""Sharing modes against what they say that they share, and their penalties against double loops."""

import copy
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders.base import Encoder
from mtl_runner.encoders.cnn import CNN
from mtl_runner.encoders.mlp import MLP
from mtl_runner.seeding import seeded
from mtl_runner.sharing.base import Sharing
from mtl_runner.sharing.hard import Hard
from mtl_runner.sharing.none import NoSharing
from mtl_runner.sharing.soft import Soft

NARROW, WIDE = StreamSpec({"numeric": (3,)}), StreamSpec({"numeric": (4,), "categorical": (1,)}, (5,))
LAYOUTS: dict[str, tuple[dict[str, StreamSpec], dict[str, str]]] = {
    "one task": ({"x": WIDE}, {"a": "x"}),
    "one stream": ({"x": WIDE}, {"a": "x", "b": "x", "c": "x"}),
    "two streams": ({"x": WIDE, "y": WIDE}, {"a": "x", "b": "y", "c": "x"}),
    "two widths": ({"x": WIDE, "y": NARROW}, {"a": "x", "b": "y", "c": "x"}),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def factory(specs: dict[str, StreamSpec], seed: int = 0, **options: Any) -> Callable[[Sequence[str], str], Encoder]:
    def make(streams: Sequence[str], name: str) -> Encoder:
        with seeded(seed, "encoder", name):
            return MLP({stream: specs[stream] for stream in streams}, **({"hidden": (6, 5, 4)} | options))

    return make


def inputs_of(specs: dict[str, StreamSpec], rows: int = 7) -> dict[str, dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(0)
    inputs = {}
    for stream, spec in specs.items():
        inputs[stream] = {"numeric": torch.randn(rows, *spec.fields["numeric"], generator=draws)}
        if spec.cardinalities:
            inputs[stream]["categorical"] = torch.randint(spec.cardinalities[0], (rows, 1), generator=draws)
    return inputs


def make(mode: type[Sharing], layout: str, **options: Any) -> Sharing:
    specs, streams = LAYOUTS[layout]
    return mode(factory(specs), streams, **options)  # type: ignore[call-arg]


def reached(sharing: Sharing, layout: str) -> dict[str, set[str]]:
    """The parameters that each task's features depend on, by autograd."""
    specs, streams = LAYOUTS[layout]
    own = {}
    for task in streams:
        inputs = inputs_of(specs)
        sharing.zero_grad()
        sharing.branch(task, sharing.trunk(inputs), inputs).sum().backward()
        own[task] = {name for name, parameter in sharing.named_parameters() if parameter.grad is not None}
    return own


MODES: list[tuple[type[Sharing], dict[str, Any]]] = [
    *((Hard, {"shared_stages": share}) for share in (0.0, 0.34, 0.67, 1.0)),
    (NoSharing, {}),
    (Soft, {}),
]


@layouts
@pytest.mark.parametrize(("mode", "options"), MODES)
def test_shared_is_exactly_what_two_or_more_tasks_reach(mode: Any, options: dict[str, Any], layout: str) -> None:
    sharing = make(mode, layout, **options)
    own = reached(sharing, layout)
    twice = {name for a, b in combinations(own.values(), 2) for name in a & b}
    said = [id(parameter) for parameter in sharing.shared()]
    names = {name for name, parameter in sharing.named_parameters() if id(parameter) in said}
    assert names == twice and len(said) == len(set(said))
    assert set().union(*own.values()) == {name for name, _ in sharing.named_parameters()}  # and no parameter is idle


@layouts
@pytest.mark.parametrize(("mode", "options"), MODES)
def test_together_is_equal_exactly_for_tasks_with_the_same_features(mode: Any, options: dict[str, Any], layout: str) -> None:
    specs, streams = LAYOUTS[layout]
    sharing, inputs = make(mode, layout, **options), inputs_of(specs)
    boundary = sharing.trunk(inputs)
    features = {task: sharing.branch(task, boundary, inputs) for task in streams}
    assert all(value.shape[1:] == sharing.features.shape for value in features.values())
    for a, b in combinations(streams, 2):
        assert (sharing.together(a) == sharing.together(b)) == torch.equal(features[a], features[b])


@pytest.mark.parametrize("layout", ["one task", "one stream", "two streams"])
def test_hard_sharing_shares_the_first_stages_and_gives_each_task_the_rest(layout: str) -> None:
    specs, streams = LAYOUTS[layout]
    inputs = inputs_of(specs)
    for share, depth in ((0.0, 0), (0.3, 1), (0.7, 2), (1.0, 3)):
        sharing = make(Hard, layout, shared_stages=share)
        shared = factory(specs)(sorted(set(streams.values())), "shared")
        for task, stream in streams.items():
            own = factory(specs)(sorted(set(streams.values())), task)
            x = shared.stem(stream, inputs[stream])
            for stage in [*shared.stages[:depth], *own.stages[depth:]]:
                x = stage(x)
            assert torch.equal(sharing.branch(task, sharing.trunk(inputs), inputs), x)


@layouts
@pytest.mark.parametrize("mode", [NoSharing, Soft])
def test_a_network_of_its_own_is_the_one_that_its_task_has_alone(mode: Any, layout: str) -> None:
    specs, streams = LAYOUTS[layout]
    together, inputs = make(mode, layout), inputs_of(specs)
    for task, stream in streams.items():
        names = [stream] if mode is NoSharing else sorted(specs)
        expected = factory(specs)(names, task)(stream, inputs[stream])
        assert torch.equal(together.branch(task, together.trunk(inputs), inputs), expected)


def test_without_sharing_a_tasks_part_is_its_network_and_other_tasks_do_not_move_it() -> None:
    specs, _ = LAYOUTS["one stream"]
    sharing, alone = make(NoSharing, "one stream"), NoSharing(factory(specs), {"b": "x"})
    assert sharing.independent and not Soft.independent and not Hard.independent
    for name, value in sharing.network("b").state_dict().items():
        assert torch.equal(value, alone.network("b").state_dict()[name])


# ---- the penalties of soft sharing --------------------------------------------------------------------------------


def matched(sharing: Soft) -> list[list[Tensor]]:
    """The parameters that are to be pulled together: of the stages over all tasks, then of the stems over those of a stream."""
    stages: dict[str, list[Tensor]] = {}
    stems: dict[str, dict[str, list[Tensor]]] = {stream: {} for stream in sorted(set(sharing.streams.values()))}
    for stream, network in zip(sharing.streams.values(), sharing.networks, strict=True):
        for name, parameter in network.named_parameters():
            found = stages if name.startswith("stages") else stems[stream]
            found.setdefault(name, []).append(parameter)
    groups = [*stages.values(), *(values for own in stems.values() for values in own.values())]
    return [values for values in groups if len(values) > 1]


def size(values: Tensor, norm: str) -> Tensor:
    total = torch.zeros((), dtype=values.dtype)
    for value in values.flatten():
        total = total + (value.abs() if norm == "l1" else value * value)
    return total


def by_loops(sharing: Soft) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    centers = iter(sharing.center)
    for values in matched(sharing):
        if sharing.target == "pairs":
            for a, b in combinations(values, 2):
                total = total + size(a - b, sharing.norm)
        else:
            anchor = next(centers) if sharing.target == "center" else sum(values) / len(values)
            for value in values:
                total = total + size(value - anchor, sharing.norm)
    return sharing.strength * total


@pytest.mark.parametrize("layout", ["one stream", "two streams", "two widths"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("to", ["centroid", "center", "pairs"])
def test_a_penalty_is_its_formula_values_and_gradients(to: Any, norm: Any, layout: str) -> None:
    sharing = make(Soft, layout, strength=0.7, norm=norm, to=to).double()
    assert isinstance(sharing, Soft)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in sharing.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=torch.float64, generator=draws)
    penalty, expected = sharing.penalty(), by_loops(sharing)
    assert penalty is not None
    torch.testing.assert_close(penalty, expected)
    parameters = list(sharing.parameters())
    for mine, loops in zip(
        torch.autograd.grad(penalty, parameters, allow_unused=True),
        torch.autograd.grad(expected, parameters, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, loops)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("to", ["centroid", "center", "pairs"])
def test_equal_networks_are_not_penalised_and_the_penalty_pulls_unequal_ones_together(to: Any, norm: Any) -> None:
    specs, streams = LAYOUTS["one stream"]
    make_encoder = factory(specs)
    same = Soft(lambda names, _: make_encoder(names, "same"), streams, norm=norm, to=to)
    penalty = same.penalty()
    assert penalty is not None and penalty.item() == pytest.approx(0, abs=1e-6)

    apart = make(Soft, "one stream", norm=norm, to=to, strength=1.0)
    optimizer = torch.optim.SGD(apart.parameters(), lr=1e-3)
    before = apart.penalty().item()
    for _ in range(20):
        optimizer.zero_grad()
        apart.penalty().backward()
        optimizer.step()
    assert apart.penalty().item() < before


def test_the_centre_starts_in_the_middle_and_does_not_exist_for_the_other_targets() -> None:
    sharing = make(Soft, "one stream", to="center")
    for center, values in zip(sharing.center, matched(sharing), strict=True):
        torch.testing.assert_close(center.detach(), sum(values).detach() / 3)
    assert not len(make(Soft, "one stream", to="pairs").center)


def test_the_centre_follows_weights_that_are_loaded() -> None:
    sharing = make(Soft, "one stream", to="center")
    with torch.no_grad():
        for parameter in sharing.networks.parameters():
            parameter.fill_(3.0)
    sharing.after_load()
    assert all((center == 3).all() and center.requires_grad for center in sharing.center)


@pytest.mark.parametrize("to", ["centroid", "center", "pairs"])
def test_frozen_parameters_are_not_pulled(to: Any) -> None:
    sharing = make(Soft, "one stream", to=to)
    for network in sharing.networks:
        network.stages[0].requires_grad_(False)
    sharing.penalty().backward()
    assert all(parameter.grad is None for network in sharing.networks for parameter in network.stages[0].parameters())
    assert all(parameter.grad is not None for network in sharing.networks for parameter in network.stages[1].parameters())
    sharing.networks.requires_grad_(False)
    assert sharing.penalty() is None


def test_there_is_no_penalty_for_one_task_nor_for_strength_0_nor_in_the_other_modes() -> None:
    assert make(Soft, "one task").penalty() is None
    assert make(Soft, "one stream", strength=0.0).penalty() is None
    assert make(Hard, "one stream").penalty() is None and make(NoSharing, "one stream").penalty() is None


@pytest.mark.parametrize("mode", [Hard, NoSharing, Soft])
def test_modes_take_the_stages_of_any_encoder(mode: Any) -> None:
    specs = {"x": StreamSpec({"image": (1, 8, 8)})}

    def encoder(streams: Sequence[str], name: str) -> Encoder:
        return CNN({stream: specs[stream] for stream in streams}, channels=(2, 3), width=5)

    sharing = mode(encoder, {"a": "x", "b": "x"}, **({"shared_stages": 0.5} if mode is Hard else {}))
    inputs = {"x": {"image": torch.randn(4, 1, 8, 8)}}
    assert sharing.branch("b", sharing.trunk(inputs), inputs).shape == (4, 5)
    restored = copy.deepcopy(sharing)
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.zeros(sum(p.numel() for p in restored.parameters())), restored.parameters())
    restored.load_state_dict(sharing.state_dict())
    assert torch.equal(
        restored.eval().branch("a", restored.trunk(inputs), inputs), sharing.eval().branch("a", sharing.trunk(inputs), inputs)
    )
