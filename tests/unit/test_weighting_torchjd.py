"""``weighting=torchjd``: TorchJD's own objects see what they should, and what they return is what moves the parameters."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import copies, made, same, trainer_on
from omegaconf import DictConfig
from torch import Tensor
from torchjd import aggregation, scalarization

from mtl_runner.errors import UserError
from mtl_runner.weighting.torchjd import OF_LOSSES, TorchJD

MakeConfig = Callable[..., DictConfig]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "CAGrad": {"c": 0.4},
    "Constant": {"weights": [0.5, 1.0, 2.0, 0.1]},
    "FairGrad": {"alpha": 1.0},
    "Krum": {"n_byzantine": 1},
    "NashMTL": {"n_tasks": 4},
    "TrimmedMean": {"trim_number": 1},
}
ARGUMENTS |= {f"{name}Weighting": arguments for name, arguments in ARGUMENTS.items() if name not in ("NashMTL", "TrimmedMean")}
NOT_OURS = {
    "Aggregator",
    "Weighting",
    "GramianWeightedAggregator",
    "WeightedAggregator",
    "CRMOGMWeighting",
    "MoDoWeighting",
    "SDMGradWeighting",
}
NAMES = sorted(set(aggregation.__all__) - NOT_OURS)
RANDOM = {"GradDrop", "GradVac", "GradVacWeighting", "PCGrad", "PCGradWeighting", "Random", "RandomWeighting"}
UNITLESS = {"NashMTL", "FairGrad", "FairGradWeighting"}
"""Their weights depend on the unit of the gradients."""
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP"),
    pytest.mark.filterwarnings("ignore:.*ECOS:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Solution may be inaccurate"),
]
each_name = pytest.mark.parametrize("name", NAMES)


def make(name: str, tasks: int = 4, **options: Any) -> TorchJD:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TorchJD([f"task_{t}" for t in range(tasks)], name=name, arguments=ARGUMENTS.get(name), **options)


def theirs(name: str) -> Any:
    arguments = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in ARGUMENTS.get(name, {}).items()}
    return getattr(aggregation, name)(**arguments)


def steps(tasks: int = 4, count: int = 20) -> list[Tensor]:
    draws = torch.Generator().manual_seed(1)
    return [torch.randn(tasks, 15, generator=draws) + 0.3 for _ in range(count)]


def ones(tasks: int = 4) -> tuple[Tensor, Tensor]:
    return torch.ones(tasks, dtype=torch.float64), torch.ones(tasks, dtype=torch.bool)


@each_name
def test_the_update_is_theirs(name: str) -> None:
    """Over 20 steps, state and draws included."""
    method, reference = make(name), theirs(name)
    draws = torch.Generator().manual_seed(method.draws_of_method._seed)
    for jacobian in steps(count=5 if name == "NashMTL" else 20):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=draws)))
            if not isinstance(reference, aggregation.Weighting):
                expected = reference(jacobian)
            else:
                gramian = "Gramian" in "".join(base.__name__ for base in type(reference).__mro__)
                expected = reference(jacobian @ jacobian.T if gramian else jacobian) @ jacobian
        update, weights = method.aggregate(jacobian, *ones())
        torch.testing.assert_close(update, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        if method._weighs:
            torch.testing.assert_close(weights.float() @ jacobian, update, rtol=1e-3, atol=1e-4)


@each_name
def test_the_global_generator_is_left_alone(name: str) -> None:
    method = make(name)
    before = torch.get_rng_state()
    method.aggregate(steps()[0], *ones())
    assert torch.equal(torch.get_rng_state(), before)


@each_name
def test_identical_tasks_move_as_equal_does(name: str) -> None:
    """On the comparable scale: weights of 1 on average, and the sum over T; on the paper's theirs, untouched."""
    method = make(name)
    jacobian = steps()[0][:1].expand(4, -1)
    update, weights = method.aggregate(jacobian, *ones())
    active = ones()[1]
    assert method.shown(weights, active).sum().item() == pytest.approx(4, rel=1e-2)
    torch.testing.assert_close(update * method.factor(weights, active), jacobian[0], rtol=1e-2, atol=1e-4)
    paper = make(name, scale="paper")
    assert paper.factor(weights, active) == 1.0 and torch.equal(paper.shown(weights, active), weights)


@each_name
def test_what_is_divided_by_depends_on_the_step_only_where_it_must(name: str) -> None:
    assert (make(name)._units[4] is None) == (name in UNITLESS)


def test_the_default_is_on_the_scale_of_its_weights() -> None:
    """UPGrad's weights are 1/n where nothing conflicts, and more where something does: its own scale is kept."""
    method, jacobian = make("UPGrad", 3), torch.eye(3, 5)
    _, weights = method.aggregate(jacobian, *ones(3))
    torch.testing.assert_close(method.shown(weights, ones(3)[1]).float(), torch.ones(3), rtol=1e-3, atol=0)
    jacobian[1, :2] = torch.tensor([-1.0, 0.5])
    _, weights = method.aggregate(jacobian, *ones(3))
    assert method.shown(weights, ones(3)[1]).sum() > 3.1


@pytest.mark.parametrize("name", ["UPGrad", "MGDA", "TrimmedMean", "ConFIG", "GradDrop", "Mean", "FairGrad"])
def test_tasks_without_labels_are_not_there(name: str) -> None:
    active = torch.tensor([True, False, True, True, True])
    jacobian = steps(5)[0].masked_fill(~active[:, None], 0)
    method, without = make(name, 5), make(name, 4)
    update, weights = method.aggregate(jacobian, torch.ones(5, dtype=torch.float64), active)
    expected, others = without.aggregate(jacobian[active], *ones())
    torch.testing.assert_close(update, expected)
    torch.testing.assert_close(weights[active], others)
    torch.testing.assert_close(method.shown(weights, active)[active], without.shown(others, ones()[1]))
    assert weights[1] == 0
    update, weights = make(name, 5).aggregate(torch.zeros(5, 15), torch.ones(5, dtype=torch.float64), ~ones(5)[1])
    assert not update.any() and not weights.any()


@pytest.mark.parametrize("name", ["ExcessMTL", "PCD", "PCDWeighting", "GradVac", "GradDrop", "Random", "UPGrad"])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_state_makes_the_round_trip_through_a_file(name: str, at: int, tmp_path: Path) -> None:
    one, other = make(name), make(name)
    for jacobian in steps()[:at]:
        one.aggregate(jacobian, *ones())
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    fresh = make(name)
    differs = False
    for jacobian in steps()[at:]:
        update, expected = other.aggregate(jacobian, *ones())[0], one.aggregate(jacobian, *ones())[0]
        assert torch.equal(update, expected)
        differs |= not torch.equal(fresh.aggregate(jacobian, *ones())[0], expected)
    assert differs == (at > 0 and name != "UPGrad"), "there was something to be remembered"


def test_what_is_stateful_is_in_the_checkpoint() -> None:
    """All but NashMTL, as the documentation says; a new one of another kind would be seen here."""
    from torchjd import Stateful

    for name in NAMES:
        method = make(name)
        stateful = any(isinstance(module, Stateful) for module in method.method.modules())
        assert bool(method.get_extra_state()) == (stateful and name != "NashMTL"), name


@pytest.mark.parametrize("name", ["UPGrad", "Krum", "TrimmedMean", "ExcessMTL", "GradDrop", "PCD"])
def test_a_trainer_steps_and_goes_on_from_a_file(name: str, make_config: MakeConfig, tmp_path: Path) -> None:
    given = "".join(f"{key}: {value}" for key, value in ARGUMENTS.get(name, {}).items())
    config = make_config(
        "weighting=torchjd", f"weighting.name={name}", f"weighting.arguments={{{given}}}", "trainer.batch_size=16"
    )
    one, other = trainer_on(made(), config), trainer_on(made(), config)
    one.epoch()
    assert one.progress.skipped == 0
    torch.save({"model": one.model.state_dict(), "trainer": one.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other.model.load_state_dict(state["model"])
    other.load_state_dict(state["trainer"])
    assert one.epoch() == other.epoch()
    assert same(one.model.state_dict(), other.model.state_dict()) and same(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("gradients", ["parameters", "features"])
def test_heads_weighted_take_the_weights(gradients: str, make_config: MakeConfig) -> None:
    config = make_config(
        "weighting=torchjd", "weighting.name=MGDA", "weighting.heads=weighted", f"weighting.gradients={gradients}"
    )
    trainer = trainer_on(copies(3), config)
    batch = next(trainer.loader.epoch(trainer.training_part(), 1))
    (group,) = trainer.groups.values()
    losses, _ = group.losses(next(iter(trainer.model.outputs(batch.inputs).values())), next(iter(batch.targets.values())))
    (own,) = torch.autograd.grad(losses.sum(), [group.head.weight])
    shown = trainer.weighting.backward(trainer.objectives(batch))
    torch.testing.assert_close(group.head.weight.grad, shown.float()[:, None, None] / 3 * own, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("UPgrad", {}, ["weighting.name=UPgrad", "did you mean 'UPGrad'?", "TrimmedMean"]),
        ("nn", {}, ["no such method"]),
        ("Weighting", {}, ["no such method"]),
        ("WeightedAggregator", {}, ["no such method"]),
        ("MoDoWeighting", {}, ["weighting=modo"]),
        ("SDMGradWeighting", {}, ["weighting=sdmgrad"]),
        ("Krum", {}, ["weighting.arguments.n_byzantine: is missing"]),
        ("Krum", {"n_byzantin": 1}, ["weighting.arguments.n_byzantin:", "did you mean 'n_byzantine'?"]),
        ("Krum", {"n_byzantine": -1}, ["weighting.arguments={'n_byzantine': -1}", "non-negative"]),
        ("Krum", {"n_byzantine": "x"}, ["weighting.arguments={'n_byzantine': 'x'}"]),
        ("Krum", {"n_byzantine": 5}, ["weighting.name=Krum, with 4 tasks", "at least 8 rows"]),
        ("Mean", {"weights": 1}, ["weighting.arguments.weights: Mean has no such argument; it has none"]),
        ("UPGrad", {"projector": "quadprog"}, ["weighting.arguments", "UPGrad"]),
        ("Constant", {"weights": [1.0, 2.0]}, ["weighting.name=Constant, with 4 tasks", "should have 2 rows"]),
    ],
)
def test_what_can_not_be_made_is_said_in_a_line(name: str, arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        TorchJD([*"abcd"], name=name, arguments=arguments)
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message


@pytest.mark.parametrize("name", ["TrimmedMean", "ConFIG", "GradDrop"])
def test_aggregators_without_weights_give_none_to_heads(name: str) -> None:
    with pytest.raises(UserError, match=r"weighting\.heads=weighted"):
        make(name, heads="weighted")


def test_a_step_that_its_method_refuses_is_said_in_a_line() -> None:
    method = make("Krum")
    with pytest.raises(UserError, match="with 3 tasks that have labels"):
        method.aggregate(steps()[0], torch.ones(4, dtype=torch.float64), torch.tensor([True, True, True, False]))


def test_it_says_how_to_install_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is missing, or cannot be imported as something that it needs is."""
    monkeypatch.setitem(sys.modules, "torchjd", None)
    monkeypatch.delitem(sys.modules, "torchjd.aggregation")
    with pytest.raises(UserError, match=r"torchjd.*pip install 'mtl-runner\[torchjd\]'"):
        TorchJD([*"ab"])


@pytest.mark.parametrize("name", OF_LOSSES)
def test_a_scalarizer_is_answered_with_the_option_that_it_is_here(name: str, make_config: MakeConfig) -> None:
    assert name in scalarization.__all__ and name not in aggregation.__all__
    make_config(f"weighting={OF_LOSSES[name]}")
    with pytest.raises(UserError, match=f"take weighting={OF_LOSSES[name]}$"):
        TorchJD([*"ab"], name=name)


def test_it_is_imported_only_when_it_is_used() -> None:
    code = "import sys, mtl_runner.cli, mtl_runner.build, mtl_runner.weighting.torchjd; assert 'torchjd' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_name_has_a_constructor_of_plain_values() -> None:
    """Classes that want an object for an argument are left out; all others are offered."""
    for name in NAMES:
        assert "Weighting" not in str(inspect.signature(getattr(aggregation, name)))
        make(name)
