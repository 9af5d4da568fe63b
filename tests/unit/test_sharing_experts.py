"""Mixtures of experts against plain loops over tasks, experts and digits."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from handmade import made, trainer_on, training_on
from omegaconf import DictConfig
from torch import Tensor, nn

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders.base import Encoder, run_stages
from mtl_runner.encoders.cnn import CNN
from mtl_runner.encoders.mlp import MLP
from mtl_runner.encoders.transformer import Transformer
from mtl_runner.errors import UserError
from mtl_runner.seeding import seeded
from mtl_runner.sharing.base import Sharing
from mtl_runner.sharing.cgc import CGC
from mtl_runner.sharing.dselect_k import DSelectK
from mtl_runner.sharing.gates import Gates, mix
from mtl_runner.sharing.hard import Hard
from mtl_runner.sharing.mmoe import MMoE
from mtl_runner.sharing.none import NoSharing
from mtl_runner.sharing.ple import PLE
from mtl_runner.sharing.selectors import binary_codes, smooth_step
from mtl_runner.sharing.vectors import Vector

ONE = {"a": "x", "b": "x", "c": "x"}
TWO = {"a": "x", "b": "y", "c": "x", "d": "x"}
ROWS = {"x": 7, "y": 5}
NUMBERS = {"x": StreamSpec({"numeric": (3,)}), "y": StreamSpec({"numeric": (4,)})}
KINDS: dict[str, tuple[type[Encoder], dict[str, Any], dict[str, StreamSpec]]] = {
    "mlp": (MLP, {"hidden": (6, 5, 4), "activation": "tanh"}, NUMBERS),
    "cnn": (CNN, {"channels": (2, 3), "width": 4}, dict.fromkeys("xy", StreamSpec({"image": (1, 6, 9)}))),
    "transformer": (
        Transformer,
        {"width": 4, "layers": 3, "heads": 2, "pool": "mean"},
        dict.fromkeys("xy", StreamSpec({"tokens": (5,)}, vocabulary=6)),
    ),
}
kinds = pytest.mark.parametrize("kind", KINDS)
layouts = pytest.mark.parametrize("streams", [ONE, TWO], ids=["one stream", "two streams"])
Factory = Callable[[Sequence[str], str], Encoder]


def factory(kind: str = "mlp") -> Factory:
    encoder, options, specs = KINDS[kind]

    def make(streams: Sequence[str], name: str) -> Encoder:
        with seeded(0, "encoder", name):
            return encoder({stream: specs[stream] for stream in streams}, **options)

    return make


def inputs_of(kind: str = "mlp") -> dict[str, dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(0)
    inputs = {}
    for stream, spec in KINDS[kind][2].items():
        ((field, shape),) = spec.fields.items()
        if field == "tokens":  # the sentences end with padding, each after some words
            words = torch.randint(1, 6, (ROWS[stream], *shape), generator=draws)
            lengths = torch.randint(1, shape[0] + 1, (ROWS[stream], 1), generator=draws)
            inputs[stream] = {field: torch.where(torch.arange(shape[0]) < lengths, words, 0)}
        else:
            inputs[stream] = {field: torch.randn(ROWS[stream], *shape, generator=draws)}
    return inputs


def make(mode: type[Sharing], streams: dict[str, str], kind: str = "mlp", **options: Any) -> Any:
    with seeded(0, "sharing"):
        return mode(factory(kind), streams, **options).eval()  # type: ignore[call-arg]


def features(sharing: Sharing, kind: str = "mlp") -> dict[str, Tensor]:
    """Of each task: those of a stream are asked for together, in the opposite order."""
    inputs, found = inputs_of(kind), {}
    boundary = sharing.trunk(inputs)
    for stream in sharing.order:
        tasks = [task for task in sharing.tasks if sharing.streams[task] == stream][::-1]
        value = sharing.branch(tasks, boundary, inputs)
        found |= dict(zip(tasks, value.expand(len(tasks), *value.shape[-1 - len(sharing.features.shape) :]), strict=True))
    return {task: found[task] for task in sharing.tasks}


def gate_input(x: Tensor, mask: Tensor | None) -> Tensor:
    """The vector of each example, one after the other."""
    if x.ndim == 2:
        return x
    if x.ndim == 3:
        assert mask is not None
        return torch.stack([row[there].mean(0) for row, there in zip(x, mask, strict=True)])
    return nn.functional.adaptive_avg_pool2d(x, [min(4, side) for side in x.shape[2:]]).flatten(1)


def weighted(weights: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """Example by example, from weights [N, E]."""
    rows = []
    for i, row in enumerate(weights):
        rows.append(sum(weight * output[i] for weight, output in zip(row, outputs, strict=True)))
    return torch.stack(rows)  # type: ignore[arg-type]


# ---- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (2, 5, 7), (3, 8, 8), (2, 3, 9), (2, 4, 4), (1, 1, 1), (2, 28, 2), (1, 13, 6)])
def test_maps_become_vectors_as_adaptive_pooling_makes_them(shape: tuple[int, ...]) -> None:
    x, vector = torch.randn(2, 6, *shape, dtype=torch.float64), Vector(shape).double()
    pooled = x.flatten(0, 1)
    if len(shape) == 3:
        pooled = nn.functional.adaptive_avg_pool2d(pooled, (min(4, shape[1]), min(4, shape[2])))
    found = vector(x)
    assert found.shape == (2, 6, vector.width)
    torch.testing.assert_close(found, pooled.flatten(1).view(2, 6, -1), rtol=1e-6, atol=1e-7)
    assert not list(vector.parameters()) and not vector.state_dict()


def test_sequences_become_the_mean_over_what_is_there() -> None:
    x, mask = torch.randn(2, 3, 4, 5), torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    x[:, 0, 3] = float("nan")  # padding is never looked at
    found = Vector((4, 5))(x, mask)
    for copy, row in itertools.product(range(2), range(3)):
        there = [x[copy, row, i] for i in range(4) if mask[row, i]]
        torch.testing.assert_close(found[copy, row], sum(there) / len(there) if there else torch.zeros(5))  # type: ignore[arg-type]
    whole = torch.randn(3, 4, 5)
    torch.testing.assert_close(Vector((4, 5))(whole), whole.mean(1))


@pytest.mark.parametrize("shape", [(4,), (3, 2), (2, 2, 3)])
@pytest.mark.parametrize("static", [True, False])
def test_mix_is_the_weighted_sum_apart_or_not(shape: tuple[int, ...], static: bool) -> None:
    weights, outputs = torch.rand(3, *([] if static else [6]), 5), torch.randn(5, 6, *shape)
    found = mix(weights, outputs)
    for task in range(3):
        each = weights[task].expand(6, 5)
        torch.testing.assert_close(found[task], weighted(each, list(outputs)))
    copies = torch.randn(3, 5, 6, *shape)
    apart = mix(weights, copies, apart=True)
    for task in range(3):
        torch.testing.assert_close(apart[task], mix(weights[task : task + 1], copies[task])[0])


def test_gates_start_between_the_bounds_of_torchs_linear_layers() -> None:
    weight = Gates(20, 4, 16).weight
    assert 0.24 < weight.max() <= 0.25 and -0.24 > weight.min() >= -0.25


# ---- MMoE ------------------------------------------------------------------------------------------------------------


@kinds
@layouts
@pytest.mark.parametrize("shared_stages", [0.0, 0.34])
def test_mmoe_is_its_formula(kind: str, streams: dict[str, str], shared_stages: float) -> None:
    sharing = make(MMoE, streams, kind, experts=3, shared_stages=shared_stages)
    order, inputs = sorted(set(streams.values())), inputs_of(kind)
    encoders = [factory(kind)(order, name).eval() for name in ("shared", "expert_1", "expert_2")]
    depth = 0 if shared_stages == 0 else 1
    found = features(sharing, kind)
    for t, (task, stream) in enumerate(streams.items()):
        mask = encoders[0].mask(inputs[stream])
        x = run_stages(encoders[0].stages[:depth], encoders[0].stem(stream, inputs[stream]), mask)
        gates = [math.e**logit for logit in gate_input(x, mask) @ sharing.gates.weight[t].mT]
        weights = torch.stack([gate / gate.sum() for gate in gates])
        outputs = [run_stages(encoder.stages[depth:], x, mask) for encoder in encoders]
        torch.testing.assert_close(found[task], weighted(weights, outputs), rtol=1e-4, atol=1e-5)


@kinds
@layouts
def test_mmoe_with_one_expert_is_hard_bit_for_bit(kind: str, streams: dict[str, str]) -> None:
    one, hard = features(make(MMoE, streams, kind, experts=1), kind), features(make(Hard, streams, kind), kind)
    assert all(torch.equal(one[task], hard[task]) for task in streams)
    two = features(make(MMoE, streams, kind, experts=2), kind)
    assert not any(torch.equal(two[task], hard[task]) for task in streams)


def test_mmoe_with_one_expert_trains_as_hard(make_config: Callable[..., DictConfig]) -> None:
    rows, runs = made(), []
    for mode in (["sharing=hard"], ["sharing=mmoe", "sharing.experts=1"]):
        training = training_on(rows, make_config(*mode, "trainer.batch_size=16", "encoder.hidden=[7,5]"))
        list(training.fit())
        runs.append(training.model)
    inputs = rows.splits["test"].inputs
    hard, mmoe = (model.eval()(inputs) for model in runs)
    for task, outputs in hard.items():
        torch.testing.assert_close(mmoe[task], outputs, rtol=1e-4, atol=1e-5)


# ---- CGC and PLE -----------------------------------------------------------------------------------------------------


def extracted(sharing: PLE, streams: dict[str, str], kind: str, cuts: list[int], m: int, s: int) -> dict[str, Tensor]:
    """The equations of the paper, one task, expert and level after the other."""
    order, inputs, build = sorted(set(streams.values())), inputs_of(kind), factory(kind)
    stem = build(order, "shared").eval()
    shared = [build(order, name).eval() for name in ["shared", *(f"expert_{k}" for k in range(1, s))]]
    own = {task: [build(order, name).eval() for name in [task, *(f"{task}_expert_{k}" for k in range(1, m))]] for task in streams}
    found = {}
    for place, stream in enumerate(order):
        tasks = [task for task in streams if streams[task] == stream]
        mask = stem.mask(inputs[stream])
        common = stem.stem(stream, inputs[stream])
        x = dict.fromkeys(tasks, common)
        for level, (first, end) in enumerate(itertools.pairwise(cuts)):
            part = sharing.levels[level][place]  # type: ignore[index]
            of_all = [run_stages(expert.stages[first:end], common, mask) for expert in shared]
            of_task = {task: [run_stages(e.stages[first:end], x[task], mask) for e in own[task]] for task in tasks}
            after = {}
            for row, task in enumerate(tasks):
                weights = (gate_input(x[task], mask) @ part.gates.weight[row].mT).exp()
                after[task] = weighted(weights / weights.sum(1, keepdim=True), [*of_task[task], *of_all])
            if end < cuts[-1]:
                weights = (gate_input(common, mask) @ part.shared_gate.weight[0].mT).exp()
                everything = [output for task in tasks for output in of_task[task]] + of_all
                common = weighted(weights / weights.sum(1, keepdim=True), everything)
            x = after
        found |= x
    return found


@kinds
@layouts
@pytest.mark.parametrize(("m", "s"), [(1, 1), (2, 3)])
def test_cgc_is_its_formula(kind: str, streams: dict[str, str], m: int, s: int) -> None:
    sharing = make(CGC, streams, kind, task_experts=m, shared_experts=s)
    expected = extracted(sharing, streams, kind, [0, 3], m, s)
    for task, value in features(sharing, kind).items():
        torch.testing.assert_close(value, expected[task], rtol=1e-4, atol=1e-5)


@kinds
@layouts
@pytest.mark.parametrize(("m", "s"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("cuts", [[0, 1, 3], [0, 1, 2, 3]])
def test_ple_is_its_formula(kind: str, streams: dict[str, str], m: int, s: int, cuts: list[int]) -> None:
    sharing = make(PLE, streams, kind, levels=len(cuts) - 1, task_experts=m, shared_experts=s)
    expected = extracted(sharing, streams, kind, cuts, m, s)
    for task, value in features(sharing, kind).items():
        torch.testing.assert_close(value, expected[task], rtol=1e-4, atol=1e-5)


def test_first_experts_start_as_the_encoders_of_none_and_hard() -> None:
    """With gates that choose one expert, CGC is one of the two, bit for bit."""
    sharing = make(CGC, ONE)
    none, hard = features(make(NoSharing, {"a": "x"})), features(make(Hard, ONE))

    def choosing(expert: int) -> dict[str, Tensor]:
        with torch.no_grad():
            sharing.levels[0][0].gates.weight.fill_(0)
            sharing.levels[0][0].gates.weight[:, expert] = 1e6 * positive.sign()
        return features(sharing)

    positive = inputs_of()["x"]["numeric"][0]  # the gate's logit is large for this example
    torch.testing.assert_close(choosing(0)["a"][0], none["a"][0])
    for task in ONE:
        torch.testing.assert_close(choosing(1)[task][0], hard[task][0])


# ---- what is shared, and each task's gradient ------------------------------------------------------------------------

OPTIONS: list[tuple[type[Sharing], dict[str, Any]]] = [
    (MMoE, {}),
    (MMoE, {"shared_stages": 0.4}),
    (CGC, {"task_experts": 2}),
    (PLE, {"levels": 2, "shared_experts": 2}),
    (PLE, {"levels": 3, "task_experts": 2}),
    (PLE, {"levels": 2, "shared_stages": 0.3}),
    (DSelectK, {"gamma": 9.0}),
    (DSelectK, {"experts": 3, "per_example": False}),
]
options_of = pytest.mark.parametrize(("mode", "options"), OPTIONS, ids=lambda value: str(getattr(value, "__name__", value)))


@options_of
@layouts
def test_shared_has_exactly_what_two_tasks_reach(mode: Any, options: dict[str, Any], streams: dict[str, str]) -> None:
    sharing = make(mode, streams, **options)
    reached: dict[str, Tensor] = {name: torch.zeros(p.shape, dtype=torch.int) for name, p in sharing.named_parameters()}
    for value in features(sharing).values():
        parameters = dict(sharing.named_parameters())
        gradients = torch.autograd.grad(value.square().sum(), list(parameters.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            reached[name] += 0 if gradient is None else (gradient != 0).int()
    said = {id(parameter) for parameter in sharing.shared()}
    assert len(said) == len(sharing.shared())
    names = {name for name, parameter in sharing.named_parameters() if id(parameter) in said}
    assert names == {name for name, count in reached.items() if count.max() > 1}
    assert all(count.max() > 0 for count in reached.values())  # no parameter is idle
    assert make(mode, {"a": "x"}, **options).shared() == []


@options_of
@layouts
def test_the_way_over_copies_of_the_boundary_gives_autograds_gradients(
    mode: Any, options: dict[str, Any], streams: dict[str, str]
) -> None:
    sharing = make(mode, streams, **options)
    parameters, inputs = list(sharing.parameters()), inputs_of()
    expected = {
        task: torch.autograd.grad(value.square().sum(), parameters, retain_graph=True, allow_unused=True)
        for task, value in features(sharing).items()
    }
    boundary = sharing.trunk(inputs)
    for stream in sharing.order:
        tasks = [task for task in streams if streams[task] == stream][::-1]
        copies = [value.detach().expand(len(tasks), *value.shape).clone().requires_grad_() for value in boundary]
        read = copies if len(tasks) > 1 else [copy[0] for copy in copies]
        output = sharing.branch(tasks, tuple(read), inputs, len(tasks) > 1)
        whole = torch.autograd.grad(output.square().sum(), [*copies, *parameters], allow_unused=True)
        at, direct = whole[: len(copies)], whole[len(copies) :]
        for i, task in enumerate(tasks):
            ways = [(v, g[i]) for v, g in zip(boundary, at, strict=True) if g is not None and v.requires_grad]
            values, cotangents = zip(*ways, strict=True)
            found = torch.autograd.grad(values, parameters, cotangents, retain_graph=True, allow_unused=True)
            for parameter, gradient, wanted in zip(parameters, found, expected[task], strict=True):
                if any(parameter is each for each in sharing.shared()):
                    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)
        for j, parameter in enumerate(parameters):  # what branches hold gets the sum, of which each entry is one task's
            if direct[j] is not None:
                assert not any(parameter is each for each in sharing.shared())
                total = sum(expected[task][j] for task in tasks if expected[task][j] is not None)
                torch.testing.assert_close(direct[j], total, rtol=1e-4, atol=1e-6)


MLP_SIZE = (3 + 1) * 6 + (6 + 1) * 5 + (5 + 1) * 4
"""Parameters of an encoder on three numbers."""


@pytest.mark.parametrize(
    ("mode", "options", "count"),
    [
        (MMoE, {}, 4 * MLP_SIZE + 3 * 4 * 3),
        (MMoE, {"experts": 7, "shared_stages": 0.34}, 24 + 7 * (MLP_SIZE - 24) + 3 * 7 * 6),
        (CGC, {"task_experts": 2, "shared_experts": 3}, (3 * 2 + 3) * MLP_SIZE + 3 * 5 * 3),
        (PLE, {}, 4 * MLP_SIZE + (3 * 2 + 4) * 3 + 3 * 2 * 6),
        (PLE, {"levels": 3}, 4 * MLP_SIZE + (3 * 2 + 4) * 3 + (3 * 2 + 4) * 6 + 3 * 2 * 5),
        (DSelectK, {"experts": 5, "k": 3}, 5 * MLP_SIZE + 3 * 3 * (3 + 1) * (3 + 1)),
        (DSelectK, {"experts": 8, "k": 1, "per_example": False}, 8 * MLP_SIZE + 3 * (3 + 1)),
    ],
)
def test_parameter_counts(mode: Any, options: dict[str, Any], count: int) -> None:
    assert sum(parameter.numel() for parameter in make(mode, ONE, **options).parameters()) == count


# ---- DSelect-k -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.3, 1.0, 4.0])
def test_smooth_step_and_its_derivative(gamma: float) -> None:
    z = torch.linspace(-gamma, gamma, 41, dtype=torch.float64).requires_grad_()
    values = smooth_step(z, gamma)
    (slopes,) = torch.autograd.grad(values.sum(), z)
    for point, value, slope in zip(z.tolist(), values.tolist(), slopes.tolist(), strict=True):
        inside = abs(point) < gamma / 2
        cubic = -2 / gamma**3 * point**3 + 3 / (2 * gamma) * point + 0.5
        assert value == pytest.approx(cubic if inside else float(point > 0), abs=1e-12)
        assert slope == pytest.approx(-6 / gamma**3 * point**2 + 3 / (2 * gamma) if inside else 0, abs=1e-9)
    edges = smooth_step(torch.tensor([-0.5, 0.5, -0.51, 7.0]) * gamma, gamma)
    assert edges.tolist() == [0, 1, 0, 1]  # exactly


@pytest.mark.parametrize("experts", [2, 3, 4, 5, 8, 9])
def test_codes_are_binary_numbers(experts: int) -> None:
    digits = math.ceil(math.log2(experts))
    assert ["".join(str(int(bit)) for bit in row) for row in binary_codes(experts)] == [
        format(e, f"0{digits}b") for e in range(experts)
    ]


def selector(z: Sequence[float], experts: int, gamma: float) -> list[float]:
    """r of one code, expert by expert and digit by digit."""
    steps = [0.0 if v <= -gamma / 2 else 1.0 if v >= gamma / 2 else -2 * (v / gamma) ** 3 + 1.5 * v / gamma + 0.5 for v in z]
    return [
        math.prod(step if digit == "1" else 1 - step for step, digit in zip(steps, format(e, f"0{len(steps)}b"), strict=True))
        for e in range(experts)
    ]


def loud(sharing: DSelectK) -> DSelectK:
    """With codes all over the place, in and out of the step."""
    with torch.no_grad(), seeded(1, "codes"):
        for parameter in sharing.gates.parameters():
            parameter.normal_(0, 0.6)
    return sharing


def codes_and_shares(sharing: DSelectK, t: int, x: Tensor) -> list[tuple[list[list[float]], list[float]]]:
    """For each example of a task its codes [k, m] and softmax weights [k]."""
    gates, found = sharing.gates, []
    for row in x:
        if hasattr(gates, "z"):
            z, a = gates.z[t], gates.w[t]
        else:
            z, a = gates.z_weight[t] @ row + gates.z_bias[t], gates.w_weight[t] @ row + gates.w_bias[t]
        total = sum(math.exp(value) for value in a.tolist())
        found.append((z.view(len(a), -1).tolist(), [math.exp(value) / total for value in a.tolist()]))
    return found


@layouts
@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize(("experts", "k"), [(4, 2), (3, 3), (6, 1)])
def test_dselect_k_is_its_formula(streams: dict[str, str], per_example: bool, experts: int, k: int) -> None:
    sharing = loud(make(DSelectK, streams, experts=experts, k=k, gamma=2.0, per_example=per_example, entropy=0.3))
    order, inputs = sorted(set(streams.values())), inputs_of()
    encoders = [factory()(order, name).eval() for name in ["shared", *(f"expert_{e}" for e in range(1, experts))]]
    found, penalty = features(sharing.train()), 0.0
    for t, (task, stream) in enumerate(streams.items()):
        x = encoders[0].stem(stream, inputs[stream])
        rows = []
        for codes, shares in codes_and_shares(sharing, t, x):
            r = [selector(code, experts, 2.0) for code in codes]
            rows.append([sum(share * each[e] for share, each in zip(shares, r, strict=True)) for e in range(experts)])
            entropies = sum(-value * math.log(value + 1e-6) for each in r for value in each)
            missing = sum(1 / (sum(each) + 1e-6) for each in r) if experts != 4 else 0.0
            penalty += (0.3 * entropies + missing) / len(x)
        outputs = [run_stages(encoder.stages, x) for encoder in encoders]
        torch.testing.assert_close(found[task], weighted(torch.tensor(rows), outputs), rtol=1e-4, atol=1e-5)
        if experts == 4:
            torch.testing.assert_close(torch.tensor(rows).sum(1), torch.ones(len(x)))
    assert sharing.penalty().item() == pytest.approx(penalty, rel=1e-4)


@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize("chosen", range(4))
def test_converged_codes_choose_exactly_one_expert(per_example: bool, chosen: int) -> None:
    sharing = make(DSelectK, ONE, k=1, per_example=per_example)
    gates = sharing.gates
    code = torch.tensor([0.5 if digit == "1" else -0.5 for digit in format(chosen, "02b")])
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.zero_()
        (gates.z_bias if per_example else gates.z).copy_(code.expand_as(gates.z_bias if per_example else gates.z))
    x = inputs_of()["x"]["numeric"]
    weights = sharing.weights(x, False, None)
    assert torch.equal(weights, nn.functional.one_hot(torch.tensor(chosen), 4).float().expand_as(weights))
    single = features(sharing)
    name = "shared" if chosen == 0 else f"expert_{chosen}"
    expert = factory()(["x"], name)
    for value in single.values():
        torch.testing.assert_close(value, run_stages(expert.stages, expert.stem("x", inputs_of()["x"])))


@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize("experts", [4, 5])
def test_the_penalty_reaches_the_gates_alone_and_makes_codes_binary(per_example: bool, experts: int) -> None:
    """Also once the graph of the forward pass is gone; and weights of 5 experts with 3 digits come to sum to 1."""
    options = {"experts": experts, "entropy": 1.0, "per_example": per_example, "gamma": 3.0}
    sharing = loud(make(DSelectK, ONE, shared_stages=0.34, **options)).train()
    sum(value.sum() for value in features(sharing).values()).backward()  # type: ignore[union-attr]
    sharing.zero_grad()
    sharing.penalty().backward()
    touched = {name for name, parameter in sharing.named_parameters() if parameter.grad is not None}
    selecting = {name for name, _ in sharing.named_parameters() if name.startswith("gates.z")}
    assert touched == selecting
    optimizer = torch.optim.Adam(sharing.gates.parameters(), lr=0.05)
    x = inputs_of()["x"]["numeric"]
    before = sharing.penalty().item()
    for _ in range(400):
        optimizer.zero_grad()
        sharing.penalty().backward()
        optimizer.step()
    if not per_example:
        r = sharing.gates.selected(x, None)
        assert r.amax(-1).min() > 0.999 and r.sum(-1).min() > 0.999
    assert sharing.penalty().item() < 0.5 * before if experts == 4 else sharing.penalty().item() < before


def test_there_is_no_penalty_without_strength_or_before_the_first_pass() -> None:
    sharing = make(DSelectK, ONE, entropy=0.0).train()
    assert sharing.penalty() is None
    features(sharing)
    assert sharing.penalty() is None  # 4 is a power of 2
    with_missing = make(DSelectK, ONE, experts=3, entropy=0.0).train()
    assert with_missing.penalty() is None
    features(with_missing)
    assert with_missing.penalty().item() > 0


# ---- what is logged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["mmoe", "cgc", "ple", "dselect_k"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_logs_how_much_experts_are_used(mode: str, precision: str, make_config: Callable[..., DictConfig]) -> None:
    config = make_config(f"sharing={mode}", f"trainer.precision={precision}", "weighting=mgda", "trainer.batch_size=16")
    training = training_on(made(), config)
    epochs = list(training.fit())
    tables = training.model.sharing.tables()
    suffix = "_level_2" if mode == "ple" else ""
    values = tables["gates" + suffix].values  # those of the best epoch, as the weights are
    torch.testing.assert_close(values.sum(1), torch.ones(4), rtol=1e-2 if precision == "bf16" else 1e-4, atol=0)
    squared = values.var(1, correction=0) / values.mean(1) ** 2
    figures = [
        [epoch.metrics[f"sharing/importance_cv2{suffix}/{task}"] for task in training.model.sharing.tasks] for epoch in epochs
    ]
    assert figures[0] != figures[1] and squared.tolist() in [pytest.approx(row, rel=1e-3, abs=1e-7) for row in figures]


def test_importance_is_the_mean_over_the_examples_of_training_passes() -> None:
    sharing = make(MMoE, ONE, experts=3)
    features(sharing)
    assert sharing.tables()["gates"].values.isnan().all() and sharing.metrics() == {}  # evaluation does not count
    x = inputs_of()["x"]["numeric"]
    rows = [x, x[:2] + 1]
    sharing.train()
    for part in rows:
        boundary = sharing.trunk({"x": {"numeric": part}})
        for tasks in (["c", "a"], ["b"]):
            sharing.branch(tasks, boundary, {"x": {"numeric": part}})
    expected = torch.stack([(torch.cat(rows) @ weight.mT).softmax(1).mean(0) for weight in sharing.gates.weight])
    torch.testing.assert_close(sharing.tables()["gates"].values, expected)
    for row, task in zip(expected.detach(), ONE, strict=True):
        cv = row.std(correction=0) / row.mean()
        assert sharing.metrics()[f"importance_cv2/{task}"] == pytest.approx(cv.item() ** 2, rel=1e-4)
    again = make(MMoE, ONE, experts=3)
    again.load_state_dict(sharing.state_dict())
    assert torch.equal(again.tables()["gates"].values, sharing.tables()["gates"].values)
    sharing.before_epoch(2)
    assert sharing.metrics() == {}


def test_ple_shows_the_shared_gate_of_each_stream() -> None:
    sharing = make(PLE, TWO, levels=3, task_experts=2)
    features(sharing.train())
    tables = sharing.tables()
    assert list(tables) == [
        "gates_level_1", "shared_gate_level_1_x", "shared_gate_level_1_y",
        "gates_level_2", "shared_gate_level_2_x", "shared_gate_level_2_y", "gates_level_3",
    ]  # fmt: skip
    assert tables["gates_level_3"].columns == ("own 1", "own 2", "shared 1")
    assert tables["shared_gate_level_2_y"].columns == ("b 1", "b 2", "shared 1")
    for table in tables.values():
        torch.testing.assert_close(table.values.sum(1), torch.ones(len(table.rows)))


# ---- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        (PLE, {"levels": 4}, r"sharing\.levels=4: experts have 3 stages"),
        (PLE, {"levels": 3, "shared_stages": 0.4}, r"sharing\.levels=3: experts have 2 stages"),
        (MMoE, {"shared_stages": 0.9}, r"sharing\.shared_stages=0\.9: none of the 3 stages"),
        (DSelectK, {"k": 5}, r"sharing\.k=5: there are 4 experts"),
    ],
)
def test_what_cannot_be_is_refused(mode: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(mode, ONE, **options)


def test_a_dselect_step_with_each_tasks_gradient_moves_every_gate(make_config: Callable[..., DictConfig]) -> None:
    mode = ["sharing=dselect_k", "sharing.entropy=0.5", "sharing.experts=3"]
    config = make_config(*mode, "weighting=mgda", "trainer.batch_size=16")
    trainer = trainer_on(made(), config)
    before = {name: value.clone() for name, value in trainer.model.sharing.named_parameters()}
    trainer.train_step(next(trainer.loader.epoch(trainer.training_part(), 1)))
    assert not [name for name, value in trainer.model.sharing.named_parameters() if torch.equal(value, before[name])]
