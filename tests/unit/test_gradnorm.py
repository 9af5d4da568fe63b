"""GradNorm against autograd of L_grad through the graph of the gradients, on a small network."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from handmade import copies, kind_of, made, options, same, trainer_on, two_streams
from omegaconf import DictConfig
from torch import Tensor, nn

from mtl_runner import build
from mtl_runner.batch import Batch
from mtl_runner.config.schema import plain, problems
from mtl_runner.encoders.base import SideBySide
from mtl_runner.encoders.last import last_layer
from mtl_runner.sharing.ltb import Tree
from mtl_runner.trainer import Trainer
from mtl_runner.weighting import gradnorm
from mtl_runner.weighting.base import Objectives
from mtl_runner.weighting.gradnorm import GradNorm
from mtl_runner.weighting.part import PartGradients

MakeConfig = Callable[..., DictConfig]

NOTHING_SHARED = {"none", "soft", "low_rank", "joint_feature"}
"""Modes whose tasks have no parameter in common."""
SHARING = [mode for mode in options("sharing") if mode not in NOTHING_SHARED]
ENCODERS = {
    "mlp": ("numbers", ["encoder=mlp", "encoder.hidden=[7,5]"], r"stages\.[01](\.layers)?\.0\.(weight|bias)"),
    "mlp,norm": ("numbers", ["encoder=mlp", "encoder.hidden=[7,5]", "encoder.norm=layer"], r"(\.layers)?\.0\.(weight|bias)"),
    "cnn": ("images", ["encoder=cnn", "encoder.channels=[2,3]", "encoder.width=5"], r"(\.layers)?\.1\.(weight|bias)"),
    "rnn": ("tokens", ["encoder=rnn", "encoder.width=3", "encoder.embedding_size=4"], r"\.ways\.[01]\.(weight|bias)_[ih]h_l0"),
    "transformer": (
        "tokens",
        ["encoder=transformer", "encoder.width=4", "encoder.layers=2", "encoder.heads=2", "encoder.feedforward=2"],
        r"stages\.[01]\.stage\.feedforward\.3\.(weight|bias)",
    ),
    "resnet": ("images", ["encoder=resnet", "encoder.width=2"], r"stages\.[24]\.1\.conv2\.weight"),
}
"""What they read, small ones, and how the names of the last layer's parameters end, without the number of a copy."""
LAST = {
    "hard": "encoder.stages.1.0",
    "task_relation": "encoder.stages.1.0",
    "mtan": "encoder.stages.1.0",
    "adapters": "encoder.stages.1.0",
    "shared_private": "encoder.stages.1.0",
    "clustered": "encoders.0.stages.1.0",
    "mmoe": "experts.stages.1.layers.0",
    "dselect_k": "experts.stages.1.layers.0",
    "ple": "shared_experts.1.stages.0.parts.0.0",
    "cgc": "shared_experts.0.stages.1.parts.0.0",
    "cross_stitch": "networks.stages.1.layers.0",
    "sluice": "networks.stages.1.layers.0",
    "ltb": "stages.1.layers.0",
    "task_graph": "own.0",
}
"""The last shared layer of a perceptron of two layers."""
RNN = {
    "hard": ["encoder.stages.0.stage"],
    "mmoe": [f"experts.stages.0.parts.{expert}.stage" for expert in range(4)],
    "cgc": ["shared_experts.0.stages.0.parts.0.stage"],
    "cross_stitch": [f"networks.stages.0.parts.{task}.stage" for task in range(4)],
}


def batches(trainer: Trainer, count: int) -> list[Batch]:
    found: list[Batch] = []
    while len(found) < count:
        found += trainer.loader.epoch(trainer.training_part(), len(found) + 1)
    return found[:count]


def losses_of(trainer: Trainer, batch: Batch) -> Tensor:
    """[T], with the graph of the whole model."""
    outputs = trainer.model.outputs(batch.inputs)
    return torch.cat([group.losses(outputs[key], batch.targets[key])[0] for key, group in trainer.groups.items()])


def looked_at(trainer: Trainer, layer: str) -> list[nn.Parameter]:
    """By name, not as the method finds it: the last stage of the encoder, or all that is shared."""
    last = list(trainer.model.sharing.encoder.stages[-1].parameters())
    assert len(last) == 2 and last[0].dim() == 2
    return last if layer == "last" else trainer.shared


def by_autograd(trainer: Trainer, batch: Batch, first: Tensor, alpha: float, layer: str) -> tuple[Tensor, Tensor]:
    """d L_grad / d w of the paper, by differentiating through the norms of the gradients of w_t L_t; and the losses."""
    weights = trainer.weighting.task_weights.detach().clone().requires_grad_()
    losses = losses_of(trainer, batch)
    norms = []
    for weight, loss in zip(weights, losses, strict=True):
        gradients = torch.autograd.grad(weight * loss, looked_at(trainer, layer), create_graph=True, allow_unused=True)
        norms.append(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm())
    pace = losses.detach() / first
    targets = (torch.stack(norms).mean() * (pace / pace.mean()) ** alpha).detach()
    (slopes,) = torch.autograd.grad((torch.stack(norms) - targets).abs().sum(), weights)
    return slopes, losses.detach()


@pytest.mark.parametrize("layer", ["last", "all"])
@pytest.mark.parametrize("alpha", [1.5, 0.0, 0.4])
def test_a_trajectory_is_that_of_the_papers_expression(alpha: float, layer: str, make_config: MakeConfig) -> None:
    """Slopes, update, heads and the optimizer's steps, with weights that are trained fast enough to part."""
    config = make_config(
        "weighting=gradnorm", f"weighting.alpha={alpha}", f"weighting.layer={layer}", "weighting.lr=0.02", "optimizer.lr=0.01"
    )
    trainer = trainer_on(made(), config)
    method = trainer.weighting
    reference = nn.Parameter(torch.ones(4))
    optimizer = type(trainer.learner.optimizer)([reference], lr=0.02, weight_decay=0.0)
    first = None
    for step, batch in enumerate(batches(trainer, 20)):
        first = losses_of(trainer, batch).detach() if first is None else first
        expected, losses = by_autograd(trainer, batch, first, alpha, layer)
        used = method.task_weights.detach().clone()
        everything = [*trainer.shared, *trainer.private]
        plain = torch.autograd.grad((used * losses_of(trainer, batch)).sum() / 4, everything, allow_unused=True)
        assert trainer.train_step(batch).weights.isfinite().all()
        scale = max(float(expected.abs().max()), 1e-3)
        torch.testing.assert_close(method.task_weights.grad, expected, rtol=1e-3, atol=1e-3 * scale, msg=f"step {step}")
        for parameter, gradient in zip(everything, plain, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
        reference.grad = expected
        optimizer.step()
        with torch.no_grad():
            reference *= 4 / reference.sum()
        torch.testing.assert_close(method.task_weights.detach(), reference.detach(), rtol=1e-2, atol=1e-3)
    assert (method.task_weights - 1).abs().max() > 0.05, "the weights moved"
    assert losses.isfinite().all()


def test_norms_come_together_with_alpha_zero(make_config: MakeConfig) -> None:
    """The network stands still; the weights are trained until w_t ‖g_t‖ is the same for all tasks."""
    config = make_config("weighting=gradnorm", "weighting.alpha=0", "weighting.lr=0.02", "optimizer=sgd", "optimizer.lr=1e-20")
    trainer = trainer_on(made(), config)
    batch = batches(trainer, 1)[0]
    spreads = []
    for _ in range(150):
        trainer.train_step(batch)
        norms = trainer.weighting.gramian.diagonal().sqrt() * trainer.weighting.task_weights.detach()
        spreads.append(float(norms.max() / norms.min()))
    assert spreads[0] > 1.3 and spreads[-1] < 1.1
    assert trainer.weighting.task_weights.sum().item() == pytest.approx(4, rel=1e-5)


def test_a_task_that_learns_slowly_gains_weight() -> None:
    method = GradNorm(["quick", "slow"])
    gramian = torch.eye(2, dtype=torch.float64)
    both = torch.ones(2, dtype=torch.bool)
    method.weights(gramian, torch.tensor([2.0, 2.0], dtype=torch.float64), both)
    assert (method.task_weights.grad == 0).all()
    method.weights(gramian, torch.tensor([0.5, 1.9], dtype=torch.float64), both)
    assert method.task_weights.grad[0] > 0 > method.task_weights.grad[1]


def test_absent_tasks_neither_count_nor_move() -> None:
    draws = torch.Generator().manual_seed(0)
    jacobian = torch.randn(5, 8, generator=draws, dtype=torch.float64)
    losses = torch.rand(5, generator=draws, dtype=torch.float64) + 0.5
    active = torch.tensor([True, False, True, True, False])
    method, without = GradNorm([*"abcde"]), GradNorm([*"acd"])
    with torch.no_grad():
        method.task_weights.copy_(torch.tensor([0.5, 1.2, 1.5, 1.0, 0.8]))
        without.task_weights.copy_(torch.tensor([0.5, 1.5, 1.0]))
    masked = jacobian * active[:, None]
    for factor in (1.0, 0.7):
        weights = method.weights(masked @ masked.T, (factor ** torch.arange(5) * losses).where(active, 1), active)
        few = jacobian[active]
        expected = without.weights(few @ few.T, (factor ** torch.arange(5) * losses)[active], torch.ones(3, dtype=torch.bool))
        torch.testing.assert_close(weights[active], expected)
        assert (weights[~active] == 0).all() and weights.sum().item() == pytest.approx(3)
        torch.testing.assert_close(method.task_weights.grad[active], without.task_weights.grad)
        assert (method.task_weights.grad[~active] == 0).all()
    assert (method.first[~active] == 0).all() and (method.first[active] > 0).all()
    late = torch.full((5,), 9.0, dtype=torch.float64)
    method.weights(jacobian @ jacobian.T, late, torch.ones(5, dtype=torch.bool))
    assert method.first[~active].tolist() == [9, 9], "its first loss is that of the first step with its labels"
    torch.testing.assert_close(method.first[active], losses[active].float())


def test_weights_stay_positive_and_keep_their_sum() -> None:
    method = GradNorm([*"abc"])
    with torch.no_grad():
        method.task_weights.copy_(torch.tensor([-0.3, 0.5, 1.0]))
    method.after_step(lambda: torch.zeros(3))
    assert (method.task_weights > 0).all() and method.task_weights.sum().item() == pytest.approx(3)


@pytest.mark.parametrize("losses", [[0.0, 1.0], [0.0, 0.0], [1e-30, 1e30]])
def test_extreme_losses_and_gradients_stay_finite(losses: list[float]) -> None:
    for gradient in (0.0, 1e-10, 1e10):
        method = GradNorm([*"ab"])
        for _ in range(3):
            gramian = torch.eye(2, dtype=torch.float64) * gradient**2
            weights = method.weights(gramian, torch.tensor(losses, dtype=torch.float64), torch.ones(2, dtype=torch.bool))
            assert weights.isfinite().all() and method.task_weights.grad.isfinite().all()


def test_its_parameters_are_a_group_of_their_own(make_config: MakeConfig) -> None:
    for override, expected in (("null", 0.003), ("0.025", 0.025)):
        trainer = trainer_on(made(), make_config("weighting=gradnorm", f"weighting.lr={override}", "optimizer.lr=0.003"))
        model, own = trainer.learner.optimizer.param_groups
        assert model["lr"] == 0.003 and own["lr"] == expected and own["weight_decay"] == 0
        assert [id(parameter) for parameter in own["params"]] == [id(trainer.weighting.task_weights)]


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Callable[[Trainer], list[str]]:
    """The names of the parameters, inside the sharing mode, at which a step takes the norms."""

    def names(trainer: Trainer) -> list[str]:
        seen: list[nn.Parameter] = []

        class Seen(PartGradients):
            def __init__(self, objectives: Objectives, parameters: Sequence[nn.Parameter]) -> None:
                seen.extend(parameters)
                super().__init__(objectives, parameters)

        monkeypatch.setattr(gradnorm, "PartGradients", Seen)
        trainer.train_step(batches(trainer, 1)[0])
        known = {id(parameter): name for name, parameter in trainer.model.sharing.named_parameters()}
        return [known[id(parameter)] for parameter in seen]

    return names


def on(encoder: str, make_config: MakeConfig, *overrides: str) -> Trainer:
    kind, chosen, _ = ENCODERS[encoder]
    return trainer_on(kind_of(kind, "one"), make_config(*chosen, "weighting=gradnorm", "trainer.batch_size=16", *overrides))


@pytest.mark.parametrize("encoder", [pytest.param(name, marks=[] if "mlp" in name else pytest.mark.slow) for name in ENCODERS])
@pytest.mark.parametrize("mode", SHARING)
def test_the_last_layer_is_a_shared_one_of_features(mode: str, encoder: str, make_config: MakeConfig) -> None:
    """All of the layer and of its copies, and no normalisation, gate, mixture or edge."""
    kind, chosen, ending = ENCODERS[encoder]
    data = kind_of(kind, "one")
    sharing = build.make_model(plain(make_config(*chosen, f"sharing={mode}")), data.streams, data.targets).sharing
    shared = {id(parameter) for parameter in sharing.shared()}
    assert {id(parameter) for parameter in sharing.last_layer()} <= shared
    known = {id(parameter): name for name, parameter in sharing.named_parameters()}
    names = [known[id(parameter)] for parameter in sharing.last_layer()]
    owners = {name.rpartition(".")[0]: sharing.get_submodule(name.rpartition(".")[0]) for name in names}
    assert not any("Norm" in type(owner).__name__ for owner in owners.values())
    whole = {f"{place}.{name}" for place, owner in owners.items() for name, _ in owner.named_parameters(recurse=False)}
    assert set(names) == whole and len(names) == len(whole)
    assert any(name.rpartition(".")[2].startswith("weight") for name in names)
    expected = r"own\.0\.(weight|bias)" if mode == "task_graph" else ending
    assert all(re.search(f"{expected}$", re.sub(r"\.parts\.\d+", "", name)) for name in names), names


@pytest.mark.parametrize("mode", SHARING)
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_the_last_shared_layer_of_each_mode(
    mode: str, norm: str, make_config: MakeConfig, places: Callable[[Trainer], list[str]]
) -> None:
    trainer = on("mlp", make_config, f"sharing={mode}", f"encoder.norm={norm}")
    assert places(trainer) == [f"{LAST[mode]}.weight", f"{LAST[mode]}.bias"]
    assert (trainer.weighting.gramian.diagonal() > 0).all()


@pytest.mark.parametrize("mode", RNN)
@pytest.mark.parametrize("layers", [1, 2])
def test_both_directions_of_a_recurrent_layer_count(
    mode: str, layers: int, make_config: MakeConfig, places: Callable[[Trainer], list[str]]
) -> None:
    names = places(on("rnn", make_config, f"sharing={mode}", f"encoder.layers={layers}"))
    last = [prefix.replace("stages.0", f"stages.{layers - 1}") for prefix in RNN[mode]]
    assert set(names) == {
        f"{prefix}.ways.{way}.{kind}_{side}h_l0"
        for prefix in last
        for way in (0, 1)
        for kind in ("weight", "bias")
        for side in "ih"
    }
    assert len(names) == 8 * len(last)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sharing=hard", "sharing.shared_stages=0.5"], ["encoder.stages.0.0"]),
        (["sharing=mmoe", "sharing.shared_stages=0.5"], ["experts.stages.0.layers.0"]),
        (["sharing=cross_stitch", "sharing.last=false"], ["networks.stages.0.layers.0"]),
        (["sharing=task_graph", "sharing.shared_stages=0.5"], ["own.0.layers.0"]),
        (["sharing=task_graph", "sharing.edges={sort:[yes],size:[sort,yes]}"], ["own.0"]),
        (["sharing=task_graph", "sharing.edges={sort:[yes]}", "sharing.through=outputs"], ["encoder.stages.1.0"]),
        (["sharing=adapters", "sharing.kind=low_rank"], ["encoder.stages.1.0.layer"]),
        (["sharing=clustered", "sharing.groups=[[yes,sort],[size],[pair]]"], ["encoders.0.stages.1.0"]),
        (["sharing=clustered", "sharing.groups=[[yes,sort],[size,pair]]"], ["encoders.0.stages.1.0", "encoders.1.stages.1.0"]),
        (["sharing=hard", "encoder.hidden=[5,5]", "encoder.residual=true"], ["encoder.stages.1.layers.0"]),
        (["sharing=sluice", "encoder.hidden=[5,5]", "encoder.residual=true"], ["networks.stages.1.layers.layers.0"]),
    ],
    ids=lambda value: ",".join(value) if "=" in value[0] else "",
)
def test_the_last_shared_layer_where_options_move_it(
    overrides: list[str], expected: list[str], make_config: MakeConfig, places: Callable[[Trainer], list[str]]
) -> None:
    names = places(on("mlp", make_config, *overrides))
    assert names == [f"{layer}.{kind}" for layer in expected for kind in ("weight", "bias")]


def test_vectors_of_categories_are_the_last_shared_layer_where_nothing_else_is(
    make_config: MakeConfig, places: Callable[[Trainer], list[str]]
) -> None:
    config = make_config("sharing=hard", "sharing.shared_stages=0", "weighting=gradnorm")
    names = places(trainer_on(kind_of("table", "one"), config))
    assert names == [f"encoder.stems.input.embeddings.{column}.weight" for column in (0, 1)]


@pytest.mark.parametrize(
    ("encoder", "tasks_read", "expected"),
    [
        ("mlp", (0, 0, 2, 3), ["stages.1.layers.0"]),
        ("mlp", (0, 1, 2, 3), ["stages.0.layers.0"]),
        ("rnn", (0, 0, 2, 2), [f"stages.1.parts.{copy}.stage.ways.{way}" for copy in (0, 2) for way in (0, 1)]),
        ("rnn", (0, 1, 2, 3), [f"stages.0.parts.{copy}.ways.{way}" for copy in (0, 3) for way in (0, 1)]),
    ],
)
def test_the_layer_follows_the_tree_that_ltb_found(
    encoder: str,
    tasks_read: tuple[int, ...],
    expected: list[str],
    make_config: MakeConfig,
    places: Callable[[Trainer], list[str]],
) -> None:
    """Copies 0 and 1 of the second stage read copy 0 of the first, and copies 2 and 3 copy 3."""
    trainer = on(encoder, make_config, "sharing=ltb", *(["encoder.layers=2"] if encoder == "rnn" else []))
    trainer.model.sharing.tree = Tree(((0, 0, 3, 3), tasks_read))
    trainer.look_at_what_is_shared()
    names = places(trainer)
    assert list(dict.fromkeys(name.rpartition(".")[0] for name in names)) == expected
    assert len(names) == len(expected) * (4 if encoder == "rnn" else 2)


def test_the_layer_follows_clusters_that_are_found(make_config: MakeConfig) -> None:
    found = ["sharing.clusters=3", "sharing.warmup=1", "sharing.by=affinity"]
    trainer = on("mlp", make_config, "sharing=clustered", *found)
    names = {id(parameter): name for name, parameter in trainer.model.sharing.named_parameters()}
    trainer.epoch()
    assert [names[id(parameter)] for parameter in trainer.last_layer] == [
        f"encoders.0.stages.1.0.{kind}" for kind in ("weight", "bias")
    ]
    trainer.epoch()
    (several,) = [label for label in range(3) if trainer.model.sharing.labels.count(label) == 2]
    kept = [names[id(parameter)] for parameter in trainer.last_layer]
    assert kept == [f"encoders.{several}.stages.1.0.{kind}" for kind in ("weight", "bias")]


def test_all_that_is_shared_stands_in_where_no_layer_is_trained(make_config: MakeConfig) -> None:
    sharing = on("mlp", make_config, "sharing=cross_stitch").model.sharing
    for stage in sharing.networks.stages[1:]:
        stage.requires_grad_(False)
    assert [tuple(parameter.shape) for parameter in sharing.last_layer()] == [(4, 7, 6), (4, 7)]
    sharing.networks.requires_grad_(False)
    assert [id(parameter) for parameter in sharing.last_layer()] == [id(sharing.stitches[0])]


def test_the_last_layer_is_found_in_the_structure() -> None:
    """Not from shapes: what runs side by side counts together, a normalisation does not, nor what is not among the parameters."""
    pair = SideBySide([nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Sequential(nn.Linear(3, 2), nn.ReLU())])
    network = nn.Sequential(nn.Linear(3, 3), pair, nn.LayerNorm(4), nn.Tanh())

    def layer(*left_out: nn.Module) -> list[int]:
        without = {id(parameter) for module in left_out for parameter in module.parameters()}
        return [id(value) for value in last_layer(network, {id(value) for value in network.parameters()} - without)]

    def own(*modules: nn.Module) -> list[int]:
        return [id(parameter) for module in modules for parameter in module.parameters()]

    assert layer() == own(pair[0][0], pair[1][0])
    assert layer(pair[1]) == own(pair[0][0])
    assert layer(pair) == own(network[0])
    assert layer(network) == []


@pytest.mark.parametrize("count", [2, 5])
def test_identical_tasks_keep_equal_weights(count: int, make_config: MakeConfig) -> None:
    trainer = trainer_on(copies(count), make_config("weighting=gradnorm", "weighting.lr=0.05"))
    (group,) = trainer.groups.values()
    with torch.no_grad():
        for parameter in group.head.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    for batch in batches(trainer, 5):
        torch.testing.assert_close(trainer.train_step(batch).weights.float(), torch.ones(count), rtol=1e-2, atol=0)


@pytest.mark.parametrize("settings", [[], ["weighting.every=3"], ["weighting.layer=all", "weighting.lr=0.1"]])
def test_a_trainer_that_goes_on_from_a_file_is_the_one_that_never_stopped(
    settings: list[str], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config("weighting=gradnorm", "trainer.batch_size=16", *settings)
    one, other = trainer_on(two_streams(), config), trainer_on(two_streams(), config)
    one.epoch()
    torch.save({"model": one.model.state_dict(), "trainer": one.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    kept = state["trainer"]["now"]["weighting"]
    assert (kept["first"] > 0).all() and (kept["task_weights"] - 1).abs().max() > 1e-5
    other.model.load_state_dict(state["model"])
    other.load_state_dict(state["trainer"])
    assert one.epoch() == other.epoch() and one.progress.skipped == 0
    assert same(one.model.state_dict(), other.model.state_dict()) and same(one.state_dict(), other.state_dict())


def test_layer_stands_in_place_of_gradients(make_config: MakeConfig) -> None:
    lines = problems(make_config("weighting=gradnorm", "+weighting.gradients=features"))
    assert len(lines) == 1 and "no such key" in lines[0]
    assert "last" in problems(make_config("weighting=gradnorm", "weighting.layer=first"))[0]
