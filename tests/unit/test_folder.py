"""The run folder: files that are whole at any time, and that come back as they were."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

from mtl_runner.batch import Data, Split, StreamSpec, TargetSpec
from mtl_runner.datasets.prepared import read_preparation
from mtl_runner.errors import UserError
from mtl_runner.folder import RunFolder, now, write_text


def lines(path: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (path / "metrics.jsonl").read_text().splitlines()]


def with_epochs(path: Path, epochs: int) -> RunFolder:
    folder = RunFolder(path)
    for epoch in range(1, epochs + 1):
        folder.append_metrics(epoch, epoch * 10, {"train/a/loss": 0.5}, {})
    return folder


@pytest.mark.parametrize(("epoch", "left"), [(0, []), (2, [1, 2]), (5, [1, 2, 3, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_metrics_are_cut_back_to_an_epoch(tmp_path: Path, epoch: int, left: list[int]) -> None:
    folder = with_epochs(tmp_path, 5)
    folder.cut_metrics(epoch)
    assert lines(tmp_path) == left
    folder.append_metrics(6, 60, {}, {})
    assert lines(tmp_path) == [*left, 6]


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_line_that_a_kill_left_unfinished_goes_whatever_is_left_of_it(tmp_path: Path, cut: int) -> None:
    folder = with_epochs(tmp_path, 3)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole.splitlines()[-1][:cut])
    folder.cut_metrics(3)
    assert path.read_text() == whole


def test_a_last_line_that_only_lacks_its_end_does_not_swallow_the_next(tmp_path: Path) -> None:
    folder = with_epochs(tmp_path, 3)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    folder.cut_metrics(3)
    folder.append_metrics(4, 40, {}, {})
    assert lines(tmp_path) == [1, 2, 3, 4]


def test_without_metrics_there_is_nothing_to_cut(tmp_path: Path) -> None:
    RunFolder(tmp_path).cut_metrics(3)
    assert not list(tmp_path.iterdir())


def test_an_appended_line_is_what_is_returned_and_has_no_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    line = folder.append_metrics(3, 171, {"validation/average": 0.25}, {})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == line
    assert (line["epoch"], line["step"], line["metrics"]) == (3, 171, {"validation/average": 0.25})
    with pytest.raises(ValueError, match="JSON"):
        folder.append_metrics(4, 180, {"x": float("nan")}, {})


def test_status_entries_change_one_by_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.status(state="running", epoch=0, name="naïve")
    folder.status(epoch=3)
    assert folder.read_json("status.json") == {"state": "running", "epoch": 3, "name": "naïve"}


def test_writing_leaves_the_old_content_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_text(path, "old")

    def broken(self: Path, target: Path) -> Path:
        raise OSError("killed before the last step")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="killed"):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_streams_and_targets_come_back_as_they_were(tmp_path: Path) -> None:
    streams = {
        "input": StreamSpec(
            {"numeric": (2,), "categorical": (1,)}, (4,), {"numeric": ("age", "Größe [cm]"), "categorical": ("c",)}
        ),
        "picture": StreamSpec({"image": (1, 8, 8)}),
    }
    targets = {
        "digit": TargetSpec("multiclass", "picture", classes=("0", "1", "„2“"), metric="mcc"),
        "several": TargetSpec(
            "regression", role="auxiliary", columns=("u", "v"), shape=(2,), center=(0.1, 2.0), scale=(1.0, 3.5)
        ),
    }
    split = Split({"input": {"numeric": torch.zeros(1, 2)}}, {}, {})
    folder = RunFolder(tmp_path)
    folder.write_data(Data(dict.fromkeys(("train", "validation", "test"), split), streams, targets, {"rules": 1}, "f00d"))
    assert folder.read_specs() == (streams, targets)
    known = folder.read_json("data.json")
    assert known["preparation"] == {"rules": 1} and known["fingerprint"] == "f00d"
    assert not (tmp_path / "skipped.txt").exists()


def test_what_of_the_data_was_passed_over_is_written_down(tmp_path: Path) -> None:
    parts = dict.fromkeys(("train", "validation", "test"), Split({"input": {"numeric": torch.zeros(1, 2)}}, {}, {}))
    RunFolder(tmp_path).write_data(Data(parts, {}, {}, {}, skipped=("a.csv, line 3: empty", "b.png: truncated")))
    assert (tmp_path / "skipped.txt").read_text() == "a.csv, line 3: empty\nb.png: truncated\n"


def test_a_folder_that_is_none_and_a_file_that_is_broken_have_their_messages(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(UserError, match=r"is no run folder, or not a complete one: data\.json is missing"):
        folder.read_specs()
    (tmp_path / "status.json").write_text('{"state":\n "runn')
    with pytest.raises(UserError, match=r"status\.json: line 2: not JSON"):
        folder.status(state="failed")
    for content in (
        "[" * 100_000,
        "[]",
        "{}",
        '{"streams": {"input": {}}, "targets": {}}',
        '{"streams": {}, "targets": {"a": {"b": 1}}}',
        '{"streams": {}, "targets": {"a": {"kind": "binary", "options": null}}}',
    ):
        (tmp_path / "data.json").write_text(content)
        with pytest.raises(UserError, match=r"data\.json"):
            folder.read_specs()


def test_times_are_utc() -> None:
    time = datetime.fromisoformat(now())
    assert time.utcoffset() is not None and time.utcoffset().total_seconds() == 0  # type: ignore[union-attr]


def test_checkpoints_have_their_places(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.last == tmp_path / "checkpoints" / "last.pt" and folder.best == tmp_path / "checkpoints" / "best.pt"


def test_a_strangers_folder_cannot_allow_its_own_modules(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("allow_modules: [stranger]\nencoder: {_target_: stranger.Encoder}\n")
    with pytest.raises(UserError, match="allow_modules") as caught:
        RunFolder(tmp_path).read_config()
    assert "stranger" in str(caught.value)


def test_text_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    """Columns are called σ1, and tasks and classes have the names that users gave them."""
    code = "import sys; from pathlib import Path; from mtl_runner.folder import write_text; write_text(Path(sys.argv[1]), 'σ1')"
    other = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    subprocess.run(
        [sys.executable, "-c", code.replace("σ", "\\u03c3"), str(tmp_path / "a.csv")], env=os.environ | other, check=True
    )
    assert (tmp_path / "a.csv").read_bytes() == "σ1".encode()


def test_a_table_has_no_negative_zero_and_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_table("sharing/graph.csv", "from, to", ["a", "b"], ["a", "b"], [[-0.0, 0.5], [float("nan"), -2e-9]])
    assert (tmp_path / "sharing" / "graph.csv").read_text().splitlines() == ['"from, to",a,b', "a,0,0.5", "b,,-2e-09"]


def test_seconds_of_training_are_those_of_all_epochs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.train_seconds() == 0
    for epoch in (1, 2):
        folder.append_metrics(epoch, epoch, {}, {"steps": 2.0, "validation": 0.5})
    assert folder.train_seconds() == 5


def test_a_preparation_of_a_kind_that_is_not_known_is_named_and_not_imported() -> None:
    with pytest.raises(UserError, match=r"of a kind 'os'; this version of the program reads .*table"):
        read_preparation({"kind": "os"})
