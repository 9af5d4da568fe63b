"""What is installed without the checkout: the wheel, built from the sdist, in an environment and a folder of its own."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IGNORED = ("mtl_runner/__pycache__/left_over.py", "runs/left_over.yaml", ".venv/left_over.py", "mlflow.db")
"""What a checkout may hold and git ignores."""
pytestmark = pytest.mark.slow


def _run(*command: str | Path, folder: Path, **environment: str) -> str:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW", "HYDRA", "VIRTUAL_ENV"))
    }
    done = subprocess.run(list(map(str, command)), cwd=folder, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that is built from it and from nothing else."""
    checkout, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in ("mtl_runner", "conf"):
        shutil.copytree(ROOT / name, checkout / name)
    for path in [path for path in ROOT.iterdir() if path.is_file()]:
        shutil.copy(path, checkout)
    for name in (*IGNORED, "experiments/study.yaml", "tests/test_it.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("left over\n")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, checkout, folder=folder)
    return folder


@pytest.fixture(scope="module")
def environment(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; it sees the libraries of this one, which would take gigabytes to fetch again."""
    folder = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", folder, folder=folder)
    python = folder / "bin" / "python"
    _run(python, "-m", "pip", "install", "--no-deps", "--no-index", *distributions.glob("*.whl"), folder=folder)
    packages = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip())
    libraries = [path for path in sys.path if path.endswith("-packages")]
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return folder


def _files(distributions: Path) -> tuple[set[str], set[str]]:
    (sdist,), (wheel,) = distributions.glob("*.tar.gz"), distributions.glob("*.whl")
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        return source, set(archive.namelist())


def test_both_hold_every_configuration_file_and_no_study(distributions: Path) -> None:
    source, wheel = _files(distributions)
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml")}
    assert files <= source
    assert {f"mtl_runner/{file}" for file in files} <= wheel
    assert "mtl_runner/py.typed" in wheel
    for name in source | wheel:
        assert not name.startswith(("experiments", "tests", "runs")) and name not in IGNORED and "__pycache__" not in name


def test_it_runs_from_another_folder(environment: Path, tmp_path: Path) -> None:
    package = _run(environment / "bin" / "python", "-c", "import mtl_runner; print(mtl_runner.__file__)", folder=tmp_path)
    assert package.startswith(str(environment)), "the wheel is imported, not the checkout"
    mtl_run = environment / "bin" / "mtl-run"
    assert "resume=RUN_DIR" in _run(mtl_run, "--help", folder=tmp_path)
    assert "to: centroid" in _run(mtl_run, "--cfg", "job", "sharing=soft", folder=tmp_path)
    assert "adamw" in _run(environment / "bin" / "mtl", "options", folder=tmp_path)
    out = _run(mtl_run, "trainer.epochs=1", "trainer.device=cpu", folder=tmp_path)
    assert re.search(r"digit .*\d\.\d", out)
    assert (tmp_path / "mlflow.db").exists()
    assert len(list(tmp_path.glob("runs/*/*/test_metrics.json"))) == 1
