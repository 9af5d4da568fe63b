"""The configuration: where it lies, its schema, and the checks that it passes before anything runs."""

from mtl_runner.config.paths import config_dir
from mtl_runner.config.plugs import GROUPS, plug
from mtl_runner.config.schema import WITHOUT_EFFECT, Config, InitFrom, TrainerConfig, check, problems

__all__ = ["GROUPS", "WITHOUT_EFFECT", "Config", "InitFrom", "TrainerConfig", "check", "config_dir", "plug", "problems"]
