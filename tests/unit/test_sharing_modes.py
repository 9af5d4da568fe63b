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
from mtl_runner.errors import UserError
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
            return MLP({stream: specs[stream] for stream in streams}, **({"hidden": (6, 5, 4), "activation": "tanh"} | options))

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


def features(sharing: Sharing, task: str, inputs: Any) -> Tensor:
    """Of one task, [N, …]."""
    found = sharing.branch([task], sharing.trunk(inputs), inputs)
    return found[0] if found.ndim > len(sharing.features.shape) + 1 else found


def reached(sharing: Sharing, layout: str) -> dict[str, set[tuple[str, int]]]:
    """The entries of the parameters that each task's features depend on, by autograd."""
    specs, streams = LAYOUTS[layout]
    own = {}
    for task in streams:
        inputs = inputs_of(specs)
        sharing.zero_grad()
        features(sharing, task, inputs).square().sum().backward()
        own[task] = {
            (name, entry)
            for name, parameter in sharing.named_parameters()
            if parameter.grad is not None
            for entry in parameter.grad.flatten().nonzero().flatten().tolist()
        }
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
    twice = {name for a, b in combinations(own.values(), 2) for name, _ in a & b}
    said = [id(parameter) for parameter in sharing.shared()]
    names = {name for name, parameter in sharing.named_parameters() if id(parameter) in said}
    assert names == twice and len(said) == len(set(said))
    assert {name for name, _ in set().union(*own.values())} == {name for name, _ in sharing.named_parameters()}  # none is idle


@layouts
@pytest.mark.parametrize(("mode", "options"), MODES)
def test_tasks_that_run_together_have_the_features_that_each_has_alone(mode: Any, options: dict[str, Any], layout: str) -> None:
    specs, streams = LAYOUTS[layout]
    sharing, inputs = make(mode, layout, **options), inputs_of(specs)
    boundary = sharing.trunk(inputs)
    teams: dict[Any, list[str]] = {}
    for task in streams:
        teams.setdefault(sharing.together(task), []).append(task)
    for team in teams.values():
        found = sharing.branch(team, boundary, inputs)
        for place, task in enumerate(team):
            alone = features(sharing, task, inputs)
            assert alone.shape[1:] == sharing.features.shape
            torch.testing.assert_close(found[place] if found.ndim > alone.ndim else found, alone)


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
            torch.testing.assert_close(features(sharing, task, inputs), x)


@layouts
@pytest.mark.parametrize("mode", [NoSharing, Soft])
def test_a_network_of_its_own_is_the_one_that_its_task_has_alone(mode: Any, layout: str) -> None:
    specs, streams = LAYOUTS[layout]
    together, inputs = make(mode, layout), inputs_of(specs)
    for task, stream in streams.items():
        names = [stream] if mode is NoSharing else sorted(specs)
        expected = factory(specs)(names, task)(stream, inputs[stream])
        torch.testing.assert_close(features(together, task, inputs), expected)


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
    for stack in sharing.stack_list():
        for name, parameter in stack.named_parameters():
            found = stages if name.startswith("stages") else stems[stack.stream]
            found.setdefault(name, []).extend(parameter)  # [tasks of the stream, …]
    groups = [*stages.values(), *(values for own in stems.values() for values in own.values())]
    return [values for values in groups if len(values) > 1]


def size(values: Tensor, norm: str) -> Tensor:
    if norm == "group":
        return values.norm()
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
    return 0.7 * total


@pytest.mark.parametrize("layout", ["one stream", "two streams", "two widths"])
@pytest.mark.parametrize("norm", ["l1", "l2", "group"])
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
    centers = list(sharing.center)
    assert len(parameters) > len(centers) and (to == "center") == bool(centers)
    for mine, loops in zip(
        torch.autograd.grad(penalty, parameters, allow_unused=True),
        torch.autograd.grad(expected, parameters, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, loops)


@pytest.mark.parametrize("norm", ["l1", "l2", "group"])
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


def test_each_stage_has_its_strength() -> None:
    """The penalty is the strengths' combination of what single stages cost."""
    alone = [make(Soft, "one stream", strength=[float(place == stage) for place in range(3)]).penalty() for stage in range(3)]
    mixed = make(Soft, "one stream", strength=[0.5, 0.0, 2.0]).penalty()
    torch.testing.assert_close(mixed, 0.5 * alone[0] + 2 * alone[2])
    assert all(cost > 0 for cost in alone)
    with pytest.raises(UserError, match="this encoder has 3 stages, and needs as many numbers, or one"):
        make(Soft, "one stream", strength=[1.0, 2.0])


def test_the_distances_of_the_networks_are_a_table() -> None:
    sharing = make(Soft, "two streams")
    table = sharing.tables()["distances"]
    assert table.rows == table.columns == ("a", "b", "c")
    stages = {task: [] for task in sharing.tasks}
    for values in matched(sharing):
        if len(values) == 3:  # the stages', in the order of the streams: a and c read x, b reads y
            for task, value in zip("acb", values, strict=True):
                stages[task].append(value.detach().flatten())
    for i, one in enumerate(table.rows):
        for j, other in enumerate(table.rows):
            expected = (torch.cat(stages[one]) - torch.cat(stages[other])).norm()
            assert table.values[i, j].item() == pytest.approx(expected.item(), abs=1e-3)


def test_the_vectors_of_the_networks_come_in_the_order_of_the_tasks() -> None:
    """By stream they are in another order, here b, c, a."""
    specs, streams = LAYOUTS["two streams"][0], {"a": "y", "b": "x", "c": "x"}
    sharing = Soft(factory(specs), streams)
    assert sharing.by_stream() == ["b", "c", "a"]
    for place, task in enumerate(sharing.tasks):
        network = factory(specs)(["x", "y"], task)
        torch.testing.assert_close(sharing.vectors()[place].sum(), sum(p.sum() for p in network.stages.parameters()))


@pytest.mark.parametrize("to", ["centroid", "center", "pairs"])
def test_frozen_parameters_are_not_pulled(to: Any) -> None:
    sharing = make(Soft, "one stream", to=to)
    (networks,) = sharing.stack_list()
    networks.stages[0].requires_grad_(False)
    networks.stem.requires_grad_(False)
    sharing.penalty().backward()
    assert all(parameter.grad is None for parameter in networks.stages[0].parameters())
    assert all(parameter.grad is not None for parameter in networks.stages[1].parameters())
    networks.requires_grad_(False)
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
    assert features(sharing, "b", inputs).shape == (4, 5)
    restored = copy.deepcopy(sharing)
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.zeros(sum(p.numel() for p in restored.parameters())), restored.parameters())
    restored.load_state_dict(sharing.state_dict())
    assert torch.equal(features(restored.eval(), "a", inputs), features(sharing.eval(), "a", inputs))
