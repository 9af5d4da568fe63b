"""Cross-stitch, sluice and multi-task attention networks and learning to branch, against plain loops over tasks."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from handmade import copies, made, same, trainer_on, training_on
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders.base import Dropout, Encoder, run_stages
from mtl_runner.encoders.cnn import CNN
from mtl_runner.encoders.mlp import MLP
from mtl_runner.encoders.stack import each
from mtl_runner.encoders.tokens import Placed
from mtl_runner.encoders.transformer import Transformer
from mtl_runner.errors import NotApplicable, UserError
from mtl_runner.seeding import seeded
from mtl_runner.sharing.attention import Fit
from mtl_runner.sharing.base import Sharing
from mtl_runner.sharing.cross_stitch import CrossStitch
from mtl_runner.sharing.hard import Hard
from mtl_runner.sharing.ltb import LTB, Tree
from mtl_runner.sharing.mtan import MTAN
from mtl_runner.sharing.sluice import Sluice

Config = Callable[..., DictConfig]
SPECS = {
    "mlp": StreamSpec({"numeric": (4,), "categorical": (1,)}, (5,)),
    "cnn": StreamSpec({"image": (1, 9, 6)}),
    "transformer": StreamSpec({"tokens": (6,)}, vocabulary=8),
}
ENCODERS: dict[str, tuple[type[Encoder], dict[str, Any]]] = {
    "mlp": (MLP, {"hidden": (5, 4, 4)}),
    "cnn": (CNN, {"channels": (2, 3), "width": 9}),
    "transformer": (Transformer, {"width": 6, "layers": 3, "heads": 2, "feedforward": 2, "pool": "mean", "dropout": 0.0}),
}
TASKS = ["a", "b", "c"]
encoders = pytest.mark.parametrize("encoder", list(ENCODERS))


def factory(encoder: str) -> Callable[[Sequence[str], str], Encoder]:
    kind, options = ENCODERS[encoder]

    def make(streams: Sequence[str], name: str) -> Encoder:
        with seeded(0, "encoder", name):
            return kind(dict.fromkeys(streams, SPECS[encoder]), **options)

    return make


def fields(encoder: str, rows: int, seed: int = 0) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    if encoder == "cnn":
        return {"image": torch.randn(rows, 1, 9, 6, generator=draws)}
    if encoder == "transformer":
        tokens = torch.randint(1, 8, (rows, 6), generator=draws)
        return {"tokens": tokens * (torch.arange(6) < torch.randint(1, 7, (rows, 1), generator=draws))}
    index = torch.randint(5, (rows, 1), generator=draws)
    return {"numeric": torch.randn(rows, 4, generator=draws), "categorical": index}


def make(mode: type[Sharing], encoder: str, tasks: Sequence[str] = TASKS, streams: str = "x", **options: Any) -> Sharing:
    """With other values in every parameter that the mode adds, so that nothing is zero or alike."""
    names = {task: streams[i % len(streams)] for i, task in enumerate(tasks)}
    with seeded(0, "sharing"):
        sharing = mode(factory(encoder), names, **options)
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sharing.named_parameters():
            if name.split(".")[0] in ("stitches", "alpha", "beta", "theta", "task_theta"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=draws)
        for name, buffer in sharing.named_buffers():
            if name.startswith("attention") and "running" in name:
                buffer += torch.rand(buffer.shape, generator=draws)
    return sharing.eval()


def inputs_of(encoder: str, streams: str = "x") -> dict[str, dict[str, Tensor]]:
    return {stream: fields(encoder, 7 + 2 * i, i) for i, stream in enumerate(streams)}


def features(sharing: Sharing, inputs: Any, tasks: Sequence[str], apart: bool = False) -> Tensor:
    boundary = sharing.trunk(inputs)
    if apart:
        boundary = tuple(value.expand(len(tasks), *value.shape) for value in boundary)
    return sharing.branch(list(tasks), boundary, inputs, apart)


def agrees(sharing: Sharing, inputs: Any, expected: dict[str, Tensor]) -> None:
    """For all tasks of a stream, some of them in another order, and one alone; apart or not."""
    for stream in sharing.order:
        tasks = [task for task in expected if sharing.streams[task] == stream]
        for some in (tasks, tasks[::-1][:2], tasks[-1:]):
            for apart in (False, True):
                found = features(sharing, inputs, some, apart)
                wanted = torch.stack([expected[task] for task in some])
                torch.testing.assert_close(found, wanted, msg=lambda text: f"{some} {apart}: {text}")  # noqa: B023
                assert found.shape[2:] == sharing.features.shape


# ---- cross-stitch -----------------------------------------------------------------------------------------------------


@encoders
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_cross_stitch_is_its_formula(encoder: str, per_channel: bool, last: bool) -> None:
    sharing, inputs = make(CrossStitch, encoder, per_channel=per_channel, last=last), inputs_of(encoder)
    networks = [factory(encoder)(["x"], task).eval() for task in TASKS]
    mask, depth = networks[0].mask(inputs["x"]), len(networks[0].stages)
    values = [network.stem("x", inputs["x"]) for network in networks]
    for k in range(depth):
        values = [run_stages([network.stages[k]], x, mask) for network, x in zip(networks, values, strict=True)]
        if k < depth - 1 or last:
            alpha, shape = sharing.stitches[k], values[0].shape[1:]
            ends = (-1, 1, 1) if len(shape) == 3 else (-1,)  # channels first in maps, last elsewhere
            values = [
                sum((alpha[i, j].reshape(ends if per_channel else ()) * values[j] for j in range(3)), torch.zeros(()))
                for i in range(3)
            ]
    assert len(sharing.stitches) == depth - (not last)
    agrees(sharing, inputs, dict(zip(TASKS, values, strict=True)))


def test_stitches_start_with_own_on_the_diagonal_and_share_the_rest() -> None:
    for per_channel in (False, True):
        sharing = CrossStitch(factory("mlp"), dict.fromkeys(TASKS, "x"), own=0.8, per_channel=per_channel)
        for width, stitch in zip((5, 4, 4), sharing.stitches, strict=True):
            values = stitch if per_channel else stitch.unsqueeze(2)
            assert values.shape == (3, 3, width if per_channel else 1)
            torch.testing.assert_close(values, torch.full((3, 3), 0.1).fill_diagonal_(0.8).unsqueeze(2).expand_as(values))
    assert list(sharing.tables()) == ["stitch_1", "stitch_2", "stitch_3"]
    assert sharing.tables()["stitch_2"].rows == tuple(TASKS) and sharing.tables()["stitch_2"].values[1, 1] == pytest.approx(0.8)


@pytest.mark.parametrize(("encoder", "per_channel"), [("mlp", "false"), ("cnn", "true")])
def test_identity_stitches_that_are_not_trained_are_no_sharing(encoder: str, per_channel: str, make_config: Config) -> None:
    fields = {"input": (1, 6, 6) if encoder == "cnn" else (6,)}
    stitches = ["sharing=cross_stitch", "sharing.own=1", "sharing.train_stitches=false", f"sharing.per_channel={per_channel}"]
    losses = []
    for mode in (stitches, ["sharing=none"], [*stitches[:2], *stitches[3:]]):
        config = make_config(*mode, f"encoder={encoder}", "trainer.batch_size=16", "weighting.scale=paper", "trainer.epochs=3")
        epochs = list(training_on(made(fields=fields), config).fit())
        losses.append([{k: v for k, v in epoch.metrics.items() if k.startswith("train/")} for epoch in epochs])
    for stitched, apart, trained in zip(*losses, strict=True):
        assert stitched == pytest.approx(apart, rel=1e-5) != pytest.approx(trained, rel=1e-5)


def test_a_single_stage_needs_a_stitch_after_it() -> None:
    def shallow(streams: Sequence[str], name: str) -> Encoder:
        return MLP(dict.fromkeys(streams, SPECS["mlp"]), hidden=(3,))

    with pytest.raises(UserError, match=r"sharing\.last=false"):
        CrossStitch(shallow, dict.fromkeys(TASKS, "x"), last=False)
    assert CrossStitch(shallow, {"a": "x"}, last=False).shared() == []
    with pytest.raises(UserError, match=r"sharing=cross_stitch: the tasks read 2 input streams"):
        CrossStitch(shallow, {"a": "x", "b": "y"})


# ---- sluice -----------------------------------------------------------------------------------------------------------


def pieces(x: Tensor, groups: int) -> list[Tensor]:
    """The subspaces of [N, …], all of the size of the first, the last filled up with zeros; channels first."""
    x = x.movedim(1 if x.ndim == 4 else -1, 0)
    size = -(-len(x) // groups)
    x = torch.cat([x, torch.zeros(size * groups - len(x), *x.shape[1:])])
    return [x[g * size : (g + 1) * size] for g in range(groups)]


@encoders
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_sluice_is_its_formula(encoder: str, groups: int) -> None:
    sharing, inputs = make(Sluice, encoder, subspaces=groups), inputs_of(encoder)
    networks = [factory(encoder)(["x"], task).eval() for task in TASKS]
    mask = networks[0].mask(inputs["x"])
    values = [network.stem("x", inputs["x"]) for network in networks]
    history: list[list[Tensor]] = []
    for k, stages in enumerate(zip(*(network.stages for network in networks), strict=True)):
        outputs = [run_stages([stage], x, mask) for stage, x in zip(stages, values, strict=True)]
        parts, alpha = [pieces(x, groups) for x in outputs], sharing.alpha[k]
        values = []
        for i, whole in enumerate(outputs):
            own = [
                sum((alpha[i, g, j, h] * parts[j][h] for j in range(3) for h in range(groups)), torch.zeros(()))
                for g in range(groups)
            ]
            place = 1 if whole.ndim == 4 else whole.ndim - 1
            values.append(torch.cat(own)[: whole.shape[place]].movedim(0, place))
        history.append(values)
    like = [k for k, stage in enumerate(history) if stage[0].shape[1:] == sharing.features.shape]
    assert len(like) == {"mlp": 2, "cnn": 1, "transformer": 1}[encoder] and (sharing.beta is None) == (len(like) == 1)
    if sharing.beta is not None:
        values = [sum((sharing.beta[i, n] * history[k][i] for n, k in enumerate(like)), torch.zeros(())) for i in range(3)]
    agrees(sharing, inputs, dict(zip(TASKS, values, strict=True)))


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("encoder", ["mlp", "cnn"])
def test_the_penalty_of_sluice_is_its_formula(encoder: str, groups: int) -> None:
    """Over pairs of rows of different subspaces, the squares of their inner products."""
    sharing = make(Sluice, encoder, subspaces=groups, strength=0.7)
    expected = torch.zeros(())
    for task in TASKS:
        for layer in factory(encoder)(["x"], task).modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                rows = layer.weight.flatten(1)
                size = -(-len(rows) // groups)
                for i in range(len(rows)):
                    for j in range(i):
                        if i // size != j // size:
                            expected = expected + (rows[i] @ rows[j]) ** 2
    found = sharing.penalty()
    if groups == 1:
        assert found is None and expected == 0
    else:
        torch.testing.assert_close(found, 0.7 * expected)
    assert make(Sluice, encoder, strength=0.0).penalty() is None


def test_sluice_starts_at_its_own_subspace_and_at_the_last_stage() -> None:
    sharing = Sluice(factory("mlp"), dict.fromkeys(TASKS, "x"), own=0.75, last=0.7)
    start = torch.full((6, 6), 0.05).fill_diagonal_(0.75)
    for alpha in sharing.alpha:
        torch.testing.assert_close(alpha.detach().reshape(6, 6), start)
    torch.testing.assert_close(sharing.beta.detach(), torch.tensor([[0.3, 0.7]]).repeat(3, 1))
    tables = sharing.tables()
    assert list(tables) == ["alpha_1", "alpha_2", "alpha_3", "beta"] and tables["beta"].columns == ("stage 2", "stage 3")
    assert tables["alpha_1"].rows[:3] == ("a 1", "a 2", "b 1")


# ---- multi-task attention ---------------------------------------------------------------------------------------------


def masks_by_hand(sharing: MTAN, stream: str, task: int, values: list[Tensor], there: Tensor | None) -> list[Tensor]:
    """Convolutions 1 × 1 as such, vectors by position; [p; f] side by side and not as a sum."""
    attended, masks = None, []
    for p, module in zip(values, sharing.attention, strict=True):
        g, h = ([values[task] for values in each(part)] for part in (module.g, module.h))
        matrix, f = g[0], None
        if attended is not None:
            weight = [values[task] for values in each(module.f)]
            if p.ndim == 2 and attended.ndim == 4:
                attended = functional.adaptive_avg_pool2d(attended, 1).flatten(1)
            elif p.ndim == 2 and attended.ndim == 3:
                attended = torch.stack([x[seen].mean(0) for x, seen in zip(attended, there, strict=True)])
            f = functional.relu(normal(linear(attended, weight[0], weight[1]), weight[2:], module.f, task))
            if p.ndim == 4:
                f = functional.adaptive_avg_pool2d(f, p.shape[2:])
            matrix = torch.cat([matrix, each(module.g_of_f)[0][task]], 1)
        x = p if f is None else torch.cat([p, f], 2 if p.ndim == 3 else 1)
        x = functional.relu(normal(linear(x, matrix, g[1]), h[:2], module.h, task, 0))
        masks.append(normal(linear(x, h[2], h[3]), h[4:], module.h, task, -1).sigmoid())
        attended = masks[-1] * p
    return masks


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.conv2d(x, weight[:, :, None, None], bias) if x.ndim == 4 else functional.linear(x, weight, bias)


def normal(x: Tensor, affine: list[Tensor], module: Any, task: int, which: int = -1) -> Tensor:
    """By LayerNorm for sequences, else with the running statistics of one of the module's BatchNorms."""
    if x.ndim == 3:
        return functional.layer_norm(x, x.shape[-1:], *affine)
    means = [buffer for name, buffer in module.named_buffers() if "running_mean" in name]
    variances = [buffer for name, buffer in module.named_buffers() if "running_var" in name]
    return functional.batch_norm(x, means[which][task], variances[which][task], *affine)


@encoders
@pytest.mark.parametrize("streams", ["x", "xy"])
def test_attention_is_its_formula(encoder: str, streams: str) -> None:
    sharing, inputs = make(MTAN, encoder, streams=streams), inputs_of(encoder, streams)
    network = factory(encoder)(sorted(streams), "shared").eval()
    expected = {}
    for i, task in enumerate(TASKS):
        stream = sharing.streams[task]
        there, x = network.mask(inputs[stream]), network.stem(stream, inputs[stream])
        values = [x := run_stages([stage], x, there) for stage in network.stages]
        expected[task] = masks_by_hand(sharing, stream, i, values, there)[-1] * values[-1]
    agrees(sharing, inputs, expected)


@encoders
def test_the_table_of_attention_has_the_mean_masks_of_the_last_epoch(encoder: str) -> None:
    sharing, inputs = make(MTAN, encoder), inputs_of(encoder)
    network = factory(encoder)(["x"], "shared").eval()
    there, x = network.mask(inputs["x"]), network.stem("x", inputs["x"])
    values = [x := run_stages([stage], x, there) for stage in network.stages]
    expected = torch.zeros(3, 3)
    for task in range(3):
        for k, mask in enumerate(masks_by_hand(sharing, "x", task, values, there)):
            expected[task, k] = (mask[there] if mask.ndim == 3 and there is not None else mask).mean()
    assert sharing.tables()["masks"].values.isnan().all()
    sharing.training = True  # and not its parts, which would normalise by the batch
    for epoch in (1, 2):
        sharing.before_epoch(epoch)
        for tasks in (["c", "a"], ["b"], ["a"]):
            features(sharing, inputs, tasks)
    table = sharing.eval().tables()["masks"]
    torch.testing.assert_close(table.values, expected)
    assert table.rows == tuple(TASKS) and sharing.counts.tolist() == [[n] * len(table.columns) for n in (2, 1, 1)]
    features(sharing, inputs, TASKS)
    assert torch.equal(sharing.tables()["masks"].values, table.values)
    assert {"sums", "counts"} <= set(sharing.state_dict())


@encoders
def test_masks_that_are_not_finite_count_in_no_mean(encoder: str) -> None:
    sharing, inputs = make(MTAN, encoder), inputs_of(encoder)
    sharing.training = True
    features(sharing, inputs, TASKS)
    before = sharing.tables()["masks"].values.clone()
    sharing.branch(TASKS, tuple(torch.full_like(value, torch.nan) for value in sharing.trunk(inputs)), inputs)
    assert torch.equal(sharing.tables()["masks"].values, before)


def test_attention_follows_sequences_that_keep_their_length_alone() -> None:
    Fit((5, 8), (5, 16))
    with pytest.raises(NotApplicable, match=r"makes \[4, 8\] of \[5, 8\]"):
        Fit((5, 8), (4, 8))


# ---- learning to branch -----------------------------------------------------------------------------------------------

TREE = Tree(((0, 2, 0), (2, 0, 1), (1, 0, 1)))
"""Tasks a and c pass through copies 1, 0, 0, in the order of the stages last to first; b through 0, 2, 0."""


def by_the_tree(tree: Tree, encoder: str, task: int, inputs: Any, stream: str, streams: str) -> Tensor:
    networks = [factory(encoder)(sorted(streams), f"copy_{k}").eval() for k in range(3)]
    path = [tree.parents[-1][task]]
    for parents in tree.parents[-2::-1]:
        path.append(parents[path[-1]])
    stages = [networks[copy].stages[k] for k, copy in enumerate(reversed(path))]
    return run_stages(stages, networks[0].stem(stream, inputs[stream]), networks[0].mask(inputs[stream]))


@encoders
@pytest.mark.parametrize("streams", ["x", "xy"])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_task_reads_the_copies_that_the_tree_says(encoder: str, streams: str, fixed: bool) -> None:
    sharing, inputs = make(LTB, encoder, streams=streams), inputs_of(encoder, streams)
    with torch.no_grad():
        for theta, parents in zip((*sharing.theta, sharing.task_theta), TREE.parents, strict=True):
            theta.uniform_(-0.1, 0.1).scatter_(1, torch.tensor(parents).unsqueeze(1), 0.2)
    if fixed:
        sharing.before_epoch(10)
        assert sharing.tree is None
        sharing.before_epoch(11)
        assert sharing.tree == TREE
    expected = {task: by_the_tree(TREE, encoder, i, inputs, sharing.streams[task], streams) for i, task in enumerate(TASKS)}
    agrees(sharing, inputs, expected)


def test_in_training_a_child_draws_its_parent_by_its_probabilities() -> None:
    sharing = make(LTB, "mlp").train()
    logits = torch.tensor([0.0, 1.0, -1.0]).repeat(4000, 1).requires_grad_()
    sharing.tau = 5.0
    noise = sharing._noise(logits)
    choice = sharing._choice(logits, noise)
    assert set(choice.unique().tolist()) == {0.0, 1.0} and (choice.sum(1) == 1).all()
    torch.testing.assert_close(choice.mean(0), logits[0].softmax(0), atol=0.03, rtol=0)
    weights = torch.randn(4000, 3)
    (found,) = torch.autograd.grad((choice * weights).sum(), logits)
    soft = ((logits + noise) / 5.0).exp()
    (expected,) = torch.autograd.grad((soft / soft.sum(1, keepdim=True) * weights).sum(), logits)
    torch.testing.assert_close(found, expected)


def test_noise_is_new_in_each_step_goes_on_after_a_resume_and_leaves_torchs_generator_alone() -> None:
    sharing, inputs = make(LTB, "mlp").train(), inputs_of("mlp")
    state = torch.get_rng_state()
    outputs = [features(sharing, inputs, TASKS) for _ in range(12)]
    assert len({tuple(value.flatten().tolist()) for value in outputs}) > 3
    assert torch.equal(state, torch.get_rng_state())
    other = make(LTB, "mlp").train()
    other.load_state_dict(copy.deepcopy(sharing.state_dict()))
    for _ in range(5):
        assert torch.equal(features(sharing, inputs, TASKS), features(other, inputs, TASKS))


def test_the_temperature_falls_and_the_tree_is_part_of_the_state() -> None:
    sharing = make(LTB, "mlp", temperature=8.0, anneal=0.5, search_epochs=4)
    taus = []
    for epoch in (1, 4, 5):
        sharing.before_epoch(epoch)
        taus.append(sharing.tau)
    assert taus[:2] == [8.0, 4.0]
    fresh = make(LTB, "mlp")
    assert fresh.tree is None
    searching = copy.deepcopy(fresh.state_dict())
    fresh.load_state_dict(sharing.state_dict())
    assert fresh.tree == sharing.tree is not None
    fresh.load_state_dict(searching)  # the best epoch may lie before
    assert fresh.tree is None


def test_a_frozen_stem_drops_nothing() -> None:
    """As in every other mode."""

    def frozen(streams: Sequence[str], name: str) -> Encoder:
        encoder = Transformer(dict.fromkeys(streams, StreamSpec({"tokens": (5,)}, vocabulary=7)), width=4, heads=2, dropout=0.5)
        encoder.stems.requires_grad_(False)
        return encoder

    sharing = LTB(frozen, dict.fromkeys("ab", "x")).train()
    (stem,) = (module for module in sharing.modules() if isinstance(module, Placed))
    assert not stem.dropout.training
    assert all(module.training for module in sharing.stages.modules() if isinstance(module, Dropout))


def test_tables_and_entropy_of_the_tree() -> None:
    sharing = make(LTB, "mlp")
    tables = sharing.tables()
    assert list(tables) == ["tree_2", "tree_3", "tree_tasks"]
    torch.testing.assert_close(tables["tree_tasks"].values, sharing.task_theta.detach().softmax(1))
    rows = torch.cat([table.values for table in tables.values()])
    assert sharing.metrics()["entropy"] == pytest.approx(torch.distributions.Categorical(rows).entropy().mean().item(), rel=1e-5)
    sharing.tree = TREE
    nan = float("nan")
    expected = {
        "tree_2": [[1, 0, 0], [nan] * 3, [nan] * 3],  # only copy 1 of stage 2 is used
        "tree_3": [[nan] * 3, [1, 0, 0], [nan] * 3],
        "tree_tasks": [[0, 1, 0]] * 3,
    }
    sharing.tree = Tree(((0, 2, 0), (2, 0, 1), (1, 1, 1)))
    for name, table in sharing.tables().items():
        torch.testing.assert_close(table.values, torch.tensor(expected[name], dtype=torch.float), equal_nan=True)


def test_one_copy_is_hard_sharing(make_config: Config) -> None:
    ltb, hard = make(LTB, "cnn", copies=1), make(Hard, "cnn")
    hard.encoder.load_state_dict(factory("cnn")(["x"], "copy_0").state_dict())
    inputs = inputs_of("cnn")
    torch.testing.assert_close(features(ltb, inputs, TASKS), features(hard, inputs, TASKS).expand(3, -1, -1))


def test_training_goes_on_with_the_tree_and_leaves_unused_copies_alone(make_config: Config) -> None:
    options = ["sharing=ltb", "sharing.search_epochs=1", "encoder.hidden=[7,5]", "trainer.epochs=3", "weighting=mgda"]
    trainer = trainer_on(copies(3), make_config(*options, "optimizer.weight_decay=0", "trainer.batch_size=16"))
    sharing = trainer.model.sharing
    trainer.epoch()
    searched = len(trainer.shared)
    with torch.no_grad():
        sharing.theta[0].copy_(torch.eye(3)[[0, 0, 0]])
        sharing.task_theta.copy_(torch.eye(3)[[0, 1, 1]])
    trainer.epoch()
    assert sharing.tree == Tree(((0, 0, 0), (0, 1, 1))) and len(trainer.shared) == searched - 1
    assert sharing.task_theta.grad is None and sharing.theta[0].grad is None
    gradients = [next(stage.parameters()).grad for stage in sharing.stages]
    assert [bool(g.any()) for g in gradients[0]] == [True, False, False]
    assert [bool(g.any()) for g in gradients[1]] == [True, True, False]


# ---- what is shared, and the tasks' gradients -------------------------------------------------------------------------

VARIANTS: list[tuple[type[Sharing], dict[str, Any], str]] = [
    *((CrossStitch, {"per_channel": channel, "last": last}, "x") for channel in (False, True) for last in (False, True)),
    (CrossStitch, {"train_stitches": False}, "x"),
    *((Sluice, {"subspaces": groups}, "x") for groups in (1, 2)),
    *((MTAN, {"norm": norm, "reduction": 2}, streams) for norm, streams in ((True, "x"), (False, "xy"))),
    *((LTB, {"tree": TREE}, streams) for streams in ("x", "xy")),
    (LTB, {"tree": Tree(((0, 0, 0), (0, 1, 2), (0, 1, 2)))}, "x"),
    (LTB, {"tree": Tree(((0, 1, 2), (0, 1, 2), (0, 1, 2)))}, "x"),
    (LTB, {"copies": 2}, "xy"),
]
variants = pytest.mark.parametrize(("mode", "options", "streams"), VARIANTS)


def variant(mode: type[Sharing], encoder: str, options: dict[str, Any], streams: str) -> Sharing:
    sharing = make(mode, encoder, streams=streams, **{key: value for key, value in options.items() if key != "tree"})
    if isinstance(sharing, LTB):
        sharing.tree = options.get("tree")
        sharing.train(sharing.tree is None)
    return sharing


def task_gradients(sharing: Sharing, encoder: str, streams: str) -> dict[str, list[Tensor]]:
    """Of each task, summed over passes: learning to branch draws what a task reads."""
    inputs, parameters = inputs_of(encoder, streams), [p for p in sharing.parameters() if p.requires_grad]
    found = {}
    for task in TASKS:
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for _ in range(40 if sharing.training else 1):
            loss = features(sharing, inputs, [task]).pow(2).sum()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            sums = [s if g is None else s + g.abs() for s, g in zip(sums, gradients, strict=True)]
        found[task] = sums
    return found


@variants
@pytest.mark.parametrize("encoder", ["mlp", "cnn"])
def test_shared_is_what_two_or_more_tasks_reach(mode: Any, encoder: str, options: dict[str, Any], streams: str) -> None:
    sharing = variant(mode, encoder, options, streams)
    found = task_gradients(sharing, encoder, streams)
    names = [name for name, parameter in sharing.named_parameters() if parameter.requires_grad]
    readers = [sum((gradient != 0).int() for gradient in column) for column in zip(*found.values(), strict=True)]
    twice = {name for name, count in zip(names, readers, strict=True) if count.max() > 1}
    shared = sharing.shared()
    assert {name for name, p in sharing.named_parameters() if any(p is other for other in shared)} == twice
    assert len(shared) == len({id(parameter) for parameter in shared})


@variants
@encoders
def test_gradients_by_way_of_copies_are_autograds(mode: Any, encoder: str, options: dict[str, Any], streams: str) -> None:
    sharing = variant(mode, encoder, options, streams).eval().double()
    parameters = [p for p in sharing.parameters() if p.requires_grad]
    inputs = {
        stream: {name: x.double() if x.is_floating_point() else x for name, x in values.items()}
        for stream, values in inputs_of(encoder, streams).items()
    }
    for stream in sharing.order:
        tasks = [task for task in TASKS if sharing.streams[task] == stream]
        boundary = sharing.trunk(inputs)
        own = tuple(value.detach().expand(len(tasks), *value.shape).clone().requires_grad_() for value in boundary)
        loss = sharing.branch(tasks, own, inputs, apart=True).pow(2).sum()
        branch = torch.autograd.grad(loss, [*own, *parameters], allow_unused=True)
        total = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, branch[len(own) :], strict=True)]
        for i, task in enumerate(tasks):
            reached = [(value, g[i]) for value, g in zip(boundary, branch, strict=False) if g is not None]
            values, cotangents = zip(*reached, strict=True)
            found = torch.autograd.grad(values, parameters, cotangents, allow_unused=True, retain_graph=True)
            alone = torch.autograd.grad(features(sharing, inputs, [task]).pow(2).sum(), parameters, allow_unused=True)
            for k, parameter in enumerate(parameters):
                wanted, way = (torch.zeros_like(parameter) if each[k] is None else each[k] for each in (alone, found))
                if any(parameter is other for other in sharing.shared()):
                    torch.testing.assert_close(way, wanted)
                total[k] = total[k] + way - wanted
        for left in total:  # what belongs to one task has its gradient from the branch, or from that task's pass
            torch.testing.assert_close(left, torch.zeros_like(left), atol=1e-9, rtol=0)


# ---- sizes ------------------------------------------------------------------------------------------------------------

MLP_SIZE = (6 * 5 + 5) + (5 * 4 + 4) + (4 * 4 + 4)
TABLE = 5 * 4  # the vectors of the category: fastai's rule gives 5 categories 4 numbers


@pytest.mark.parametrize(
    ("mode", "options", "shared", "own"),
    [
        (CrossStitch, {}, 3 * MLP_SIZE + 2 * 9, 9),
        (CrossStitch, {"per_channel": True}, 3 * MLP_SIZE + 9 * (5 + 4), 9 * 4),
        (CrossStitch, {"last": False}, 3 * (MLP_SIZE - 20) + 9, 9 + 3 * 20),
        (Sluice, {}, 3 * MLP_SIZE + 2 * 36, 36 + 3 * 2),
        (LTB, {}, 3 * MLP_SIZE + 2 * 9, 9),
        (LTB, {"copies": 2}, 2 * MLP_SIZE + 2 * 4, 3 * 2),
    ],
)
def test_sizes(mode: Any, options: dict[str, Any], shared: int, own: int) -> None:
    sharing = make(mode, "mlp", **options)
    width = sum(p.numel() for p in factory("mlp")(["x"], "a").stems.parameters())
    first = 5 * (4 + width // 5)
    networks = options.get("copies", 3)
    stems = (1 if mode is LTB else networks) * width
    more = stems + networks * (first + 5 - 35)
    found = sum(parameter.numel() for parameter in sharing.shared())
    assert found == shared + more
    assert sum(parameter.numel() for parameter in sharing.parameters()) - found == own


def test_size_of_attention() -> None:
    sharing = make(MTAN, "mlp", reduction=2)
    shared = sum(p.numel() for p in factory("mlp")(["x"], "shared").parameters())
    modules = 0
    for before, channels in ((0, 5), (5, 4), (4, 4)):
        width = channels // 2
        inputs = channels if before == 0 else 2 * channels
        modules += (inputs + 1) * width + 2 * width + (width + 1) * channels + 2 * channels
        modules += 0 if before == 0 else (before + 1) * channels + 2 * channels
    assert sum(p.numel() for p in sharing.shared()) == shared
    assert sum(p.numel() for p in sharing.parameters()) == shared + 3 * modules


@pytest.mark.parametrize("mode", [CrossStitch, Sluice, MTAN, LTB])
def test_a_task_alone_shares_nothing(mode: Any) -> None:
    sharing, inputs = make(mode, "mlp", ["a"]), inputs_of("mlp")
    assert sharing.shared() == [] and features(sharing, inputs, ["a"]).shape == (1, 7, 4)
    assert torch.equal(features(sharing, inputs, ["a"]), features(sharing, inputs, ["a"], apart=True))
    if mode is CrossStitch:
        torch.testing.assert_close(features(sharing, inputs, ["a"])[0], factory("mlp")(["x"], "a")("x", inputs["x"]))


@pytest.mark.parametrize("mode", ["cross_stitch", "sluice", "mtan", "ltb"])
@pytest.mark.parametrize(
    "more",
    [["weighting=moco"], ["weighting=pcgrad", "weighting.gradients=features"], ["trainer.precision=bf16"], ["weighting=famo"]],
    ids=",".join,
)
def test_it_trains_with_other_weightings_and_precisions(mode: str, more: list[str], make_config: Config) -> None:
    search = ["sharing.search_epochs=1"] if mode == "ltb" else []
    config = make_config(f"sharing={mode}", "encoder.hidden=[6,6]", *search, *more, "trainer.epochs=3", "trainer.batch_size=25")
    epochs = list(training_on(made(), config).fit())
    losses = [value for name, value in epochs[-1].metrics.items() if name.startswith("train/")]
    assert len(losses) == 4 and all(value == value for value in losses)


@pytest.mark.parametrize("mode", ["cross_stitch", "sluice", "mtan", "ltb"])
def test_a_resumed_run_is_the_uninterrupted_one(mode: str, make_config: Config) -> None:
    search = ["sharing.search_epochs=1"] if mode == "ltb" else []
    config = make_config(f"sharing={mode}", "encoder.hidden=[6,6]", "encoder.dropout=0.1", *search, "trainer.epochs=4")
    whole, first, second = (trainer_on(made(), config) for _ in range(3))
    for _ in range(3):
        whole.epoch()
    for _ in range(2):
        first.epoch()
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.epoch()
    assert same(dict(second.model.state_dict()), dict(whole.model.state_dict()))
