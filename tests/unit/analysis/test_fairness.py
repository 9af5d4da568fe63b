"""What is checked about a comparison."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import table

from mtl_runner.analysis.compare import compare
from mtl_runner.analysis.results import Result

VALUES = {"none": [0.5, 0.6], "hard": [0.6, 0.7]}


def findings(runs: list[Result]) -> dict[str, tuple[bool, str]]:
    return {found.text.split(":")[0]: (found.fair, found.text) for found in compare(runs, "fair?").findings}


def test_what_is_fine_is_said_too(tmp_path: Path) -> None:
    found = findings(table(tmp_path, VALUES))
    assert set(found) == {"data", "seeds", "budget", "search", "metrics", "code", "test"} and all(
        fair for fair, _ in found.values()
    )
    assert "the same 2 seeds" in found["seeds"][1] and "30 epochs of batches of 128" in found["budget"][1]


LONGER = {"trainer.epochs": "60"}
SEARCH: dict[str, Any] = {"study": "s", "trials": 50}


@pytest.mark.parametrize(
    ("what", "change", "words"),
    [
        ("data", {"fingerprint": "other"}, "saw different data"),
        ("data", {"fingerprint": ""}, "not all runs say"),
        ("seeds", {"seed": 7}, "hard lacks 1 of 3, none lacks 1 of 3|none lacks 1 of 3, hard lacks 1 of 3"),
        ("budget", {"settings": LONGER}, "epochs 30"),
        ("search", {"tuned": SEARCH}, "the baseline was not tuned, others were: trials 0 .none., 0/50 .hard."),
        ("metrics", {"primary": {"sort": "accuracy"}}, "different primary metrics"),
        ("code", {"commit": "c0ffee+"}, "files differed"),
        ("code", {"commit": "decaf"}, "several commits"),
        ("code", {"commit": ""}, "not all runs say"),
        ("times", {"host": "there"}, "2 machines"),
        ("test", {"looks": 2}, "more than once in 1 of 4 runs"),
        ("test", {"looks": None}, "1 of 4 runs do not say"),
    ],
)
def test_what_is_not_fair_is_said(tmp_path: Path, what: str, change: dict[str, Any], words: str) -> None:
    runs = table(tmp_path, VALUES)
    if "settings" in change:
        change = {"settings": {**runs[-1].settings, **change["settings"]}}
        runs[-2] = replace(runs[-2], **change)
    runs[-1] = replace(runs[-1], **change)
    fair, text = findings(runs)[what]
    assert not fair and any(part in text.replace("(", ".").replace(")", ".") for part in words.split("|")), text


def test_everyone_tuned_alike_is_fair(tmp_path: Path) -> None:
    found = findings([replace(run, tuned=SEARCH) for run in table(tmp_path, VALUES)])
    assert found["search"][0] and "every group was tuned over 50 trials, the baseline too" in found["search"][1]
