"""What makes a group, and how it is called."""

from pathlib import Path
from typing import Any

import pytest
from made_runs import made_run

from mtl_runner.analysis.groups import Grouping, RunGroup, baselines, conditions, grouped, own_baseline
from mtl_runner.analysis.results import flat, read
from mtl_runner.errors import UserError


def groups(home: Path, *runs: dict[str, Any], only: tuple[str, ...] = ()) -> Grouping:
    """Each run as keywords of ``made_run``; ``sharing``, ``weighting`` … as choices."""
    made = []
    for place, run in enumerate(runs):
        chosen = {
            key: run.pop(key)
            for key in ("sharing", "weighting", "imbalance", "encoder", "optimizer")
            if isinstance(run.get(key), str)
        }
        made.append(read(made_run(home / str(place), {"a": {"roc_auc": 0.5}}, chosen, **run)))
    return grouped(made, only)


def names(grouping: Grouping) -> list[str]:
    return [group.name for group in grouping.groups]


def test_seeds_splits_paths_and_devices_make_no_group(tmp_path: Path) -> None:
    found = groups(
        tmp_path,
        {"seed": 0},
        {"seed": 1, "data_dir": "elsewhere", "name": "other", "tracker": {"uri": "x"}},
        {"runs_dir": "there", "skip_finished": True, "tuned": {"study": "s", "trials": 9}},
        {"options": {"dataset": {"split_seed": 3, "fold": 1, "path": "b.csv"}}},
        {"trainer": {"epochs": 30, "steps": None, "batch_size": 128, "device": "cuda", "threads": 4,
                     "early_stopping": {"patience": 10}}},
    )  # fmt: skip
    assert len(found.groups) == 1 and found.by == () and names(found) == ["all runs"]


def test_an_option_stands_for_its_own_keys(tmp_path: Path) -> None:
    soft = {"sharing": "soft", "options": {"sharing": {"strength": 0.1}}}
    found = groups(tmp_path, {"sharing": "hard"}, soft, {"sharing": "mtan", "options": {"sharing": {"strength": 0.2}}})
    assert found.by == ("sharing",) and names(found) == ["hard", "soft", "mtan"] and found.along == ()


def test_a_key_that_differs_within_an_option_is_named(tmp_path: Path) -> None:
    soft = [{"sharing": "soft", "options": {"sharing": {"strength": value, "norm": "l2"}}} for value in (0.1, 0.2)]
    found = groups(tmp_path, {"sharing": "hard"}, *soft)
    assert found.by == ("sharing", "sharing.strength") and names(found) == ["hard", "soft strength=0.1", "soft strength=0.2"]
    assert found.groups[0].settings == {"sharing": "hard"}


def test_keys_that_differ_only_with_others_are_said_and_not_named(tmp_path: Path) -> None:
    runs = [{"sharing": mode, "optimizer": {"lr": rate}} for mode, rate in (("none", 0.1), ("hard", 0.2), ("hard", 0.2))]
    found = groups(tmp_path, *runs)
    assert found.by == ("sharing",) and found.along == ("optimizer.lr",) and names(found) == ["none", "hard"]


def test_a_baseline_has_no_weighting(tmp_path: Path) -> None:
    runs = [{"sharing": mode, "weighting": weighting} for mode in ("none", "hard") for weighting in ("equal", "dynamic")]
    runs[1]["options"] = {"weighting": {"alpha": 1}}
    assert names(groups(tmp_path, *runs)) == ["none", "hard equal", "hard dynamic"]


def test_names_leave_out_none_but_of_sharing(tmp_path: Path) -> None:
    runs = [
        {"sharing": mode, "imbalance": option, "encoder": encoder}
        for encoder, mode, option in (("mlp", "none", "none"), ("cnn", "none", "focal"), ("cnn", "hard", "none"))
    ]
    for run in runs:
        run["options"] = {"encoder": {}}
    assert names(groups(tmp_path, *runs)) == ["none mlp", "none focal cnn", "hard cnn"]
    assert names(groups(tmp_path / "one", {"imbalance": "none"}, {"imbalance": "focal"})) == ["none", "focal"]


def test_a_start_from_another_run_makes_a_group(tmp_path: Path) -> None:
    found = groups(
        tmp_path, {}, {"init_from": {"run": "runs/a", "frozen": True}}, {"init_from": {"run": "runs/b", "frozen": True}}
    )
    assert len(found.groups) == 3 and "run=runs/a" in names(found)[1]


def test_by_restricts(tmp_path: Path) -> None:
    runs = [{"sharing": mode, "weighting": weighting} for mode in ("soft", "hard") for weighting in ("equal", "dynamic")]
    found = groups(tmp_path, *runs, only=("sharing",))
    assert names(found) == ["soft", "hard"] and [len(group.runs) for group in found.groups] == [2, 2]
    with pytest.raises(UserError, match=r"--by sharin: no run has .* differ in sharing, weighting .*did you mean 'sharing'"):
        grouped([run for group in found.groups for run in group.runs], ["sharin"])


def test_each_group_has_its_own_baseline(tmp_path: Path) -> None:
    runs = [{"sharing": mode, "imbalance": option} for mode in ("none", "hard") for option in ("none", "focal")]
    found = groups(tmp_path, *runs, {"sharing": "hard", "imbalance": "smote"})
    wanted = conditions("sharing=none")
    candidates = baselines(found.groups, wanted)
    own = {group.name: own_baseline(group, candidates, candidates[0], wanted).name for group in found.groups}
    assert own == {"none": "none", "none focal": "none focal", "hard": "none", "hard focal": "none focal", "hard smote": "none"}


@pytest.mark.parametrize("text", ["sharing", "=none", ","])
def test_a_baseline_is_key_and_value(text: str) -> None:
    with pytest.raises(UserError, match="KEY=VALUE is expected"):
        conditions(text)


def test_settings_without_choices_are_named_by_class() -> None:
    config = {
        "sharing": {"_target_": "a.b.Soft", "norm": "l2"},
        "imbalance": {"focal": {"_target_": "a.Focal", "gamma": 2}},
        "seed": 1,
    }
    assert flat(config, {}) == {
        "sharing": "Soft",
        "sharing._target_": "a.b.Soft",
        "sharing.norm": "l2",
        "imbalance": "focal",
        "imbalance.focal._target_": "a.Focal",
        "imbalance.focal.gamma": "2",
        "seed": "1",
    }
    assert flat({"imbalance": {}}, {}) == {"imbalance": "none"}


def test_another_class_makes_a_group(tmp_path: Path) -> None:
    """The option stands for its class, unless another was typed in its place."""
    runs = [
        {"sharing": mode, "optimizer": "adamw", "seed": seed,
         "options": {"optimizer": {"_target_": target}, "sharing": {"_target_": f"a.{mode}"}}}
        for mode in ("none", "hard") for target in ("torch.optim.AdamW", "torch.optim.NAdam") for seed in (0, 1)
    ]  # fmt: skip
    found = groups(tmp_path, *runs)
    assert found.by == ("sharing", "optimizer._target_") and [len(group.runs) for group in found.groups] == [2, 2, 2, 2]
    assert names(found)[1] == "none optimizer=torch.optim.NAdam"
    wanted = conditions("sharing=none")
    candidates = baselines(found.groups, wanted)
    assert own_baseline(found.groups[3], candidates, candidates[0], wanted).name == names(found)[1]


def test_another_class_of_a_chosen_option_makes_a_group(tmp_path: Path) -> None:
    runs = [{"sharing": "hard", "options": {"sharing": {"_target_": f"a.{name}"}}} for name in ("Hard", "Mine")]
    assert names(groups(tmp_path / "sharing", *runs)) == ["sharing=a.Hard", "sharing=a.Mine"]
    runs = [{"imbalance": "focal", "options": {"imbalance": {"focal": {"_target_": f"a.{name}"}}}} for name in ("Focal", "Mine")]
    assert names(groups(tmp_path / "imbalance", *runs)) == ["imbalance.focal=a.Focal", "imbalance.focal=a.Mine"]


def test_of_keys_that_go_together_the_first_names_the_groups(tmp_path: Path) -> None:
    runs = [
        read(made_run(tmp_path / str(k), {"a": {"roc_auc": 0.8}}, options={"optimizer": {"lr": k, "decay": k}})) for k in (1, 2)
    ]
    found = grouped(runs)
    assert (found.by, found.along) == (("optimizer.lr",), ("optimizer.decay",))


def test_keys_of_the_same_name_are_said_whole(tmp_path: Path) -> None:
    runs = [
        read(made_run(tmp_path / f"{a}{b}", {"a": {"roc_auc": 0.8}}, options={"encoder": {"depth": a}, "head": {"depth": b}}))
        for a, b in ((1, 1), (1, 2), (2, 1))
    ]
    assert [group.name for group in grouped(runs).groups] == [
        f"encoder.depth={a} head.depth={b}" for a, b in ((1, 1), (1, 2), (2, 1))
    ]


def test_a_baseline_has_its_settings_in_all_of_its_runs(tmp_path: Path) -> None:
    runs = [
        read(made_run(tmp_path / sharing, {"a": {"roc_auc": 0.8}}, choices={"sharing": sharing})) for sharing in ("none", "hard")
    ]
    (group,) = grouped(runs, ["trainer.batch_size"]).groups
    assert baselines([group], {"sharing": "none"}) == [] != baselines([group], {"weighting": "equal"})


def test_the_own_baseline_has_all_other_settings_and_may_have_keys_of_its_own() -> None:
    def group(**settings: str) -> RunGroup:
        return RunGroup("", {key.replace("__", "."): value for key, value in settings.items()}, ())

    plain, focal = (group(sharing="none", sharing__heads="2", imbalance=each, encoder="mlp") for each in ("none", "focal"))
    mine = group(sharing="hard", imbalance="focal", encoder="mlp")
    assert own_baseline(mine, [plain, focal], plain, {"sharing"}) is focal
