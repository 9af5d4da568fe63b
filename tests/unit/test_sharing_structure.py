"""Shared and private encoders, adapters and task graphs against plain loops over the tasks."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mtl_runner.batch import StreamSpec, TargetSpec
from mtl_runner.encoders.base import Encoder
from mtl_runner.encoders.cnn import CNN
from mtl_runner.encoders.mlp import MLP
from mtl_runner.encoders.resnet import ResNet
from mtl_runner.encoders.rnn import RNN
from mtl_runner.encoders.transformer import Transformer
from mtl_runner.encoders.unet import UNet
from mtl_runner.errors import UserError
from mtl_runner.model import MultiTaskModel
from mtl_runner.seeding import seeded
from mtl_runner.sharing.adapters import Adapters
from mtl_runner.sharing.base import Sharing
from mtl_runner.sharing.graphs import LearnedEdges, levels
from mtl_runner.sharing.hard import Hard
from mtl_runner.sharing.shared_private import SharedPrivate, overlap
from mtl_runner.sharing.task_graph import TaskGraph
from mtl_runner.tasks import make_tasks

NUMBERS, IMAGE, TOKENS = (
    StreamSpec({"numeric": (5,)}),
    StreamSpec({"image": (1, 8, 8)}),
    StreamSpec({"tokens": (6,)}, vocabulary=11),
)
ENCODERS: dict[str, tuple[Callable[..., Encoder], StreamSpec, dict[str, Any]]] = {
    "mlp": (MLP, NUMBERS, {"hidden": (6, 4)}),
    "mlp with batch norm and dropout": (MLP, NUMBERS, {"hidden": (6, 4), "norm": "batch", "dropout": 0.5}),
    "cnn": (CNN, IMAGE, {"channels": (2, 3), "width": 5}),
    "unet": (UNet, IMAGE, {"channels": 2, "depth": 1}),
    "resnet": (ResNet, IMAGE, {"width": 2}),
    "rnn": (RNN, TOKENS, {"width": 3, "embedding_size": 4}),
    "transformer": (Transformer, TOKENS, {"width": 4, "layers": 2, "heads": 2, "dropout": 0.0, "pool": "none"}),
}
SHAPES = ["mlp", "unet", "transformer"]
"""Features that are vectors, maps and sequences."""
ONE = {"a": "x", "b": "x", "c": "x"}
TWO = {"a": "x", "b": "y", "c": "x"}
layouts = pytest.mark.parametrize("streams", [ONE, TWO, {"a": "x"}], ids=["one stream", "two streams", "one task"])
Inputs = dict[str, dict[str, Tensor]]


def factory(kind: str) -> Callable[[Sequence[str], str], Encoder]:
    architecture, spec, options = ENCODERS[kind]

    def make(names: Sequence[str], name: str) -> Encoder:
        with seeded(0, name):
            return architecture(dict.fromkeys(names, spec), **options)

    return make


def inputs_of(kind: str, streams: Iterable[str]) -> Inputs:
    """Streams have rows of their own; the last positions of some tokens are padding."""
    inputs, draws = {}, torch.Generator().manual_seed(0)
    for place, stream in enumerate(sorted(set(streams))):
        rows = 7 + 2 * place
        if ENCODERS[kind][1] is TOKENS:
            tokens = torch.randint(1, 11, (rows, 6), generator=draws)
            tokens[::2, 4:] = 0
            inputs[stream] = {"tokens": tokens}
        else:
            ((field, shape),) = ENCODERS[kind][1].fields.items()
            inputs[stream] = {field: torch.randn(rows, *shape, generator=draws)}
    return inputs


def make(mode: type[Sharing], kind: str, streams: Mapping[str, str], /, **options: Any) -> Any:
    with seeded(0, "mode"):
        return mode(factory(kind), streams, **options)  # type: ignore[call-arg]


def shaken(module: nn.Module, scale: float = 0.3) -> None:
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=draws)


def of(sharing: Sharing, task: str, inputs: Inputs) -> Tensor:
    (features,) = sharing.branch([task], sharing.trunk(inputs), inputs)
    return features


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- shared and private encoders ----------------------------------------------------------------------------------


@layouts
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("join", ["concat", "sum"])
def test_features_are_those_of_both_encoders(join: str, kind: str, streams: dict[str, str]) -> None:
    sharing, inputs, names = (
        make(SharedPrivate, kind, streams, join=join),
        inputs_of(kind, streams.values()),
        sorted({*streams.values()}),
    )
    for task, stream in streams.items():
        shared, private = (factory(kind)(names, name)(stream, inputs[stream]) for name in ("shared", task))
        axis = 1 if kind == "unet" else shared.ndim - 1
        expected = torch.cat([shared, private], axis) if join == "concat" else shared + private
        features = of(sharing, task, inputs)
        assert features.shape[1:] == sharing.features.shape
        torch.testing.assert_close(features, expected)
    assert count(sharing) == count(factory(kind)(names, "")) + sum(count(factory(kind)([each], "")) for each in streams.values())


def test_some_tasks_in_another_order_have_the_same_features() -> None:
    sharing, inputs = make(SharedPrivate, "mlp", ONE), inputs_of("mlp", "x")
    for tasks in (["c", "a"], ["b"], ["b", "c"], ["c", "b", "a"]):
        expected = torch.stack([of(sharing, task, inputs) for task in tasks])
        torch.testing.assert_close(sharing.branch(tasks, sharing.trunk(inputs), inputs), expected)


def test_overlap_is_its_formula_and_between_none_and_all() -> None:
    shared, private = torch.randn(9, 4, dtype=torch.float64), torch.randn(3, 9, 5, dtype=torch.float64)
    for found, each in zip(overlap(shared, private), private, strict=True):
        rows = []
        for values in (shared, each):
            centred = values - values.mean(0)
            rows.append(torch.stack([row / row.norm() for row in centred]))
        torch.testing.assert_close(found, torch.linalg.matrix_norm(rows[0].T @ rows[1]) ** 2 / 81)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    same, other = (
        torch.stack([signs, 0 * signs], 1),
        torch.stack([signs, signs.roll(1) * torch.tensor([1.0, -1.0, -1.0, 1.0])], 1),
    )
    assert overlap(same, same[None]).item() == pytest.approx(1)
    columns = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert overlap(columns[:, :1], columns[None, :, 1:]).item() == pytest.approx(0)
    assert 0 <= overlap(same, other[None]).item() <= 1


@pytest.mark.parametrize("kind", ["mlp with batch norm and dropout", "unet", "transformer"])
@pytest.mark.parametrize("streams", [ONE, TWO], ids=["one stream", "two streams"])
def test_the_orthogonality_is_that_of_the_forward_pass_whose_graph_is_gone(kind: str, streams: dict[str, str]) -> None:
    sharing, inputs = make(SharedPrivate, kind, streams, orthogonality=0.7), inputs_of(kind, streams.values())
    sharing.train()
    width = sharing.features.shape[0 if kind == "unet" else -1] // 2
    shared, total = sharing.trunk(inputs), torch.zeros(())
    for task, stream in streams.items():
        (both,) = sharing.branch([task], shared, inputs)
        pair = both.split(width, 1 if kind == "unet" else -1)
        mask = sharing.encoder.mask(inputs[stream])
        one, other = (sharing.vector(each, None if mask is None else mask) for each in pair)
        total = total + 0.7 * overlap(one, other[None]).sum() / 3
    expected = torch.autograd.grad(total, list(sharing.parameters()))  # frees the graph, as weightings do
    buffers = [value.clone() for value in sharing.buffers()]
    states = [each.get_extra_state() for each in sharing.modules() if hasattr(each, "generator")]
    penalty = sharing.penalty()
    torch.testing.assert_close(penalty, total)
    sharing.zero_grad()
    penalty.backward()
    for parameter, gradient in zip(sharing.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(one, other) for one, other in zip(buffers, sharing.buffers(), strict=True))
    after = [each.get_extra_state() for each in sharing.modules() if hasattr(each, "generator")]
    assert all(torch.equal(one, other) for one, other in zip(states, after, strict=True))
    assert sharing.penalty() is None  # once
    of(sharing.eval(), "a", inputs)
    assert sharing.penalty() is None


def test_frozen_layers_with_batch_statistics_may_be_penalised() -> None:
    sharing, inputs = make(SharedPrivate, "cnn", ONE, orthogonality=1.0), inputs_of("cnn", "x")
    sharing.encoder.stages[0][1].requires_grad_(False)
    sharing.train()
    sharing.encoder.stages[0][1].eval()
    of(sharing, "a", inputs)
    sharing.penalty().backward()
    assert sharing.encoder.stages[0][0].weight.grad.any()


def test_frozen_encoders_are_not_penalised() -> None:
    """There is nothing that the orthogonality could move."""
    sharing, inputs = make(SharedPrivate, "mlp", ONE, orthogonality=1.0), inputs_of("mlp", "x")
    sharing.requires_grad_(False).train()
    of(sharing, "a", inputs)
    assert sharing.penalty() is None


def test_the_shared_encoder_goes_against_what_tells_streams_apart() -> None:
    sharing, inputs = make(SharedPrivate, "mlp", TWO, adversarial=0.3), inputs_of("mlp", "xy")
    shaken(sharing)
    shared = sharing.train().trunk(inputs)
    losses = [
        functional.cross_entropy(sharing.discriminator(rows), torch.full((len(rows),), place))
        for place, rows in enumerate(shared)
    ]
    assert [len(rows) for rows in shared] == [7, 9]
    expected = sum(losses) / 2
    encoder, discriminator = list(sharing.encoder.parameters()), list(sharing.discriminator.parameters())
    gradients = torch.autograd.grad(expected, [*encoder, *discriminator], allow_unused=True)
    penalty = sharing.penalty()
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    for place, (parameter, gradient) in enumerate(zip([*encoder, *discriminator], gradients, strict=True)):
        torch.testing.assert_close(parameter.grad, gradient * (-0.3 if place < len(encoder) else 1))
    assert all(parameter.grad is None for parameter in sharing.stacks.parameters())


def test_one_stream_has_nothing_to_tell_apart() -> None:
    with pytest.raises(UserError, match=r"sharing.adversarial=0.3: all tasks read one input stream.*needs several streams"):
        make(SharedPrivate, "mlp", ONE, adversarial=0.3)


# ---- adapters -----------------------------------------------------------------------------------------------------


@layouts
@pytest.mark.parametrize(
    ("adapter", "kind"),
    [*itertools.product(["residual"], ["cnn", *SHAPES, "rnn"]), *itertools.product(["low_rank"], ["cnn", "mlp", "transformer"])],
)
def test_adapters_start_as_hard_sharing(adapter: str, kind: str, streams: dict[str, str]) -> None:
    sharing, inputs = make(Adapters, kind, streams, kind=adapter).train(), inputs_of(kind, streams.values())
    hard = make(Hard, kind, streams).train()
    for task in streams:
        torch.testing.assert_close(of(sharing, task, inputs), hard.branch([task], hard.trunk(inputs), inputs))
    shaken(sharing)
    assert all(
        not torch.allclose(of(sharing, task, inputs), of(sharing, "a", inputs))
        for task in streams
        if streams[task] == "x" and task != "a"
    )


def along(x: Tensor, weight: Tensor, bias: Tensor, maps: bool) -> Tensor:
    return functional.conv2d(x, weight[:, :, None, None], bias) if maps else functional.linear(x, weight, bias)


@pytest.mark.parametrize("streams", [ONE, TWO], ids=["one stream", "two streams"])
@pytest.mark.parametrize("kind", ["cnn", *SHAPES])
def test_residual_adapters_follow_each_stage(kind: str, streams: dict[str, str]) -> None:
    """Stage by stage for each task alone."""
    sharing, inputs = make(Adapters, kind, streams, bottleneck=3), inputs_of(kind, streams.values())
    shaken(sharing)
    sharing.eval()
    for place, (task, stream) in enumerate(streams.items()):
        x, mask = sharing.encoder.stem(stream, inputs[stream]), sharing.encoder.mask(inputs[stream])
        alone = factory(kind)(sorted({*streams.values()}), "").eval()
        own = {
            name.replace(".norm.", "."): value[place] if ".norm." in name else value  # batch normalisation of the task's own
            for name, value in sharing.encoder.state_dict().items()
        }
        alone.load_state_dict(own)
        for stage, adapter in zip(alone.stages, sharing.adapters, strict=True):
            x = stage(x) if mask is None else stage(x, mask)
            down, up = ((each.weight[place], each.bias[place], x.ndim == 4) for each in (adapter.down, adapter.up))
            x = x + along(functional.gelu(along(x, *down)), *up)
        torch.testing.assert_close(of(sharing, task, inputs), x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("streams", [ONE, TWO], ids=["one stream", "two streams"])
@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_low_rank_adapters_add_a_matrix_to_each_linear_layer(kind: str, streams: dict[str, str]) -> None:
    sharing, inputs = make(Adapters, kind, streams, kind="low_rank", rank=2, alpha=3.0), inputs_of(kind, streams.values())
    shaken(sharing)
    values = sharing.encoder.state_dict()
    for place, (task, stream) in enumerate(streams.items()):
        alone = factory(kind)(sorted({*streams.values()}), "")
        own = {name.replace(".layer.", "."): value for name, value in values.items() if not name.endswith((".A", ".B"))}
        changed = [name.removesuffix(".A") for name in values if name.endswith(".A")]
        for name in changed:
            own[f"{name}.weight"] = own[f"{name}.weight"] + 1.5 * values[f"{name}.B"][place] @ values[f"{name}.A"][place]
        alone.load_state_dict(own)
        torch.testing.assert_close(of(sharing, task, inputs), alone(stream, inputs[stream]), atol=1e-5, rtol=1e-4)
        assert len(changed) == sum(isinstance(each, nn.Linear) for each in alone.stages.modules()) > 0


@pytest.mark.parametrize(
    ("adapter", "kind"),
    [("residual", "cnn"), ("residual", "mlp with batch norm and dropout"), ("low_rank", "mlp with batch norm and dropout")],
)
def test_a_task_does_not_notice_the_others_adapters_in_training(adapter: str, kind: str) -> None:
    """Batch normalisation looks at its own rows alone."""
    inputs, found = inputs_of(kind, "x"), []
    for change in (0.0, 5.0):
        sharing = make(Adapters, kind, ONE, kind=adapter).train()
        shaken(sharing)
        with torch.no_grad():
            for name, parameter in sharing.named_parameters():
                if "adapters" in name or name.endswith((".A", ".B")):
                    parameter[1:] += change
        found.append([of(sharing, task, inputs) for task in "ab"])
    torch.testing.assert_close(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])


def test_a_loss_reaches_the_slice_of_its_task_alone() -> None:
    for adapter in ("residual", "low_rank"):
        sharing, inputs = make(Adapters, "mlp", ONE, kind=adapter), inputs_of("mlp", "x")
        shaken(sharing)
        of(sharing, "b", inputs).square().sum().backward()
        shared = {id(parameter) for parameter in sharing.shared()}
        own = [parameter for parameter in sharing.parameters() if id(parameter) not in shared]
        assert len(shared) == 4 and len(own) == (8 if adapter == "residual" else 4)
        assert all(not parameter.grad[[0, 2]].any() and parameter.grad[1].any() for parameter in own)


def test_adapters_have_as_many_parameters_as_the_formula_says() -> None:
    hard = count(make(Hard, "mlp", ONE))
    residual = sum(3 * (width * 5 + 5 + 5 * width + width) for width in (6, 4))
    assert count(make(Adapters, "mlp", ONE, bottleneck=5)) == hard + residual
    low = 3 * 2 * ((5 + 6) + (6 + 4))
    assert count(make(Adapters, "mlp", ONE, kind="low_rank", rank=2)) == hard + low


@pytest.mark.parametrize("kind", ["resnet", "rnn"])
def test_low_rank_adapters_need_linear_layers(kind: str) -> None:
    with pytest.raises(UserError, match=r"stages of this encoder have none; sharing.kind=residual takes any encoder"):
        make(Adapters, kind, ONE, kind="low_rank")


def test_the_table_has_the_size_of_what_adapters_add() -> None:
    for adapter in ("residual", "low_rank"):
        sharing = make(Adapters, "mlp", ONE, kind=adapter, rank=2, alpha=3.0)
        assert not sharing.tables()["adapters"].values.any()
        shaken(sharing)
        layers = list(sharing.adapters) or [stage[0] for stage in sharing.encoder.stages]
        for column, layer in zip(sharing.tables()["adapters"].values.T, layers, strict=True):
            product = layer.up.weight @ layer.down.weight if adapter == "residual" else 1.5 * layer.B @ layer.A
            torch.testing.assert_close(column, product.flatten(1).norm(dim=1).detach())


# ---- task graphs --------------------------------------------------------------------------------------------------

GRAPH = {"d": ["b", "a"], "b": ["a"], "e": ["d"]}
TASKS = dict.fromkeys("ecdab", "x")
SPECS = {
    "a": TargetSpec("multiclass", "x", classes=("u", "v", "w")),
    "b": TargetSpec("binary", "x", classes=("no", "yes")),
    "c": TargetSpec("multiclass", "x", classes=("u", "v", "w")),
    "d": TargetSpec("regression", "x", shape=(2,)),
    "e": TargetSpec("multiclass", "x", classes=("u", "v", "w")),
}


def own_features(sharing: TaskGraph, kind: str, share: float, task: str, inputs: Inputs) -> Tensor:
    """z of a task, by stages of its own or by one layer along the channels."""
    x, mask = sharing.encoder("x", inputs["x"]), sharing.encoder.mask(inputs["x"])
    place = list(TASKS).index(task)
    if share == 1:
        layer = sharing.own[0]
        return along(x, layer.weight[place], layer.bias[place], x.ndim == 4).relu()
    stages = factory(kind)(["x"], task).stages
    for stage in stages[round(share * len(stages)) :]:
        x = stage(x) if mask is None else stage(x, mask)
    return x


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("kind", SHAPES)
def test_features_pass_along_the_edges(kind: str, share: float) -> None:
    sharing, inputs = make(TaskGraph, kind, TASKS, edges=GRAPH, shared_stages=share), inputs_of(kind, "x")
    z = {task: own_features(sharing, kind, share, task, inputs) for task in TASKS}
    x = {task: z[task] for task in "ac"}
    maps, axis = kind == "unet", 1 if kind == "unet" else -1
    for place, (task, before) in enumerate({"b": ["a"], "d": ["b", "a"], "e": ["d"]}.items()):
        weights = sharing.incoming[place].weight.split(z["a"].shape[axis], 1)
        x[task] = z[task] + sum(along(x[name], w, torch.zeros(len(w)), maps) for name, w in zip(before, weights, strict=True))
    for task in TASKS:
        torch.testing.assert_close(of(sharing, task, inputs), x[task], atol=1e-5, rtol=1e-4)


def model_of(kind: str, **options: Any) -> tuple[MultiTaskModel, Inputs]:
    sharing = make(TaskGraph, kind, TASKS, through="outputs", edges=GRAPH, **options)
    return MultiTaskModel(sharing, make_tasks(SPECS), 0, {}), inputs_of(kind, "x")


def mean_of_words(x: Tensor) -> Tensor:
    """Over the positions that are there: at padding features are zero."""
    return torch.stack([each[each.ne(0).any(1)].mean(0) for each in x])


def by_hand(
    model: MultiTaskModel, kind: str, share: float, inputs: Inputs, constant: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Outputs of a model in which the successors read ``constant`` of their predecessors' features, by heads that do not move."""
    sharing, outputs, read = model.sharing, dict[str, Tensor](), dict[str, Tensor]()
    assert isinstance(sharing, TaskGraph)
    for task in "abcde":
        x = own_features(sharing, kind, share, task, inputs)
        if before := GRAPH.get(task, []):
            matrix = sharing.incoming["bde".index(task)].weight
            added = torch.cat([read[name] for name in before], 1) @ matrix.T
            x = x + (added[..., None, None] if x.ndim == 4 else added[:, None] if x.ndim == 3 else added)
        (group,) = [each for each in model.task_groups.values() if task in each.names]
        place, seen = group.names.index(task), x.mean((2, 3)) if x.ndim == 4 else mean_of_words(x) if x.ndim == 3 else x
        weight, bias = group.head.weight[place], group.head.bias[place]
        outputs[task] = functional.linear(seen, weight, bias)
        read[task] = functional.linear(constant(seen), weight.detach(), bias.detach())
    return {task: value.squeeze(-1) if task == "b" else value for task, value in outputs.items()}


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("kind", "share"), [("mlp", 1.0), ("mlp", 0.5), ("unet", 1.0), ("transformer", 0.5)])
def test_outputs_pass_along_the_edges_and_gradients_only_where_they_are_to(kind: str, share: float, detach: bool) -> None:
    model, inputs = model_of(kind, detach=detach, shared_stages=share)
    outputs, expected = model(inputs), by_hand(model, kind, share, inputs, Tensor.detach if detach else lambda x: x)
    parameters = dict(model.named_parameters())
    for task in TASKS:
        torch.testing.assert_close(outputs[task], expected[task], atol=1e-5, rtol=1e-4)
        mine, theirs = (
            torch.autograd.grad(
                values[task].square().sum(), [*parameters.values()], retain_graph=True, materialize_grads=True, allow_unused=True
            )
            for values in (outputs, expected)
        )
        for name, one, other in zip(parameters, mine, theirs, strict=True):
            if share == 1 or "own" not in name:  # stages of its own are others by hand
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
        for name, one in zip(parameters, mine, strict=True):
            if name.startswith("groups"):
                (group,) = (each for key, each in model.task_groups.items() if name.startswith(f"groups.{key}."))
                assert {each for each, part in zip(group.names, one, strict=True) if part.any()} <= {task}
            elif name.startswith("sharing.own") and len(one) == len(TASKS):  # side by side
                before = {"a": "", "b": "a", "c": "", "d": "ab", "e": "abd"}[task]
                assert {each for each, part in zip(TASKS, one, strict=True) if part.any()} == (
                    {task} if detach else {task, *before}
                )


def test_outputs_with_and_without_detaching_are_the_same() -> None:
    (one, inputs), (other, _) = model_of("mlp", detach=True), model_of("mlp", detach=False)
    other.load_state_dict(one.state_dict())
    for task, value in one(inputs).items():
        torch.testing.assert_close(other(inputs)[task], value)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (
            {"b": ["a"], "c": ["b"], "a": ["c"]},
            r"sharing.edges: the tasks go round in a cycle: (a → b → c → a|b → c → a → b|c → a → b → c)$",
        ),
        ({"a": ["a"]}, "in a cycle: a → a$"),
        ({"digit": ["b"]}, "there is no task digit; the tasks are a, b, c"),
        ({"a": ["bb"]}, r"there is no task bb; the tasks are a, b, c \(did you mean 'b'\?\)"),
        ({"a": ["b", "c", "b"]}, "sharing.edges.a: b is there twice"),
    ],
)
def test_an_impossible_graph_is_named(edges: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(TaskGraph, "mlp", ONE, edges=edges)


def test_learned_edges_do_not_go_through_outputs_and_a_graph_needs_one_stream() -> None:
    with pytest.raises(UserError, match=r"sharing.edges=learned needs sharing.through=features"):
        make(TaskGraph, "mlp", ONE, through="outputs")
    with pytest.raises(UserError, match=r"needs one: a task reads what others found out about the same examples"):
        make(TaskGraph, "mlp", TWO)


def test_levels_are_the_longest_ways() -> None:
    assert levels(GRAPH, list(TASKS)) == {"a": 0, "b": 1, "c": 0, "d": 2, "e": 3}
    assert levels({}, ["a", "b"]) == {"a": 0, "b": 0}


def cycles(adjacency: Tensor) -> float:
    """tr(exp(A ∘ A)) - d, which is 0 without cycles alone: Zheng et al., NeurIPS 2018."""
    return float(torch.linalg.matrix_exp(adjacency.double().square()).trace() - len(adjacency))


def test_learned_edges_have_no_cycle_and_pass_features_on_in_their_order() -> None:
    for seed in range(5):
        with seeded(seed, "edges"):
            edges = LearnedEdges(6)
        shaken(edges, 2.0)
        adjacency = edges.adjacency().detach()
        assert adjacency.count_nonzero() == 15 and cycles(adjacency) == pytest.approx(0, abs=1e-12)
        z, x = torch.randn(6, 4, 3), torch.zeros(6, 4, 3)
        for task in edges.potential.argsort().tolist():
            x[task] = z[task] + sum(adjacency[p, task] * x[p] for p in range(6))
        torch.testing.assert_close(edges(z), x, atol=1e-3, rtol=1e-3)
    assert cycles(torch.tensor([[0.0, 1.0], [1.0, 0.0]])) > 1


def test_a_graph_is_learned_without_a_cycle_at_any_step() -> None:
    """Features that pass along two edges; the order of the potentials agrees with them."""
    true = torch.zeros(4, 4)
    true[0, 2], true[2, 3] = 0.8, -0.6
    z = torch.randn(4, 200, generator=torch.Generator().manual_seed(0))
    x = torch.linalg.solve(torch.eye(4) - true.T, z)
    with seeded(0, "edges"):
        edges = LearnedEdges(4)
    edges.potential.data = torch.tensor([-1.0, 0.5, 0.0, 1.0])
    optimizer = torch.optim.Adam(edges.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        ((edges(z) - x).square().mean() + 1e-4 * edges.adjacency().abs().sum()).backward()
        optimizer.step()
        assert cycles(edges.adjacency().detach()) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(edges.adjacency().detach(), true, atol=0.02, rtol=0)


def test_tables_show_the_graph() -> None:
    sharing = make(TaskGraph, "mlp", TASKS, edges=GRAPH)
    table = sharing.tables()["graph"]
    assert table.rows == table.columns == tuple(TASKS)
    given = {(table.rows[i], table.columns[j]) for i, j in (~table.values.isnan()).nonzero().tolist()}
    assert given == {("b", "d"), ("a", "d"), ("a", "b"), ("d", "e")}
    assert table.values[table.rows.index("a"), table.columns.index("d")] == pytest.approx(
        sharing.incoming[1].weight[:, 4:].norm().item()
    )
    learned = make(TaskGraph, "mlp", TASKS, sparsity=0.5)
    assert torch.equal(learned.tables()["graph"].values, learned.learned.adjacency().detach())
    torch.testing.assert_close(learned.penalty(), 0.5 * learned.learned.adjacency().abs().sum())
    assert sharing.penalty() is None and not make(TaskGraph, "mlp", {"a": "x"}).tables()


@pytest.mark.parametrize("kind", ["mlp", "unet"])
@pytest.mark.parametrize(
    "options",
    [{"edges": GRAPH}, {"edges": GRAPH, "shared_stages": 0.5}, {}, {"edges": {}}],
    ids=["given", "own stages", "learned", "no edges"],
)
def test_shared_is_what_two_losses_reach(options: dict[str, Any], kind: str) -> None:
    sharing, inputs = make(TaskGraph, kind, TASKS, **options), inputs_of(kind, "x")
    boundary, parameters = sharing.trunk(inputs), list(sharing.parameters())
    reached = []
    for task in TASKS:
        features = sharing.branch([task], boundary, inputs).square().sum()
        found = torch.autograd.grad(features, parameters, retain_graph=True, allow_unused=True)
        reached.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])
    twice = {
        id(p)
        for p, column in zip(parameters, zip(*reached, strict=True), strict=True)
        if sum((g != 0).int() for g in column).max() > 1
    }  # type: ignore[union-attr]
    assert {id(parameter) for parameter in sharing.shared()} == twice
