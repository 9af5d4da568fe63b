"""What the README says is true: its commands compose, its table lists the options that there are, its example works."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from handmade import options

from mtl_runner.config import check

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"^mtl-run [^#\n]*", README, re.M)))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", [each for each in COMMANDS if "resume=" not in each])
def test_commands_compose(command: str, make_config: Callable[..., object]) -> None:
    words = [word for word in shlex.split(command)[1:] if word not in ("…", "-m")]
    single = [re.sub(r"=([a-z]+),.*|=range\(5\)", lambda found: f"={found[1] or 0}", word) for word in words]
    check(make_config(*single))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "group", ["dataset", "encoder", "sharing", "weighting", "imbalance", "optimizer", "scheduler", "tracker"]
)
def test_table_lists_the_options(group: str) -> None:
    row = next(line for line in README.splitlines() if line.startswith("|") and f"`{group}`" in line.split("|")[1])
    assert set(options(group)) <= set(re.findall(r"`(\w+)`", row.split("|", 2)[2]))


def test_the_table_of_weightings_has_a_row_for_each() -> None:
    rows = (Path(__file__).resolve().parents[1] / "docs" / "weighting.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|.*\|", rows, re.M)) >= set(options("weighting"))


def test_the_tables_of_sharing_modes_and_encoders_have_a_row_for_each() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", (Path(__file__).resolve().parents[1] / "docs" / "sharing.md").read_text(), re.M))
    assert rows >= {*options("sharing"), *options("encoder")}


def test_example_of_an_option_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., Path]) -> None:
    code = next(block for block in blocks("python") if "class Boltzmann" in block)
    (tmp_path / "my_module.py").write_text(code)
    node = next(block for block in blocks("yaml") if "boltzmann" in block).replace("mtl_runner.weighting.boltzmann", "my_module")
    (tmp_path / "my_conf" / "weighting").mkdir(parents=True)
    (tmp_path / "my_conf" / "weighting" / "boltzmann.yaml").write_text(node)
    monkeypatch.syspath_prepend(str(tmp_path))
    searched = f"hydra.searchpath=[file://{tmp_path}/my_conf]"
    folder = train("weighting=boltzmann", "allow_modules=[my_module]", "trainer.epochs=1", searched)
    assert (folder / "test_metrics.json").exists()

    weighting = sys.modules["my_module"].Boltzmann(["a", "b", "c"], temperature=0.5)
    active = torch.tensor([True, True, False])
    weights = weighting.weights(torch.tensor([1.0, 2.0, 0.0]), active)
    assert weights[0] > weights[1] > weights[2] == 0
    assert weights.sum() == pytest.approx(2)
