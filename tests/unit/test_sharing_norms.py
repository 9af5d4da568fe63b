"""Trace norm and joint features: formulas by hand, gradients where they are delicate, and optima that are known."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders.base import Encoder, FeatureSpec
from mtl_runner.encoders.cnn import CNN
from mtl_runner.encoders.mlp import MLP
from mtl_runner.encoders.rnn import RNN
from mtl_runner.encoders.stems import VectorStem
from mtl_runner.encoders.unet import UNet
from mtl_runner.errors import UserError
from mtl_runner.seeding import seeded
from mtl_runner.sharing.base import Sharing
from mtl_runner.sharing.hard import Hard
from mtl_runner.sharing.joint_feature import JointFeature, squares
from mtl_runner.sharing.low_rank import LowRank, effective_rank, trace_norm

TABLE = StreamSpec(
    {"numeric": (3,), "categorical": (2,)}, (5, 9), {"numeric": ("age", "size", "dose"), "categorical": ("a", "b")}
)
IMAGE = StreamSpec({"image": (1, 8, 8)})
TOKENS = StreamSpec({"tokens": (6,)}, vocabulary=11)
ENCODERS: dict[str, tuple[Callable[..., Encoder], StreamSpec, dict[str, Any]]] = {
    "mlp": (MLP, TABLE, {"hidden": (6, 4)}),
    "wide mlp": (MLP, TABLE, {"hidden": (3000, 4)}),
    "cnn": (CNN, IMAGE, {"channels": (2, 3), "width": 5}),
    "unet": (UNet, IMAGE, {"channels": 2, "depth": 1}),
    "rnn": (RNN, TOKENS, {"width": 3, "embedding_size": 4, "layers": 1}),
}
ONE, TWO = {"u": "x", "v": "x", "w": "x"}, {"u": "x", "v": "y", "w": "x"}


def factory(kind: str = "mlp") -> Callable[[Sequence[str], str], Encoder]:
    architecture, spec, options = ENCODERS[kind]

    def make(names: Sequence[str], name: str) -> Encoder:
        with seeded(0, name):
            return architecture(dict.fromkeys(names, spec), **options)

    return make


def moved(sharing: Sharing, scale: float = 0.2) -> None:
    """Networks that start as one become different."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in sharing.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=draws)


def networks(sharing: LowRank | JointFeature, kind: str, streams: dict[str, str]) -> dict[str, Encoder]:
    """A plain encoder for each task with the weights that it has in the stack."""
    plain = {}
    for stack, tasks in zip(sharing.stack_list(), sharing.readers.values(), strict=True):
        stages = stack.each_stage()
        for place, task in enumerate(tasks):
            encoder = factory(kind)([streams[task]], task)
            for stage, values in zip(encoder.stages, stages, strict=True):
                for parameter, value in zip(stage.parameters(), values, strict=True):
                    parameter.data = value[place].detach().clone()
            for parameter, value in zip(encoder.stems.parameters(), stack.each_stem(), strict=True):
                parameter.data = value[place].detach().clone()
            plain[task] = encoder
    return plain


# ---- trace norm ---------------------------------------------------------------------------------------------------


def test_the_smoothed_trace_norm_is_the_trace_norm_and_so_is_its_gradient() -> None:
    matrix = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    exact = torch.linalg.matrix_norm(matrix, "nuc")
    torch.testing.assert_close(trace_norm(matrix), exact, rtol=1e-4, atol=0)
    (mine,), (theirs,) = torch.autograd.grad(trace_norm(matrix), matrix), torch.autograd.grad(exact, matrix)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
    torch.testing.assert_close(trace_norm(3 * matrix), 3 * trace_norm(matrix))


@pytest.mark.parametrize("rows", ["equal", "zero", "one of them zero", "two equal pairs", "orthogonal"])
def test_the_gradient_is_finite_and_bounded_where_singular_values_are_zero_or_the_same(rows: str) -> None:
    row, other = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    matrix = {
        "equal": row.expand(4, -1),
        "zero": torch.zeros(4, 50),
        "one of them zero": torch.stack([row, other, row - other, 0 * row]),
        "two equal pairs": torch.stack([row, row, other, other]),
        "orthogonal": torch.eye(4, 50),
    }[rows].clone()
    matrix.requires_grad_()
    trace_norm(matrix).backward()
    assert matrix.grad is not None and matrix.grad.isfinite().all()
    assert torch.linalg.matrix_norm(matrix.grad, 2) <= 1.01  # subgradients of the trace norm have a spectral norm of at most 1


@pytest.mark.parametrize("kind", ["mlp", "cnn", "rnn"])
@pytest.mark.parametrize("streams", [ONE, TWO], ids=["one stream", "two streams"])
def test_the_penalty_sums_singular_values_of_each_stages_parameters(kind: str, streams: dict[str, str]) -> None:
    strengths = [0.5 + place for place in range(len(factory(kind)(["x"], "u").stages))]
    sharing = LowRank(factory(kind), streams, strength=strengths)
    moved(sharing)
    each = networks(sharing, kind, streams)
    expected = torch.zeros(())
    for place, strength in enumerate(strengths):
        rows = [torch.cat([p.flatten() for p in each[task].stages[place].parameters()]) for task in streams]
        expected += strength * torch.linalg.svdvals(torch.stack(rows)).sum()
    for stream in sorted(set(streams.values())):
        readers = [task for task in streams if streams[task] == stream]
        stems = zip(*(each[task].stems.parameters() for task in readers), strict=True) if len(readers) > 1 else []
        expected += sum(strengths[0] * torch.linalg.svdvals(torch.stack([p.flatten() for p in same])).sum() for same in stems)
    torch.testing.assert_close(sharing.penalty(), expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("mode", [LowRank, JointFeature])
def test_all_networks_start_as_that_of_hard_sharing(mode: type[LowRank | JointFeature]) -> None:
    fields = {"x": {"numeric": torch.randn(4, 3), "categorical": torch.randint(5, (4, 2))}}
    sharing, hard = mode(factory(), ONE), Hard(factory(), ONE)
    (mine,), (theirs,) = sharing.trunk(fields), hard.trunk(fields)
    torch.testing.assert_close(mine, theirs.expand_as(mine))
    assert not sharing.shared() and not sharing.has_shared


def test_ranks_start_at_one_and_orthogonal_networks_have_the_rank_of_their_number() -> None:
    sharing = LowRank(factory(), ONE)
    assert sharing.metrics() == {f"effective_rank_stage_{stage}": pytest.approx(1, abs=0.02) for stage in (1, 2)}
    assert effective_rank(torch.ones(4)) == pytest.approx(4)
    assert effective_rank(torch.tensor([2.0, 1.0, 0.0])) == pytest.approx(3 / 2 ** (2 / 3))
    moved(sharing)
    table = sharing.tables()["singular_values"]
    assert table.rows == ("stage 1", "stage 2") and table.columns == ("σ1", "σ2", "σ3")
    for values, (matrix, *_) in zip(table.values, sharing.matrices()[:-1], strict=True):
        torch.testing.assert_close(values, torch.linalg.svdvals(matrix).detach(), rtol=1e-3, atol=1e-4)


class Line(Encoder):
    """One number from the columns, without anything else."""

    def __init__(self, streams: Any) -> None:
        super().__init__(streams)
        self.stems = nn.ModuleDict({name: VectorStem(spec) for name, spec in streams.items()})
        self.stages = nn.ModuleList([nn.Sequential(nn.Linear(6, 1, bias=False))])
        self.features = FeatureSpec((1,))


def trained(mode: type[LowRank | JointFeature], strength: float) -> tuple[Tensor, Tensor]:
    """The solution [T, P] of a linear problem on an orthogonal design, and that without the penalty."""
    draws = torch.Generator().manual_seed(3)
    design = torch.linalg.qr(torch.randn(20, 6, generator=draws)).Q
    alone = torch.randn(4, 2, generator=draws) @ torch.randn(2, 6, generator=draws) + 0.3 * torch.randn(4, 6, generator=draws)
    alone[:, 4:] *= 0.1
    tasks = dict.fromkeys("abcd", "x")

    def make(names: Sequence[str], name: str) -> Encoder:
        with seeded(0, name):
            return Line(dict.fromkeys(names, StreamSpec({"numeric": (6,)})))

    sharing = mode(make, tasks, strength=strength)
    inputs, targets = {"x": {"numeric": design}}, alone @ design.T
    optimizer = torch.optim.LBFGS(sharing.parameters(), max_iter=400, line_search_fn="strong_wolfe", tolerance_change=1e-9)

    def objective() -> Tensor:
        optimizer.zero_grad()
        features = sharing.branch("abcd", sharing.trunk(inputs), inputs)
        loss = (features.squeeze(-1) - targets).square().sum() / 2
        if (penalty := sharing.penalty()) is not None:
            loss = loss + penalty
        loss.backward()
        return loss

    optimizer.step(objective)
    return sharing.vectors().detach(), alone


def test_training_with_the_trace_norm_thresholds_singular_values() -> None:
    """min ½ ‖W - B‖² + λ ‖W‖_* has B's singular vectors and max(0, σ - λ)."""
    found, alone = trained(LowRank, 0.8)
    left, values, right = torch.linalg.svd(alone, full_matrices=False)
    shrunk = (values - 0.8).clamp_min(0)
    assert 0 < (shrunk > 0).sum() < 4
    torch.testing.assert_close(found, left * shrunk @ right, atol=0.02, rtol=0)


def test_training_with_joint_features_shrinks_each_inputs_weights_together() -> None:
    """min ½ ‖W - B‖² + λ Σ_j ‖W_j‖ is B_j max(0, 1 - λ / ‖B_j‖)."""
    found, alone = trained(JointFeature, 0.8)
    shrunk = (1 - 0.8 / alone.norm(dim=0)).clamp_min(0)
    assert 0 < (shrunk > 0).sum() < 6
    torch.testing.assert_close(found, alone * shrunk, atol=5e-3, rtol=0)


@pytest.mark.parametrize("mode", [LowRank, JointFeature])
def test_without_strength_training_finds_each_tasks_own_solution(mode: type[LowRank | JointFeature]) -> None:
    found, alone = trained(mode, 0.0)
    torch.testing.assert_close(found, alone, atol=1e-3, rtol=0)


# ---- joint features -----------------------------------------------------------------------------------------------


def by_columns(each: Sequence[Encoder], strengths: Sequence[float]) -> Tensor:
    """The penalty, input by input, of plain networks."""
    total = torch.zeros(())
    for place, strength in enumerate(strengths):
        layers = zip(*(network.stages[place].modules() for network in each), strict=True)
        for same in layers:
            kind, weights = same[0], [getattr(layer, "weight", None) for layer in same]
            if isinstance(kind, nn.GRU):
                for name in ("weight_ih_l0", "weight_hh_l0"):
                    weights = [getattr(layer, name) for layer in same]
                    for j in range(weights[0].shape[1]):
                        total += strength * sum(w[:, j].square().sum() for w in weights).sqrt()
            elif isinstance(kind, nn.Linear | nn.Conv2d):
                for j in range(weights[0].shape[1]):
                    total += strength * sum(w[:, j].square().sum() for w in weights).sqrt()
            elif isinstance(kind, nn.ConvTranspose2d):
                for j in range(weights[0].shape[0]):
                    total += strength * sum(w[j].square().sum() for w in weights).sqrt()
    return total


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("streams", [ONE, TWO], ids=["one stream", "two streams"])
def test_a_group_is_one_input_of_a_layer_in_all_networks(kind: str, streams: dict[str, str]) -> None:
    strengths = [0.5 + place for place in range(len(factory(kind)(["x"], "u").stages))]
    sharing = JointFeature(factory(kind), streams, strength=strengths)
    moved(sharing)
    expected = by_columns(list(networks(sharing, kind, streams).values()), strengths)
    torch.testing.assert_close(sharing.penalty(), expected)


def test_a_group_at_zero_has_a_finite_gradient_and_biases_have_none() -> None:
    sharing = JointFeature(factory(), ONE)
    with torch.no_grad():
        sharing.stacks[0].stages[0].layers[0].weight[:, :, 1] = 0
    assert not squares(sharing.layers()[0][0])[:, 1].any()
    sharing.penalty().backward()
    for name, parameter in sharing.named_parameters():
        if name.endswith("weight"):
            assert parameter.grad.isfinite().all() and parameter.grad.any()
        else:
            assert parameter.grad is None


def test_the_table_has_the_columns_by_name() -> None:
    sharing = JointFeature(factory(), ONE)
    moved(sharing)
    table = sharing.tables()["features"]
    sizes = [embedding.weight.shape[1] for embedding in VectorStem(TABLE).embeddings]
    assert table.rows == ("u", "v", "w")
    expected = ["age", "size", "dose", *(f"{n} [{i}]" for n, size in zip("ab", sizes, strict=True) for i in range(1, size + 1))]
    assert table.columns == tuple(expected)
    for task, network in networks(sharing, "mlp", ONE).items():
        column = network.stages[0][0].weight.norm(dim=0)
        torch.testing.assert_close(table.values[table.rows.index(task)], column.detach())
    assert JointFeature(factory("cnn"), ONE).tables()["features"].columns == ("input 1",)


@pytest.mark.parametrize("mode", [LowRank, JointFeature])
def test_frozen_networks_one_task_and_no_strength_have_no_penalty(mode: type[LowRank | JointFeature]) -> None:
    assert mode(factory(), {"u": "x"}).penalty() is None
    assert mode(factory(), ONE, strength=0.0).penalty() is None
    sharing = mode(factory(), ONE)
    sharing.requires_grad_(False)
    assert sharing.penalty() is None
    with pytest.raises(
        UserError, match=r"sharing.strength=\[1.0\]: this encoder has 2 stages, and needs as many numbers, or one"
    ):
        mode(factory(), ONE, strength=[1.0])
