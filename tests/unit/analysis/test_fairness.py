"""What is checked about a comparison."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import table

from mtl_runner.analysis.compare import compare
from mtl_runner.analysis.results import Result
from mtl_runner.analysis.tuned import changed

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
FOUND = SEARCH | {"found": {}, "choices": {}}


@pytest.mark.parametrize(
    ("what", "change", "words"),
    [
        ("data", {"fingerprint": "other"}, "saw different data"),
        ("data", {"fingerprint": ""}, "not all runs say"),
        ("seeds", {"seed": 7}, "hard lacks 1 of 3, none lacks 1 of 3|none lacks 1 of 3, hard lacks 1 of 3"),
        ("budget", {"settings": LONGER}, "epochs 30"),
        ("budget", {"extended": True}, "1 of 4 runs began with a smaller one"),
        ("search", {"tuned": FOUND}, "the baseline was not tuned, others were: trials 0 .none., 0/50 .hard."),
        ("search", {"tuned": SEARCH}, "trials 0 .none., 0/unknown .hard."),
        ("metrics", {"primary": {"sort": "accuracy"}}, "different primary metrics"),
        ("code", {"commit": "c0ffee+"}, "files differed"),
        ("code", {"commit": "decaf"}, "several commits"),
        ("code", {"commit": ""}, "not all runs say"),
        ("code", {"version": "0.2.0"}, "several versions .0.1.0, 0.2.0."),
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
    found = findings([replace(run, tuned=FOUND) for run in table(tmp_path, VALUES)])
    assert found["search"][0] and "every group was tuned over 50 trials, the baseline too" in found["search"][1]


def with_settings(run: Result, tuned: dict[str, Any], **settings: str) -> Result:
    return replace(run, tuned=tuned, settings={**run.settings, **settings})


def test_what_was_changed_after_the_search_was_not_tuned(tmp_path: Path) -> None:
    """The search had ``hard`` alone and found a learning rate; ``none`` has that rate, and a run of ``hard`` another."""
    tuned = SEARCH | {"found": {"optimizer.lr": 0.005, "encoder.hidden": [64, 32]}, "choices": {"sharing": "hard"}}
    own = {"optimizer.lr": "0.005", "encoder.hidden": "[64, 32]"}
    runs = [with_settings(run, tuned, **own) for run in table(tmp_path, VALUES)]
    fair, text = findings(runs)["search"]
    assert not fair and "changed after the search: sharing (none);" in text, text
    assert "the baseline was not tuned, others were: trials 0 (none), 50 (hard)" in text
    hard = [run for run in runs if run.settings["sharing"] == "hard"]
    assert findings(hard)["search"] == (True, "search: every group was tuned over 50 trials")
    hard[1] = with_settings(hard[1], tuned, **{**own, "optimizer.lr": "0.5", "encoder.hidden": "[64]"})
    fair, text = findings(hard)["search"]
    assert not fair and "changed after the search: " in text and "optimizer.lr" in text and "encoder.hidden" in text


def test_what_a_search_of_the_first_version_found_is_unknown(tmp_path: Path) -> None:
    fair, text = findings([replace(run, tuned=SEARCH) for run in table(tmp_path, VALUES)])["search"]
    assert not fair and "do not say what the search found" in text


def test_a_second_phase_is_part_of_the_budget(tmp_path: Path) -> None:
    phase = {"imbalance.classifier_retraining.epochs": "10"}
    runs = [
        replace(run, settings={**run.settings, **(phase if run.settings["sharing"] == "hard" else {})})
        for run in table(tmp_path, VALUES)
    ]
    fair, text = findings(runs)["budget"]
    assert not fair and "epochs of a second phase 0 (none), 10 (hard); 'hard' has more" in text, text
    both = [replace(run, settings={**run.settings, **phase}) for run in runs]
    fair, text = findings(both)["budget"]
    assert fair and "at most 30 epochs and 10 of a second phase" in text


def test_an_installed_package_has_a_version_for_its_code(tmp_path: Path) -> None:
    runs = table(tmp_path, VALUES)
    fair, text = findings([replace(run, commit="", version="0.1.0") for run in runs])["code"]
    assert fair and text == "code: version 0.1.0 in all runs, not from a repository"
    assert findings([replace(run, commit="", version="") for run in runs])["code"] == (
        False,
        "code: no run says which commit it was",
    )
    fair, text = findings([replace(run, version="") for run in runs])["code"]
    assert fair and text == "code: one commit (c0ffee)", "the first runs wrote no version"


def test_a_host_that_is_not_said_is_no_other_machine(tmp_path: Path) -> None:
    runs = table(tmp_path, VALUES)
    assert "times" not in findings([replace(runs[0], host=""), *runs[1:]])


def test_of_a_group_the_longest_second_phase_counts(tmp_path: Path) -> None:
    runs = table(tmp_path, VALUES)
    runs[-1] = replace(runs[-1], settings={**runs[-1].settings, "imbalance.x.epochs": "10"})
    (found,) = [each for each in compare(runs, "made", by=("sharing",)).findings if each.text.startswith("budget")]
    assert not found.fair and "0 (none), 10 (hard)" in found.text


def test_of_another_option_only_the_choice_was_changed(tmp_path: Path) -> None:
    tuned = {"trials": 5, "found": {"sharing.strength": 0.1, "optimizer.lr": 0.5}, "choices": {"sharing": "soft"}}
    run = replace(table(tmp_path, VALUES)[-1], tuned=tuned)
    assert changed(run) == ["sharing", "optimizer.lr"]


def test_a_baseline_that_was_tuned_less_was_tuned(tmp_path: Path) -> None:
    runs = [
        replace(run, tuned=FOUND | {"trials": 20 if run.settings["sharing"] == "none" else 50}) for run in table(tmp_path, VALUES)
    ]
    fair, text = findings(runs)["search"]
    assert not fair and "was not tuned" not in text and "20 (none)" in text
