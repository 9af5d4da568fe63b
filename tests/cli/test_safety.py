"""A stranger's configuration is data: nothing in it makes the program import or call anything but trusted classes.

Each attack is a file in a folder given with ``--config-dir``. The stranger's module notes that it was imported or called.
"""

import pickle
import sys
from pathlib import Path

import pytest
import yaml
from standins import Command, Jobs

MODULE = """
from pathlib import Path
import logging
from hydra.experimental.callback import Callback
from mtl_runner.sharing.hard import Hard

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
"""

LOGGING = {"version": 1, "root": {"handlers": ["x"]}, "disable_existing_loggers": False}
ATTACKS = {
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
    "a package on the search path": {"hydra": {"searchpath": ["pkg://stranger"]}},
    "an option's class": {"sharing": {"_target_": "stranger.Half"}},
    "an option's function": {"sharing": {"_target_": "stranger.call"}},
    "a way through torch's imports": {"optimizer": {"_target_": "torch.optim.adamw.torch.hub.load"}},
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
        *((name, ("-m", "seed=1,2")) for name in ("a callback", "a sweeper", "an option's class")),
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
@pytest.mark.parametrize("flags", [("--help",), ("--cfg", "hydra", "--resolve")])
def test_showing_a_strangers_configuration(attack: None, mtl_run: Command, folder: Path, flags: tuple[str, ...]) -> None:
    mtl_run("--config-dir", ".", "-cn", "study", *flags)
    assert _harmless(folder)


@pytest.mark.parametrize("attack", ["a callback", "a handler in logging", "an option's class"], indirect=True)
def test_the_users_own_word_allows_it(attack: None, mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    """Also shows that these attacks would have worked."""
    result = mtl_run("--config-dir", ".", "-cn", "study", "allow_modules=[stranger]")
    assert result.code == 0, result.err
    assert (folder / "imported").exists()
    assert len(jobs.calls) == 1


def test_a_pickle_is_not_loaded(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    class Stranger:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (folder / "called",)

    (folder / "config.pickle").write_bytes(pickle.dumps(Stranger()))
    result = mtl_run("--experimental-rerun", "config.pickle")
    assert result.code == 2 and "resume=RUN_DIR" in result.err
    assert _harmless(folder)
