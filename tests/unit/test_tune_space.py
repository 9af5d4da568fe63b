"""What a search draws from: checked before anything runs, drawn where its conditions hold, written as the command line has it."""

import inspect
from typing import Any

import optuna
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mtl_runner.config import config_dir, plug
from mtl_runner.config.classes import locate
from mtl_runner.config.plugs import SEARCH, TRUSTED, group_problems, parameters
from mtl_runner.errors import UserError
from mtl_runner.tuning.best import difference, primary, removed
from mtl_runner.tuning.domains import text
from mtl_runner.tuning.space import Space
from mtl_runner.tuning.study import sampler

CONDITIONAL = {
    "sharing": {"choices": ["hard", "soft", "mmoe"]},
    "sharing.strength": {"low": 1e-4, "high": 0.1, "log": True, "when": {"sharing": "soft"}},
    "sharing.experts": {"low": 2, "high": 8, "step": 2, "when": {"sharing": ["mmoe"]}},
    "optimizer.lr": {"low": 0.0, "high": 1.0, "step": 0.25},
    "encoder.hidden": {"choices": [[32], [64, 32]]},
}


@pytest.mark.parametrize("option", sorted(path.stem for path in (config_dir() / "search").glob("*.yaml")))
def test_a_search_option_has_the_keys_and_values_of_its_class(option: str) -> None:
    node = OmegaConf.to_container(OmegaConf.load(config_dir() / "search" / f"{option}.yaml"))
    assert isinstance(node, dict)
    cls = locate(node["_target_"], TRUSTED)
    assert {*node} - {"_target_"} == {*parameters(cls, SEARCH)}
    for name, parameter in parameters(cls, SEARCH).items():
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        assert node[name] == ("???" if default is inspect.Parameter.empty else default)
    node["space"] = {"seed": {"low": 0, "high": 9}}
    assert group_problems(node, SEARCH) == []
    assert isinstance(sampler(plug(node, SEARCH)())._make(0), optuna.samplers.BaseSampler)


def test_values_are_drawn_where_their_conditions_hold_and_nowhere_else() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = Space(CONDITIONAL)
    seen = []
    for _ in range(60):
        trial = study.ask()
        drawn = space.draw(trial)
        assert space.drawn(trial.params) == drawn
        assert ("sharing.strength" in drawn) == (drawn["sharing"] == "soft")
        assert ("sharing.experts" in drawn) == (drawn["sharing"] == "mmoe")
        seen.append(drawn)
    assert {each["sharing"] for each in seen} == {"hard", "soft", "mmoe"}
    assert {each["sharing.experts"] for each in seen if "sharing.experts" in each} == {"2", "4", "6", "8"}
    assert {float(each["optimizer.lr"]) for each in seen} == {0.0, 0.25, 0.5, 0.75, 1.0}
    strengths = [float(each["sharing.strength"]) for each in seen if "sharing.strength" in each]
    assert 1e-4 <= min(strengths) < 1e-3 < 1e-2 < max(strengths) <= 0.1


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        1e-05,
        -2.5e30,
        "soft",
        "a/b.c",
        "null",
        "3",
        "a, b",
        "it's",
        r"a\b\ ",
        "",
        [64, 32],
        ["a", [None, 1.5]],
    ],
)
def test_a_choice_reaches_the_configuration_as_it_is(value: Any) -> None:
    """As Hydra itself reads it."""
    assert OverridesParser.create().parse_override(f"key={text(value)}").value() == value


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({}, "search.space={}: is empty"),
        ({"optimizer.lr": 0.1}, "search.space.optimizer.lr=0.1: {low: …, high: …} or {choices: […]} is expected"),
        ({"optimizer": {"lr": {"low": 0, "high": 1}}}, "in one piece: optimizer.lr"),
        ({"seed": {"choice": [1]}}, "did you mean 'choices'?"),
        (
            {"seed": {"low": 1, "hihg": 2}},
            "search.space.seed.hihg: no such key; there are low, high, log, step, when (did you mean 'high'?)",
        ),
        ({"seed": {"low": 1}}, "search.space.seed.high: is missing"),
        ({"seed": {"low": "1", "high": 2}}, 'search.space.seed.low="1": must be'),
        ({"seed": {"low": 2, "high": 2}}, "search.space.seed: low=2 is not below high=2"),
        ({"seed": {"low": 0, "high": 2, "log": True}}, "low=0: with log: true it has to be above 0"),
        ({"seed": {"low": 0, "high": 1, "step": 0.3}}, "step=0.3: does not lead from low=0 to high=1"),
        ({"seed": {"low": 0, "high": 1, "step": -1}}, "search.space.seed.step=-1: must be greater than 0"),
        ({"seed": {"choices": []}}, "search.space.seed.choices=[]"),
        ({"seed": {"choices": [1, 1]}}, "choices: 1 is there twice"),
        ({"seed": {"low": 0, "high": 1, "when": {"sharing": "soft"}}}, "no key above it has choices"),
        (
            {"sharing": {"choices": ["hard", "soft"]}, "seed": {"low": 0, "high": 1, "when": {"sharin": "soft"}}},
            "search.space.seed.when.sharin: a key above it with choices is expected: sharing (did you mean 'sharing'?)",
        ),
        (
            {"sharing": {"choices": ["hard", "soft"]}, "seed": {"low": 0, "high": 1, "when": {"sharing": "sotf"}}},
            "search.space.seed.when.sharing=sotf: choose from hard, soft (did you mean 'soft'?)",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(node: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        Space(node)
    assert said in str(error.value)


def test_a_key_is_looked_for_under_every_option_that_it_may_be_drawn_with() -> None:
    space = Space(
        {
            "sharing": {"choices": ["soft", "mmoe"]},
            "seed": {"choices": [1, 2], "when": {"sharing": "soft"}},
            "sharing.norm": {"choices": ["l1"]},
            "trainer.l1": {"low": 0.0, "high": 1.0, "when": {"seed": [1, 2]}},
        }
    )
    contexts = [list(space.contexts(each)) for each in space.dimensions]
    assert contexts[:3] == [[{}], [{"sharing": "soft"}], [{"sharing": "soft"}, {"sharing": "mmoe"}]]
    assert contexts[3] == [{"seed": "1", "sharing": "soft"}, {"seed": "2", "sharing": "soft"}]


def test_a_configuration_is_what_differs_from_its_options() -> None:
    defaults = {"sharing": {"norm": "l2", "strength": 0.1}, "dataset": {"tasks": {"a": 1, "b": 2}}, "seed": 0}
    values = {"sharing": {"norm": "l2", "strength": 0.3}, "dataset": {"tasks": {"a": 1}}, "seed": 0, "name": "${x}"}
    changed = difference(values, defaults)
    assert changed == {"sharing": {"strength": 0.3}, "name": "${x}"}
    assert removed(values, defaults) == ["dataset.tasks.b"]
    merged = OmegaConf.to_container(OmegaConf.merge(defaults, changed))
    assert merged == values | {"dataset": defaults["dataset"]}
    written = yaml.safe_load(primary(["one"], {"sharing": "soft", "imbalance": "smote,focal"}, values, defaults, ["file:///a b"]))
    assert written["defaults"] == ["config", "_self_", {"override sharing": "soft"}, {"override imbalance": ["smote", "focal"]}]
    assert written["hydra"] == {"searchpath": ["file:///a b"]}
