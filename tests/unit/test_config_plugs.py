"""Plug-in nodes: which classes they may name and which keys they may have."""

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from mtl_runner.config import plug
from mtl_runner.config.classes import locate
from mtl_runner.config.plugs import group_problems, parameters
from mtl_runner.encoders.mlp import MLP
from mtl_runner.errors import UserError
from mtl_runner.sharing.hard import Hard
from mtl_runner.sharing.soft import Soft
from mtl_runner.weighting.pcgrad import PCGrad

HARD = {"_target_": "mtl_runner.sharing.hard.Hard", "shared_stages": 1.0}
ADAM = {"_target_": "torch.optim.Adam", "lr": 1e-3, "betas": [0.9, 0.999]}


def test_a_node_becomes_its_class_with_checked_keywords() -> None:
    part = plug(HARD, "sharing")
    assert part.func is Hard and part.keywords == {"shared_stages": 1.0} and not part.args


def test_values_take_the_types_of_the_annotations() -> None:
    part = plug(ADAM, "optimizer")
    optimizer = part([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["betas"] == (0.9, 0.999)


def test_what_the_program_passes_is_no_key() -> None:
    assert "streams" not in parameters(MLP, "encoder") and "hidden" in parameters(MLP, "encoder")
    assert "params" not in parameters(torch.optim.SGD, "optimizer") and "momentum" in parameters(torch.optim.SGD, "optimizer")
    assert set(parameters(Soft, "sharing")) == {"strength", "norm", "to"}


PCGRAD = {"_target_": "mtl_runner.weighting.pcgrad.PCGrad"}


def test_options_that_a_constructor_hands_on_are_keys_with_the_bases_types_and_defaults() -> None:
    known = parameters(PCGrad, "weighting")
    assert {name: known[name].default for name in known} == {
        "every": 1, "gradients": "parameters", "normalize": "none", "heads": "own", "scale": "comparable",
    }  # fmt: skip
    assert group_problems({**PCGRAD, "every": 3, "normalize": "loss+"}, "weighting") == []
    assert plug({**PCGRAD, "every": 3}, "weighting")(["a", "b"]).every == 3
    for wrong, words in (
        ({"every": 0}, "weighting.every=0"),
        ({"normalize": "l3"}, "weighting.normalize=l3"),
        ({"evry": 1}, "did you mean 'every'"),
        ({"options": {}}, "weighting.options: PCGrad has no such key"),
    ):
        (line,) = group_problems({**PCGRAD, **wrong}, "weighting")
        assert words in line


def test_an_overridden_key_has_the_defaults_of_the_subclass() -> None:
    class Once(PCGrad):
        def __init__(self, tasks: list[str], *, every: Literal[1, 2] = 2, **options: Any) -> None:
            super().__init__(tasks, every=every, **options)

    known = parameters(Once, "weighting")
    assert known["every"].default == 2 and list(known).count("every") == 1 and "scale" in known


@pytest.mark.parametrize(
    ("node", "group", "parts"),
    [
        ({**HARD, "_target_": "mtl_runner.sharing.hard.Hart"}, "sharing", ["Hart", "did you mean 'Hard'?"]),
        ({**HARD, "_target_": "mtl_runner.sharing.hart.Hard"}, "sharing", ["there is no module mtl_runner.sharing.hart"]),
        ({**HARD, "_target_": "mtl_runner.sharing.base.Sharing"}, "sharing", ["no sharing"]),
        ({**HARD, "_target_": "Hard"}, "sharing", ["mtl_runner, torch.optim"]),
        ({**HARD, "_target_": ".Hard"}, "sharing", ["mtl_runner, torch.optim"]),
        ({**HARD, "_target_": "mtl_runner.errors.nearest"}, "sharing", ["no class"]),
        ({**HARD, "_target_": "mtl_runner.sharing.hard.nn.Linear"}, "sharing", ["there is no module"]),
        ({**HARD, "_target_": "mtl_runner.config.schema.DictConfig"}, "sharing", ["no class of"]),
        ({**HARD, "_target_": "mtl_runner_evil.Hard"}, "sharing", ["mtl_runner, torch.optim"]),
        ({**HARD, "_target_": "torch.optim.Adam"}, "sharing", ["no sharing", "mtl_runner.sharing.base.Sharing"]),
        ({**HARD, "_target_": 3}, "sharing", ["_target_=3"]),
        ({"shared_stages": 1.0}, "sharing", ["no _target_"]),
        ("hard", "sharing", ["sharing=hard", "_target_"]),
        (None, "sharing", ["sharing"]),
        ({}, "sharing", ["sharing"]),
        ({**HARD, "shared_stage": 1}, "sharing", ["sharing.shared_stage", "did you mean 'shared_stages'?"]),
        ({**HARD, "encoder": 1}, "sharing", ["sharing.encoder", "no such key"]),
        ({**HARD, "_partial_": True}, "sharing", ["sharing._partial_", "no such key"]),
        ({**HARD, "shared_stages": "all"}, "sharing", ["sharing.shared_stages=all"]),
        ({**HARD, "shared_stages": {"_target_": "os.system"}}, "sharing", ["sharing.shared_stages._target_"]),
        ({**HARD, "shared_stages": [{"a": [{"_target_": "x"}]}]}, "sharing", ["sharing.shared_stages.0.a.0._target_"]),
        ({**ADAM, "params": []}, "optimizer", ["optimizer.params", "no such key"]),
        ({**ADAM, "lr": "fast"}, "optimizer", ["optimizer.lr=fast", "number"]),
        ({**ADAM, "betas": [0.9]}, "optimizer", ["optimizer.betas"]),
        ({"_target_": "torch.optim.lr_scheduler.StepLR"}, "scheduler", ["scheduler.step_size: is missing"]),
        (
            {"focal": {"_target_": "mtl_runner.imbalance.focal.Focal", "gama": 1}},
            "imbalance",
            ["imbalance.focal.gama", "'gamma'"],
        ),
        ([HARD], "sharing", ["sharing"]),
    ],
)
def test_what_is_wrong_is_one_line(node: object, group: str, parts: list[str]) -> None:
    (line,) = group_problems(node, group)
    for part in parts:
        assert part in line


def test_everything_wrong_is_said_at_once() -> None:
    node = {**ADAM, "lr": "fast", "weight_decay": "much", "momentum": 0.9}
    assert len(group_problems(node, "optimizer")) == 3
    with pytest.raises(UserError, match=r"(?s)lr.*weight_decay.*momentum"):
        plug(node, "optimizer")


@pytest.mark.parametrize("group", ["scheduler", "imbalance"])
@pytest.mark.parametrize("node", [None, {}])
def test_what_may_be_empty(group: str, node: object) -> None:
    assert group_problems(node, group) == []


def test_ones_own_module_needs_ones_own_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_sharing.py").write_text("from mtl_runner.sharing.hard import Hard\nclass Mine(Hard):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {**HARD, "_target_": "my_sharing.Mine"}
    with pytest.raises(UserError, match=r"allow_modules=\[my_sharing\]"):
        plug(node, "sharing")
    assert "my_sharing" not in sys.modules
    assert plug(node, "sharing", ["my_sharing"]).func.__name__ == "Mine"
    del sys.modules["my_sharing"]


def test_a_module_that_is_broken_is_no_mistake_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_broken.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        locate("my_broken.X", ["my_broken"])
