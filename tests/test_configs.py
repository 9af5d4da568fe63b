"""Every file in ``conf/``: its keys are its class's parameters, its values have their types, and it says what it is."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from composing import by_hydra
from omegaconf import OmegaConf

from mtl_runner.config import GROUPS, Config, TrainerConfig, config_dir, plug, problems
from mtl_runner.config.classes import locate
from mtl_runner.config.plugs import SEARCH, TRUSTED, parameters

FILES = sorted(path.relative_to(config_dir()) for path in config_dir().glob("*/*.yaml"))
OPTIONS = [(str(path.parent), path.stem) for path in FILES if path.parent.name != SEARCH]


@functools.cache
def _composed(*overrides: str) -> dict[str, Any]:
    """The whole configuration; what a file leaves to the user (``???``) stays so."""
    values = OmegaConf.to_container(by_hydra(*overrides), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _nodes(group: str, option: str) -> list[dict[str, Any]]:
    """The plug-in nodes of an option: one, or none where it stands for nothing."""
    node = _composed(f"{group}={option}")[group]
    nodes = node.values() if GROUPS[group].several else [node]
    return [each for each in nodes if each]


def test_the_groups_of_the_program_are_those_of_the_folder() -> None:
    folders = {path.name for path in config_dir().iterdir() if path.is_dir()} - {"hydra", SEARCH}
    assert folders == {*GROUPS, "trainer"}
    listed = {
        group
        for each in yaml.safe_load((config_dir() / "config.yaml").read_text())["defaults"]
        if each != "_self_"
        for group in each
    }
    assert folders == {group for group in listed if not group.startswith("override ")}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_an_option_says_in_its_first_line_what_it_is(path: Path) -> None:
    lines = (config_dir() / path).read_text(encoding="utf-8").splitlines()
    if path.parent.name in GROUPS and GROUPS[path.parent.name].several:
        package = path.parent.name if not yaml.safe_load("\n".join(lines)) else f"{path.parent.name}.{path.stem}"
        assert lines.pop(0) == f"# @package {package}", "without it two options of this group would merge into one"
    assert lines[0].startswith("# ") and 10 < len(lines[0]) <= 130


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_is_valid(group: str, option: str) -> None:
    """On top of the defaults; a key that only the user can know may be missing."""
    assert [line for line in problems(_composed(f"{group}={option}")) if "is missing" not in line] == []


@pytest.mark.parametrize(("group", "option"), [each for each in OPTIONS if each[0] in GROUPS])
def test_an_option_has_every_key_of_its_class(group: str, option: str) -> None:
    """So that --cfg shows, and the command line completes, all there is to set. torch's classes have keys of no interest."""
    for node in _nodes(group, option):
        cls = locate(node["_target_"], TRUSTED)
        if not cls.__module__.startswith("torch."):
            assert {*node} - {"_target_"} == {*parameters(cls, group)}


@pytest.mark.parametrize(("group", "option"), [each for each in OPTIONS if each[0] in GROUPS])
def test_an_options_values_are_its_classs_defaults(group: str, option: str) -> None:
    """A preset may differ; an option whose file has the name of its class's module may not, as nothing would say which holds."""
    for node in _nodes(group, option):
        cls = locate(node["_target_"], TRUSTED)
        if cls.__module__.rpartition(".")[2] != option or cls.__module__.startswith("torch."):
            continue
        for name, parameter in parameters(cls, group).items():
            value = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            assert node[name] == value or value in (None, parameter.empty), name


@pytest.mark.parametrize(("group", "option"), [each for each in OPTIONS if each[0] in GROUPS])
def test_an_option_can_be_instantiated(group: str, option: str) -> None:
    for node in _nodes(group, option):
        if "???" not in node.values():
            part = plug(node, group)
            assert isinstance(part.func, type) and set(part.keywords) == {*node} - {"_target_"}


def test_the_trainers_file_has_the_keys_and_values_of_its_schema() -> None:
    assert _composed()["trainer"] == dataclasses.asdict(TrainerConfig())


def test_the_primary_file_has_the_keys_of_its_schema() -> None:
    assert set(_composed()) == {each.name for each in dataclasses.fields(Config)}


def test_two_strategies_compose() -> None:
    assert list(_composed("imbalance=[oversample,focal]")["imbalance"]) == ["oversample", "focal"]
