"""The configurations of tests: thousands, and for each one Hydra takes a tenth of a second."""

import copy
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mtl_runner.config import GROUPS, config_dir


def composed(*overrides: str) -> DictConfig:
    """What Hydra composes: each chosen option as in a composition of its own, then the values on top.

    An option does not depend on the others that are chosen; tests/test_configs.py compares.
    """
    return copy.deepcopy(_composed(overrides))


@cache
def by_hydra(*overrides: str) -> DictConfig:
    """Composed by Hydra, all at once."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", list(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    if any(each.startswith("hydra.") for each in overrides):  # a folder of one's own options, say
        return by_hydra(*overrides)
    config = copy.deepcopy(by_hydra())
    options = [each for each in overrides if _group(each) in (*GROUPS, "trainer")]
    try:
        with open_dict(config):
            for option in options:
                config[_group(option)] = copy.deepcopy(by_hydra(option)[_group(option)])
        for value in (each for each in overrides if each not in options):
            OmegaConf.update(config, *_parsed(value))
    except OmegaConfBaseException:  # or a key with "+" or "~", which is in no configuration
        return by_hydra(*overrides)
    return config


def _group(override: str) -> str:
    return override.partition("=")[0]


@cache
def _parsed(override: str) -> tuple[str, Any]:
    parsed = OverridesParser.create().parse_override(override)
    return _group(override), parsed.value()
