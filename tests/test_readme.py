"""What the README says is true: its commands compose, its table lists the options that there are, its example works."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import options
from hydra._internal.utils import get_args_parser
from hydra.types import RunMode
from omegaconf import OmegaConf

from mtl_runner.commands.composed import hydra_of, task_config
from mtl_runner.config import check, config_dir, plug
from mtl_runner.config.schema import plain

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
LINES = [text.replace("\\\n", "") for text in (README, *DOCS.values())]
COMMANDS = sorted({found.strip() for text in LINES for found in re.findall(r"^mtl-run [^#\n]*", text, re.M)})
IMBALANCE = [option for option in options("imbalance") if option != "none"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 5


WRITTEN = ("resume=", "-cd runs/", "--config-dir affinity/")
"""What an earlier command has to have written first; these have tests of their own."""


def study(words: list[str]) -> Any:
    """With a primary configuration of a folder that the command names."""
    args = get_args_parser().parse_args(words)
    args.config_dir = str(ROOT / args.config_dir)
    with hydra_of(args) as hydra:
        return task_config(hydra.compose_config(args.config_name, args.overrides, run_mode=RunMode.RUN))


@pytest.mark.parametrize("command", [each for each in COMMANDS if not any(words in each for words in WRITTEN)])
def test_commands_compose(command: str, make_config: Callable[..., object]) -> None:
    words = [word for word in shlex.split(command)[1:] if word not in ("…", "-m")]
    single = [re.sub(r"=([a-z_]+),.*|=range\(5\)", lambda found: f"={found[1] or 0}", word) for word in words]
    config: Any = study(single) if {"-cd", "--config-dir"} & set(single) else make_config(*single)
    check(config, config["allow_modules"])  # as typed


@pytest.mark.parametrize(
    "group", ["dataset", "encoder", "sharing", "weighting", "imbalance", "optimizer", "scheduler", "tracker"]
)
def test_table_lists_the_options(group: str) -> None:
    row = next(line for line in README.splitlines() if line.startswith("|") and f"`{group}`" in line.split("|")[1])
    assert set(options(group)) <= set(re.findall(r"`(\w+)`", row.split("|", 2)[2]))


def test_the_table_of_weightings_has_a_row_for_each() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|.*\|", DOCS["weighting.md"], re.M)) >= set(options("weighting"))


def test_the_tables_of_sharing_modes_and_encoders_have_a_row_for_each() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", DOCS["sharing.md"], re.M))
    assert rows >= {*options("sharing"), *options("encoder")}


def test_the_tables_of_imbalance_have_no_other_rows() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|(?:[^|\n]*\|){4}$", DOCS["imbalance.md"], re.M)) == sorted(IMBALANCE)


@pytest.mark.parametrize("option", IMBALANCE)
def test_the_row_of_a_strategy_is_at_its_place_and_says_what_its_file_says(option: str) -> None:
    path = config_dir() / "imbalance" / f"{option}.yaml"
    keys = [line for line in path.read_text().splitlines() if line and line[0] not in "#_" and line != "tasks: null"]
    strategy = plug(plain(OmegaConf.load(path)), "imbalance").func  # type: ignore[arg-type]
    section = DOCS["imbalance.md"].split(f"### {strategy.place.capitalize()}\n")[1].split("\n#")[0]  # type: ignore[attr-defined]
    row = next(line.split("|") for line in section.splitlines() if line.startswith(f"| `{option}` |"))
    assert set(row[4].strip().split(", ")) == strategy.kinds  # type: ignore[attr-defined]
    assert re.findall(r"`(\w+: [^`]+)`", row[5]) == keys


def test_links_lead_somewhere() -> None:
    for name, text in {"README.md": README, **{f"docs/{name}": text for name, text in DOCS.items()}}.items():
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]+)?\)", text):
            path = (ROOT / name).parent / target if target else ROOT / name
            assert path.exists(), f"{name}: {target}"
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M) if anchor else []
            assert not anchor or anchor[1:] in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}, (
                f"{name}: {target}{anchor}"
            )


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
