"""``--help``, completion and ``mtl options`` answer at once: they import nothing heavy."""

import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

HEAVY = ("torch", "mlflow", "pandas", "pyarrow", "sklearn", "imblearn", "matplotlib", "numpy")
COMMANDS = {
    "mtl-run --help": ("run_main", ["mtl-run", "--help"]),
    "mtl-run --cfg job": ("run_main", ["mtl-run", "--cfg", "job"]),
    "mtl-run sharing=sofft": ("run_main", ["mtl-run", "sharing=sofft"]),
    "mtl --help": ("app_main", ["mtl", "--help"]),
    "mtl options": ("app_main", ["mtl", "options"]),
    "mtl predict --help": ("app_main", ["mtl", "predict", "--help"]),
    "mtl run --help": ("app_main", ["mtl", "run", "--help"]),
}


def _start(command: str, after: str = "") -> str:
    main, arguments = COMMANDS[command]
    code = f"import sys, contextlib\nfrom mtl_runner.cli import {main}\nsys.argv = {arguments!r}\n"
    code += f"with contextlib.suppress(SystemExit):\n    {main}()\n"
    done = subprocess.run([sys.executable, "-c", code + after], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_heavy_is_imported(command: str) -> None:
    out = _start(command, f"print('imported:', sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert out.splitlines()[-1] == "imported: []"


@pytest.mark.parametrize("command", ["mtl-run --help", "mtl --help"])
def test_help_takes_less_than_a_second(command: str) -> None:
    """Of the processor's time, or five times what the import of Hydra takes where a busy machine makes that long."""

    def seconds(run: Callable[[], object]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run() is not None
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def imports() -> object:
        return subprocess.run([sys.executable, "-c", "import hydra._internal.hydra, hydra._internal.utils, typer"], check=True)

    times: list[tuple[float, float]] = []
    while not times or min(time for time, _ in times) >= max(1.0, 5 * min(time for _, time in times)):
        assert len(times) < 3, times
        own = seconds(lambda: _start(command))
        times.append((own, 0.0 if own < 1 else seconds(imports)))
