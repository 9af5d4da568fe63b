"""Sharing modes that learn which tasks are related: ``clustered`` and ``task_relation``."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from handmade import TASKS, made, same, trainer_on, training_on, two_streams
from omegaconf import DictConfig
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import sqrtm
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from mtl_runner import build
from mtl_runner.batch import Data
from mtl_runner.config import plug
from mtl_runner.config.schema import plain
from mtl_runner.errors import UserError
from mtl_runner.model import MultiTaskModel
from mtl_runner.serving.packaging import export
from mtl_runner.sharing.relation import clusters_of, common_features, in_order, moved
from mtl_runner.sharing.task_relation import correlation, covariance
from mtl_runner.trainer import Trainer
from mtl_runner.weighting.gradients import ParameterGradients

Config = Callable[..., DictConfig]
SMALL = ("encoder=mlp", "encoder.hidden=[7,5]")
PAIRS = "sharing.groups=[[yes,pair],[sort,size]]"
draws = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=draws)


@pytest.fixture
def model(make_config: Config) -> Callable[..., MultiTaskModel]:
    def make(data: Data, *overrides: str) -> MultiTaskModel:
        return build.make_model(plain(make_config(*SMALL, *overrides)), data.streams, data.targets)

    return make


@pytest.fixture
def on_planted(make_config: Config) -> Callable[..., Trainer]:
    """Eight tasks in two groups that do not stand next to each other."""

    def train(*overrides: str, epochs: int) -> Trainer:
        common = [
            "dataset=synthetic",
            "dataset.kind=regression",
            "dataset.n_tasks=8",
            "dataset.dimension=100",
            "dataset.rows=200",
        ]
        common += [f"dataset.groups={PLANTED}", "dataset.cosine_inside=0.95", "encoder.hidden=[64,32]", "trainer.batch_size=32"]
        node = make_config(*common, "trainer.early_stopping.patience=null", f"trainer.epochs={epochs}", *overrides)
        trainer = trainer_on(plug(plain(node)["dataset"], "dataset")().load(), node)
        for _ in range(epochs):
            trainer.epoch()
        return trainer

    return train


PLANTED = [0, 1, 1, 0, 0, 1, 0, 1]


# ---- relations and what follows from them -----------------------------------------------------------------------------


def test_heads_read_the_same_features_as_far_as_their_gram_matrices_agree() -> None:
    changes = {
        "a": random(1, 6),
        "b": random(3, 6),
        "c": random(2, 6),
        "other": random(2, 4),
        "still": torch.zeros(1, 6).double(),
    }
    names = ["b", "a", "unknown", "c", "other", "still"]
    found = common_features(changes, names)
    for i, one in enumerate(names):
        for j, two in enumerate(names):
            a, b = changes.get(one), changes.get(two)
            if a is None or b is None or a.shape[1] != b.shape[1] or "still" in (one, two):
                assert found[i, j] == 0
            else:
                cosine = torch.cosine_similarity((a.T @ a).flatten(), (b.T @ b).flatten(), dim=0)
                assert found[i, j] == pytest.approx(float(cosine), rel=1e-5)
    flipped = common_features(changes | {"b": -changes["b"].flip(0)}, names)
    torch.testing.assert_close(flipped, found)


@pytest.mark.parametrize("tasks", [2, 5, 12])
def test_clusters_are_those_of_average_linkage(tasks: int) -> None:
    """Against SciPy's implementation, for every number of clusters and for a threshold."""
    relation = torch.rand(tasks, tasks, dtype=torch.float64, generator=draws)
    relation = (relation + relation.T) / 2
    tree = linkage(squareform((1 - relation.clone().fill_diagonal_(1)).numpy()), "average")
    for count in range(1, tasks + 2):
        assert clusters_of(relation, count, 0.0) == in_order(fcluster(tree, count, "maxclust").tolist())
    for threshold in (0.2, 0.5, 0.6):
        expected = in_order(fcluster(tree, 1 - threshold, "distance").tolist())
        assert clusters_of(relation, None, threshold) == expected


def test_a_task_goes_where_it_agrees_most_and_no_cluster_is_left_empty() -> None:
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    relation = torch.where(groups[:, None] == groups, 0.8, 0.1)
    assert moved(relation, [0, 0, 1, 1, 1, 1, 2]) == groups.tolist()
    assert moved(relation, groups.tolist()) == groups.tolist()
    assert moved(torch.zeros(4, 4), [1, 0, 0, 1]) == [1, 0, 0, 1], "without a reason nothing moves"
    for _ in range(50):
        labels = torch.randint(3, (7,), generator=draws).tolist()
        assert set(moved(torch.rand(7, 7, generator=draws), labels)) == set(labels)


# ---- clusters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [made(), two_streams()], ids=["one stream", "two streams"])
def test_given_clusters_compute_what_their_encoders_do(data: Data, model: Callable[..., MultiTaskModel]) -> None:
    one, hard = (
        model(data, mode, *more)
        for mode, *more in (("sharing=clustered", "sharing.groups=[[yes,sort,size,pair]]"), ("sharing=hard",))
    )
    inputs = data.splits["test"].inputs
    assert same(one(inputs), hard(inputs)), "one cluster is hard sharing"
    both = model(data, "sharing=clustered", PAIRS)
    outputs, streams = both(inputs), both.sharing.streams
    for cluster, tasks in enumerate((["yes", "pair"], ["sort", "size"])):
        for task in tasks:
            features = both.sharing.encoders[cluster](streams[task], inputs[streams[task]])
            (group,) = (group for group in both.task_groups.values() if task in group.names)
            place = group.names.index(task)
            expected = features @ group.head.weight[place].T + group.head.bias[place]
            torch.testing.assert_close(outputs[task].flatten(), expected.flatten())


def test_clusters_of_one_task_are_no_sharing(model: Callable[..., MultiTaskModel]) -> None:
    alone, none = (
        model(made(), *mode) for mode in (["sharing=clustered", "sharing.groups=[[sort],[yes],[pair],[size]]"], ["sharing=none"])
    )
    inputs = made().splits["test"].inputs
    torch.testing.assert_close(alone(inputs), none(inputs))
    assert alone.sharing.shared() == [] and alone.sizes() == none.sizes()


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ("[[yes,sort],[size,pear]]", "no task pear; the tasks are yes, sort, size, pair (did you mean 'pair'?)"),
        ("[[yes,sort],[size,yes],[pair]]", "names yes twice"),
        ("[[yes,sort]]", "leaves out size, pair"),
    ],
)
def test_every_task_has_to_be_in_one_of_the_given_clusters(groups: str, said: str, model: Callable[..., MultiTaskModel]) -> None:
    with pytest.raises(UserError) as caught:
        model(made(), "sharing=clustered", f"sharing.groups={groups}")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "encoders"),
    [
        ([PAIRS], 2),
        (["sharing.clusters=3"], 3),
        (["sharing.clusters=9"], 4),
        (["sharing.clusters=null"], 4),
        (["sharing.clusters=3", "sharing.start=initial"], 4),
    ],
)
def test_parameter_counts(options: list[str], encoders: int, model: Callable[..., MultiTaskModel]) -> None:
    encoder = 7 * 7 + 8 * 5
    sizes = model(made(), "sharing=clustered", *options).sizes()
    assert sizes["shared"] == (2 if options == [PAIRS] else 1) * encoder
    assert sizes["shared"] + sizes["task encoders"] == encoders * encoder


def clustered(make_config: Config, *overrides: str, data: Data | None = None) -> Trainer:
    return trainer_on(data or made(), make_config(*SMALL, "sharing=clustered", "trainer.batch_size=16", *overrides))


@pytest.mark.parametrize("by", ["learned", "affinity"])
def test_the_warm_up_is_hard_sharing(by: str, make_config: Config) -> None:
    warming = clustered(make_config, f"sharing.by={by}", "sharing.warmup=2")
    hard = trainer_on(made(), make_config(*SMALL, "sharing=hard", "trainer.batch_size=16"))
    for _ in range(2):
        warming.epoch()
        hard.epoch()
    assert same(warming.model.sharing.encoders[0].state_dict(), hard.model.sharing.encoder.state_dict())
    assert same(warming.model.groups.state_dict(), hard.model.groups.state_dict())
    assert len(warming.shared) == len(hard.shared) == 4


def test_clusters_go_on_with_copies_and_never_touch_each_other(make_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_runner.sharing.clustered.clusters_of", lambda *_: [0, 1, 0, 2])
    monkeypatch.setattr("mtl_runner.sharing.clustered.moved", lambda _, labels: labels)
    trainer = clustered(make_config, "sharing.clusters=3", "sharing.warmup=1")
    trainer.epoch()
    sharing, inputs = trainer.model.sharing, trainer.validation.inputs
    before = trainer.model(inputs)
    sharing.before_epoch(2)
    assert same(trainer.model(inputs), before), "the same functions, by more encoders"
    assert sharing.assignment.tolist() == [0, 1, 0, 2] and sharing.metrics() == {"clusters": 3}
    assert sharing.tables()["clusters"].values.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    outputs = trainer.model(inputs)
    for place, task in enumerate(TASKS):
        gradients = torch.autograd.grad(outputs[task].sum(), list(sharing.parameters()), retain_graph=True, allow_unused=True)
        touched = {id(p) for p, gradient in zip(sharing.parameters(), gradients, strict=True) if gradient is not None}
        assert touched == {id(parameter) for parameter in sharing.encoders[[0, 1, 0, 2][place]].parameters()}
    assert list(map(id, sharing.shared())) == list(map(id, sharing.encoders[0].parameters())), "a task alone shares nothing"


def test_clusters_may_start_anew(make_config: Config) -> None:
    trainer = clustered(make_config, "sharing.start=initial", "sharing.warmup=2")
    fresh = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    sharing = trainer.model.sharing
    for _ in range(2):
        trainer.epoch()
    assert sharing.labels == [0] * 4 and not same(
        trainer.model.groups.state_dict()["0_binary.head.weight"], fresh["groups.0_binary.head.weight"]
    )
    sharing.before_epoch(3)
    assert sorted(set(sharing.labels)) == [1, 2] and sharing.encoders[0] not in {
        sharing.encoders[label] for label in sharing.labels
    }
    for name, value in trainer.model.state_dict().items():
        if name.endswith("head.weight") or name.startswith(("sharing.encoders.1", "sharing.encoders.2")):
            assert torch.equal(value, fresh[name]), name


def test_the_affinity_is_a_running_mean_of_what_was_seen(model: Callable[..., MultiTaskModel]) -> None:
    sharing = model(made(), "sharing=clustered", "sharing.by=affinity", "sharing.warmup=3").sharing
    nan = float("nan")
    first, second, third = (torch.full((4, 4), value) for value in (0.8, 0.4, 0.1))
    first[0, 1] = first[1, 0] = nan
    second[2, 3] = second[3, 2] = nan
    for epoch, value in enumerate((first, second, third, torch.ones(4, 4)), 1):
        sharing.before_epoch(epoch)
        assert sharing.affinity == ("cosine" if epoch <= 3 else "")
        sharing.after_epoch(epoch, value if sharing.affinity else None)
    assert sharing.relation[0, 2] == pytest.approx(0.8 / 4 + 0.4 / 4 + 0.1 / 2)
    assert sharing.relation[0, 1] == pytest.approx(0.4 / 2 + 0.1 / 2) and sharing.relation[2, 3] == pytest.approx(
        0.8 / 2 + 0.1 / 2
    )


@pytest.mark.parametrize(
    "options", [["sharing.by=learned"], ["sharing.by=learned", "sharing.clusters=null"], ["sharing.by=affinity"]]
)
@pytest.mark.parametrize("start", ["copy", "initial"])
def test_the_planted_clusters_are_found(options: list[str], start: str, on_planted: Callable[..., Trainer]) -> None:
    sharing = on_planted("sharing=clustered", *options, "sharing.warmup=12", f"sharing.start={start}", epochs=13).model.sharing
    assert adjusted_rand_score(PLANTED, sharing.labels) == 1
    relation, alike = sharing.relation, torch.tensor(PLANTED)[:, None] == torch.tensor(PLANTED)
    assert relation[alike & ~torch.eye(8, dtype=torch.bool)].mean() > relation[~alike].mean() + 0.1


def test_tasks_move_to_their_cluster_after_a_bad_start(
    on_planted: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = in_order([1, *PLANTED[1:]])
    monkeypatch.setattr("mtl_runner.sharing.clustered.clusters_of", lambda *_: wrong)
    trainer = on_planted("sharing=clustered", "sharing.warmup=10", epochs=11)
    assert adjusted_rand_score(PLANTED, trainer.model.sharing.labels) < 1
    trainer.epoch()
    assert adjusted_rand_score(PLANTED, trainer.model.sharing.labels) == 1


@pytest.mark.parametrize("options", [["sharing.by=learned"], ["sharing.by=affinity", "sharing.start=initial"]])
def test_a_run_that_is_resumed_across_the_split_is_the_same(options: list[str], make_config: Config) -> None:
    common = [*SMALL, "encoder.dropout=0.1", "trainer.batch_size=16", "sharing=clustered", "sharing.warmup=2", *options]
    whole, first, second = (training_on(made(), make_config(*common, f"trainer.epochs={epochs}")) for epochs in (5, 2, 5))
    list(whole.fit())
    list(first.fit())
    second.load_state_dict(first.state_dict())
    list(second.fit())
    assert same(whole.state_dict(), second.state_dict()) and len(set(second.model.sharing.labels)) == 2
    for training in (whole, second):
        training.restore_best()
    assert whole.model.sharing.labels == second.model.sharing.labels


def test_weights_bring_their_clusters_along(model: Callable[..., MultiTaskModel]) -> None:
    one, other = (model(made(), "sharing=clustered", "sharing.warmup=1") for _ in range(2))
    one.sharing._assign([1, 0, 1, 0])
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws))
    other.load_state_dict(one.state_dict())
    assert other.sharing.labels == [1, 0, 1, 0]
    inputs = made().splits["test"].inputs
    assert same(one(inputs), other(inputs))


def test_a_split_model_can_be_exported(model: Callable[..., MultiTaskModel]) -> None:
    network = model(made(), "sharing=clustered", "sharing.clusters=3")
    network.sharing._assign([2, 0, 1, 0])
    inputs = made().splits["test"].inputs
    program = export(network, {"input": {"numeric": inputs["input"]["numeric"][:2]}}).module()
    torch.testing.assert_close(program(inputs), network.eval()(inputs))


@pytest.mark.parametrize("mode", [["sharing=clustered", PAIRS], ["sharing=task_relation", "sharing.shared_stages=0.5"]])
@pytest.mark.parametrize(
    "data", [made(), made(dict.fromkeys(TASKS, TASKS["size"])), two_streams()], ids=["one stream", "one kind", "two streams"]
)
def test_each_tasks_gradient_is_autograds(mode: list[str], data: Data, make_config: Config) -> None:
    trainer = trainer_on(data, make_config(*SMALL, *mode, "weighting=mgda", "weighting.gradients=parameters"))
    batch = next(iter(trainer.loader.epoch(trainer.training_part(), 1)))
    objectives = trainer.objectives(batch)
    torch.cat(list(objectives.parts)).sum().backward()
    matrix = ParameterGradients(objectives).matrix
    outputs = trainer.model.outputs(batch.inputs, trainer.groups)
    losses = [group.losses(outputs[key], batch.targets[key], batch.weights.get(key))[0] for key, group in trainer.groups.items()]
    for row, loss in zip(matrix, torch.cat(losses), strict=True):
        expected = torch.autograd.grad(loss, trainer.shared, retain_graph=True, materialize_grads=True)
        torch.testing.assert_close(row, torch.cat([gradient.flatten() for gradient in expected]), rtol=1e-4, atol=1e-6)


# ---- the relation that steers a penalty -------------------------------------------------------------------------------


def test_the_covariance_is_the_closed_form_and_the_best_of_trace_one() -> None:
    change = random(5, 30) * torch.tensor([3.0, 1, 1, 1, 0.2])[:, None]
    change[1] = change[0] + 0.1 * change[1]
    omega, inverse = covariance(change, 1e-12)
    root = torch.from_numpy(sqrtm((change @ change.T).numpy()).real)
    torch.testing.assert_close(omega, root / root.trace())
    best = ((change.T @ inverse) * change.T).sum()
    torch.testing.assert_close(best, torch.linalg.matrix_norm(change, "nuc") ** 2)
    for _ in range(20):
        factor = random(5, 8) * 0.1 + (root if _ % 2 else 0 * root) @ random(5, 8)
        other = factor @ factor.T
        assert (change.T @ torch.linalg.inv(other / other.trace()) * change.T).sum() > best
    torch.testing.assert_close(correlation(omega)[0, 1], omega[0, 1] / (omega[0, 0] * omega[1, 1]).sqrt())


@pytest.mark.parametrize("floor", [0.05, 0.5, 1.0])
def test_the_floor_keeps_the_covariance_invertible_and_its_trace(floor: float) -> None:
    for change in (random(4, 9), torch.zeros(4, 9).double(), random(1, 9).expand(4, 9)):
        omega, inverse = covariance(change, floor)
        torch.testing.assert_close(omega @ inverse, torch.eye(4, dtype=torch.float64))
        assert omega.trace() == pytest.approx(1) and torch.linalg.eigvalsh(omega)[0] >= floor / 4 - 1e-9
    torch.testing.assert_close(covariance(torch.zeros(4, 9), floor)[0], torch.eye(4) / 4)


def shaken(model: MultiTaskModel) -> dict[str, Tensor]:
    """What is added to every parameter."""
    added = {name: 0.1 * torch.randn(value.shape, generator=draws) for name, value in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(added[name])
    return added


def test_the_penalty_is_its_formula_layer_by_layer(model: Callable[..., MultiTaskModel]) -> None:
    names = ["yes", "no", "sort", "size", "far"]
    data = made({**TASKS, "no": TASKS["yes"], "far": TASKS["size"]})
    network = model(data, "sharing=task_relation", "sharing.shared_stages=0.5", "sharing.strength=0.3", "sharing.floor=0.1")
    sharing = network.sharing
    assert sharing.penalty().item() == 0, "nothing has been added to the initial weights"
    added = shaken(network)
    sharing.before_epoch(1)
    stage = torch.cat([value.flatten(1) for name, value in added.items() if name.startswith("sharing.own")], 1)
    heads = {
        task: added[f"groups.{key}.head.weight"][place].flatten()
        for key, group in network.task_groups.items()
        for place, task in enumerate(group.names)
    }
    alike = torch.stack([heads[task] for task in ("yes", "no", "size", "far")])  # one output each, though of two kinds
    expected = torch.zeros(())
    for change in (stage, alike):
        tasks = len(change)
        root = torch.from_numpy(sqrtm((change @ change.T).double().numpy()).real)
        omega = 0.9 * root / root.trace() + 0.1 * torch.eye(tasks).double() / tasks
        expected = expected + 0.3 / tasks * (change.T.double() @ torch.linalg.inv(omega) @ change.double()).trace()
    assert sharing.penalty().item() == pytest.approx(float(expected), rel=1e-4)
    relation = sharing.tables()["relation"].values
    assert not relation.isnan().any() and set(names) < set(sharing.tasks), "all share the layer of the stage"
    sharing.penalty().backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    weights = {f"groups.{key}.head.weight" for key, group in network.task_groups.items() if group.names[0] in ("yes", "size")}
    assert reached == {name for name in added if name.startswith("sharing.own")} | weights


def test_the_gradient_of_the_penalty_is_that_of_the_squared_nuclear_norm(model: Callable[..., MultiTaskModel]) -> None:
    data = made(dict.fromkeys(("a", "b", "c"), TASKS["size"]))
    network = model(data, "sharing=task_relation", "sharing.strength=2.0", "sharing.floor=1e-6").double()
    (group,), sharing = network.task_groups.values(), network.sharing
    start = group.head.weight.detach().clone()
    shaken(network)
    sharing.before_epoch(1)
    (found,) = torch.autograd.grad(sharing.penalty(), group.head.weight)
    norm = 2.0 / 3 * torch.linalg.matrix_norm((group.head.weight - start).flatten(1), "nuc") ** 2
    torch.testing.assert_close(found, torch.autograd.grad(norm, group.head.weight)[0], rtol=1e-3, atol=1e-6)


def test_without_strength_it_is_hard_sharing(make_config: Config) -> None:
    def trained(*mode: str) -> dict[str, Any]:
        trainer = trainer_on(made(), make_config(*SMALL, *mode, "trainer.batch_size=16"))
        trainer.epoch()
        return {name: value for name, value in trainer.model.named_parameters() if isinstance(value, nn.Parameter)}

    hard, free = trained("sharing=hard"), trained("sharing=task_relation", "sharing.strength=0")
    assert same(hard, free)
    assert not same(hard, trained("sharing=task_relation", "sharing.strength=1"))


def test_the_covariance_follows_the_weights_from_epoch_to_epoch(make_config: Config) -> None:
    data = made(dict.fromkeys(("a", "b", "c"), TASKS["size"]))
    trainer = trainer_on(data, make_config(*SMALL, "sharing=task_relation"))
    sharing, kept = trainer.model.sharing, []
    for _ in range(3):
        trainer.epoch()
        kept.append(sharing.inverse_0.clone())
    assert torch.equal(kept[0], 3 * torch.eye(3)), "in the first epoch nothing is known"
    assert all(not torch.equal(one, other) for one, other in combinations(kept, 2))


@pytest.mark.parametrize("strength", [0.01, 0.1])
def test_the_relation_shows_the_planted_groups(strength: float, on_planted: Callable[..., Trainer]) -> None:
    sharing = on_planted("sharing=task_relation", f"sharing.strength={strength}", epochs=12).model.sharing
    relation = sharing.tables()["relation"].values
    assert adjusted_rand_score(PLANTED, clusters_of(relation, 2, 0.0)) == 1
    alike = torch.tensor(PLANTED)[:, None] == torch.tensor(PLANTED)
    assert relation[alike].min() > 0.2 and relation[~alike].abs().max() < 0.35
    torch.testing.assert_close(relation, relation.T)


def test_tasks_whose_heads_differ_have_no_relation(model: Callable[..., MultiTaskModel]) -> None:
    """sort and pair have heads of their own shapes; yes and size have one output each."""
    values = model(made(), "sharing=task_relation").sharing.tables()["relation"].values
    known = {(a, b) for i, a in enumerate(TASKS) for j, b in enumerate(TASKS) if i != j and not values[i, j].isnan()}
    assert known == {("yes", "size"), ("size", "yes")}
