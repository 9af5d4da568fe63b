"""A stranger's configuration is data: nothing in it makes the program import or call anything but trusted classes.

Each attack is a file in a folder given with ``--config-dir``. The stranger's module notes that it was imported or called.
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from omegaconf import OmegaConf
from standins import Command, Jobs

from mtl_runner.commands.safety import check_hydra_node
from mtl_runner.config import config_dir

MODULE = """
from pathlib import Path
import logging
from hydra.experimental.callback import Callback
from mtl_runner.sharing.hard import Hard
from mtl_runner.tracking.base import Tracker

Path("imported").touch()

def call(*args, **kwargs):
    Path("called").touch()

class Watcher(Callback):
    def __init__(self):
        call()

class Handler(logging.StreamHandler):
    def __init__(self, *args, **kwargs):
        super().__init__()
        call()

class Half(Hard):
    pass

class Teller(Tracker):
    def __init__(self, *, uri=None):
        call()

    start = log_metrics = finish = prepare = call
"""

OUTPUT = "${hydra.runtime.output_dir}"
LOGGING: dict[str, Any] = {"version": 1, "root": {"handlers": ["x"]}, "disable_existing_loggers": False}
FILE = {"class": "logging.FileHandler"}
ATTACKS: dict[str, dict[str, Any]] = {
    "a callback": {"hydra": {"callbacks": {"x": {"_target_": "stranger.Watcher"}}}},
    "a function as callback": {"hydra": {"callbacks": {"x": {"_target_": "stranger.call"}}}},
    "a callback given by interpolation": {"y": {"x": {"_target_": "stranger.Watcher"}}, "hydra": {"callbacks": "${y}"}},
    "the name of a callback by interpolation": {"y": "stranger.Watcher", "hydra": {"callbacks": {"x": {"_target_": "${y}"}}}},
    "a callback inside a trusted one": {
        "hydra": {
            "callbacks": {
                "x": {"_target_": "hydra.experimental.callbacks.LogJobReturnCallback", "y": {"_target_": "stranger.call"}}
            }
        }
    },
    "a way through Hydra's own imports": {
        "hydra": {"callbacks": {"x": {"_target_": "hydra.core.utils.os.mkdir", "_args_": ["called"]}}},
    },
    "a function of Hydra's": {"hydra": {"callbacks": {"x": {"_target_": "hydra._internal.utils._locate", "path": "stranger"}}}},
    "a launcher": {"hydra": {"launcher": {"_target_": "stranger.call"}}},
    "a sweeper": {"hydra": {"sweeper": {"_target_": "stranger.call"}}},
    "a factory in logging": {"hydra": {"job_logging": LOGGING | {"handlers": {"x": {"()": "stranger.Handler"}}}}},
    "a handler in logging": {"hydra": {"job_logging": LOGGING | {"handlers": {"x": {"class": "stranger.Handler"}}}}},
    "a handler in Hydra's logging": {"hydra": {"hydra_logging": LOGGING | {"handlers": {"x": {"class": "stranger.Handler"}}}}},
    "a formatter in logging": {
        "hydra": {"hydra_logging": LOGGING | {"formatters": {"y": {"()": "stranger.call"}}, "handlers": {}, "root": {}}},
    },
    "an external object in logging": {
        "hydra": {
            "hydra_logging": LOGGING | {"handlers": {"x": {"class": "logging.StreamHandler", "stream": "ext://stranger.call"}}}
        }
    },
    "a way through logging's own imports": {
        "hydra": {"hydra_logging": LOGGING | {"handlers": {"x": {"class": "logging.os.mkdir", "path": "called"}}}},
    },
    "a file of a stranger's choice": {"hydra": {"job_logging": LOGGING | {"handlers": {"x": FILE | {"filename": "called"}}}}},
    "a file above the run folder": {
        "hydra": {"job_logging": LOGGING | {"handlers": {"x": FILE | {"filename": f"{OUTPUT}/../called.log"}}}},
    },
    "a file in a folder of a stranger's choice": {
        "hydra": {"run": {"dir": "."}, "job_logging": LOGGING | {"handlers": {"x": FILE | {"filename": f"{OUTPUT}/called"}}}},
    },
    "a file named after the job": {
        "hydra": {
            "job": {"name": "../called"},
            "job_logging": LOGGING | {"handlers": {"x": FILE | {"filename": f"{OUTPUT}/${{hydra.job.name}}.log"}}},
        }
    },
    "a file made by a formatter": {
        "hydra": {"job_logging": LOGGING | {"formatters": {"y": {"()": "logging.FileHandler", "filename": "called"}}}},
    },
    "a file set as an attribute": {
        "hydra": {
            "job_logging": LOGGING
            | {"handlers": {"x": FILE | {"filename": f"{OUTPUT}/x.log", "delay": True, ".": {"baseFilename": "called"}}}}
        }
    },
    "an external object as the format": {
        "hydra": {"job_logging": LOGGING | {"formatters": {"y": {"format": "ext://stranger.call"}}, "handlers": {}, "root": {}}},
    },
    "a host": {
        "hydra": {
            "job_logging": LOGGING | {"handlers": {"x": {"class": "logging.handlers.HTTPHandler", "host": "a", "url": "b"}}}
        }
    },
    "logging that differs in the job": {
        "hydra": {
            "run": {"dir": "/tmp/x"},
            "sweeper": {
                "params": {"none": {"x": {"class": "logging.NullHandler"}}, "/tmp/x": {"x": {"class": "stranger.Handler"}}}
            },
            "job_logging": LOGGING | {"handlers": "${hydra.sweeper.params[${oc.select:hydra.runtime.output_dir,none}]}"},
        },
    },
    "the environment": {"hydra": {"job": {"env_set": {"GIT_CONFIG_COUNT": "1"}}}},
    "a job given by interpolation": {
        "hydra": {"sweeper": {"params": {"name": "x", "env_set": {"A": "b"}}}, "job": "${..sweeper}"}
    },
    "the environment by interpolation": {
        "hydra": {"sweeper": {"params": {"GIT_CONFIG_COUNT": "1"}}, "job": {"env_set": "${hydra.sweeper.params}"}},
    },
    "a package on the search path": {"hydra": {"searchpath": ["pkg://stranger"]}},
    "an option's class": {"sharing": {"_target_": "stranger.Half"}},
    "an option's function": {"sharing": {"_target_": "stranger.call"}},
    "a way through torch's imports": {"optimizer": {"_target_": "torch.optim.adamw.torch.hub.load"}},
    "a tracker": {"tracker": {"_target_": "stranger.Teller"}},
    "a target inside an option": {"encoder": {"activation": {"_target_": "stranger.call"}}},
    "a target in a list inside an option": {"encoder": {"hidden": [{"_target_": "stranger.call"}]}},
    "modules allowed in the file": {"allow_modules": ["stranger"], "sharing": {"_target_": "stranger.Half"}},
    "a callback and modules allowed in the file": {
        "allow_modules": ["stranger"],
        "hydra": {"callbacks": {"x": {"_target_": "stranger.Watcher"}}},
    },
}
SHOWN_TOO = [name for name, attack in ATTACKS.items() if "hydra" in attack]


@pytest.fixture
def attack(folder: Path, request: pytest.FixtureRequest) -> None:
    """The stranger's configuration, and a module that could be imported."""
    (folder / "stranger.py").write_text(MODULE)
    (folder / "study.yaml").write_text(yaml.safe_dump({"defaults": ["config", "_self_"]} | ATTACKS[request.param]))
    sys.path.append(str(folder))


def _harmless(folder: Path) -> bool:
    return not (folder / "called").exists() and not (folder / "imported").exists()


@pytest.mark.parametrize(
    ("attack", "flags"),
    [
        *((name, ()) for name in ATTACKS),
        *((name, ("-m", "seed=1,2")) for name in ("a callback", "a sweeper", "an option's class", "a tracker")),
    ],
    indirect=["attack"],
)
def test_running_a_strangers_configuration(
    attack: None, mtl_run: Command, jobs: Jobs, folder: Path, flags: tuple[str, ...]
) -> None:
    result = mtl_run("--config-dir", ".", "-cn", "study", *flags)
    assert result.code == 2 and 1 <= len(result.err.splitlines()) <= 2, result.err
    assert _harmless(folder)
    assert not jobs.calls and not (folder / "runs").exists()


@pytest.mark.parametrize("attack", SHOWN_TOO, indirect=True)
@pytest.mark.parametrize("flags", [pytest.param(("--help",), marks=pytest.mark.slow), ("--cfg", "hydra", "--resolve")])
def test_showing_a_strangers_configuration(attack: None, mtl_run: Command, folder: Path, flags: tuple[str, ...]) -> None:
    mtl_run("--config-dir", ".", "-cn", "study", *flags)
    assert _harmless(folder)


@pytest.mark.parametrize("attack", [*SHOWN_TOO, "a tracker"], indirect=True)
@pytest.mark.parametrize("flag", ["--help", pytest.param("--hydra-help", marks=pytest.mark.slow)])
def test_showing_a_strangers_sweep(attack: None, mtl_run: Command, folder: Path, flag: str) -> None:
    mtl_run("-m", flag, "--config-dir", ".", "-cn", "study")
    assert _harmless(folder)


def test_a_tracker_is_not_made_for_help(mtl_run: Command, folder: Path) -> None:
    """The option may as well be chosen on the command line."""
    (folder / "stranger.py").write_text(MODULE)
    (folder / "tracker").mkdir()
    (folder / "tracker" / "evil.yaml").write_text("_target_: stranger.Teller\n")
    sys.path.append(str(folder))
    assert mtl_run("-m", "--help", "--config-dir", ".", "tracker=evil").code == 0
    assert _harmless(folder)


@pytest.mark.parametrize("attack", ["the environment"], indirect=True)
def test_only_what_is_typed_is_set_in_the_environment(attack: None, mtl_run: Command, jobs: Jobs) -> None:
    typed = mtl_run("+hydra.job.env_set={LANG:C}", "+hydra.job.env_set.LC_ALL=C", "hydra.job.env_copy=[HOME]")
    assert typed.code == 0, typed.err
    mixed = mtl_run("--config-dir", ".", "-cn", "study", "+hydra.job.env_set.LANG=C")
    assert mixed.code == 2 and "hydra.job.env_set.GIT_CONFIG_COUNT" in mixed.err
    assert len(jobs.calls) == 1


@pytest.mark.parametrize("group", ["job_logging", "hydra_logging"])
@pytest.mark.parametrize("option", ["default", "disabled", "none", "stdout", "hydra_debug", "mtl"])
def test_every_option_of_hydras_logging_is_safe(group: str, option: str) -> None:
    folders = [Path(hydra.__file__).parent / "conf" / "hydra", config_dir() / "hydra"]
    for file in (each / group / f"{option}.yaml" for each in folders):
        if file.is_file():
            check_hydra_node(OmegaConf.create({"job": {"name": "mtl-run"}, group: OmegaConf.load(file)}))


@pytest.mark.parametrize("attack", ["a callback", "a handler in logging", "an option's class", "a tracker"], indirect=True)
def test_the_users_own_word_allows_it(attack: None, mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    """Also shows that these attacks would have worked."""
    result = mtl_run("--config-dir", ".", "-cn", "study", "allow_modules=[stranger]")
    assert result.code == 0, result.err
    assert (folder / "imported").exists()
    assert len(jobs.calls) == 1


@pytest.mark.parametrize("attack", ["a host"], indirect=True)
def test_a_handler_allowed_by_name(attack: None, mtl_run: Command, jobs: Jobs) -> None:
    assert mtl_run("--config-dir", ".", "-cn", "study", "allow_modules=[logging.handlers]").code == 0
    assert len(jobs.calls) == 1


def test_a_pickle_is_not_loaded(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    class Stranger:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (folder / "called",)

    (folder / "config.pickle").write_bytes(pickle.dumps(Stranger()))
    result = mtl_run("--experimental-rerun", "config.pickle")
    assert result.code == 2 and "resume=RUN_DIR" in result.err
    assert _harmless(folder)
