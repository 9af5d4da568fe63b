"""``mtl``: the commands around a run."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from standins import Command, Jobs

from mtl_runner.config import config_dir


def test_options_lists_every_option_with_its_description(mtl: Command) -> None:
    out = mtl("options").out
    for file in config_dir().glob("*/*.yaml"):
        comments = [line[2:] for line in file.read_text().splitlines() if line.startswith("# ") and "@package" not in line]
        assert re.search(rf"^  {file.stem} +{re.escape(comments[0])}", out, re.MULTILINE), file
    assert re.search(r"^  adamw .*\(default\)$", out, re.MULTILINE)


def test_options_of_one_group(mtl: Command) -> None:
    out = mtl("options", "sharing").out
    assert out.startswith("sharing\n") and "  soft" in out and "adamw" not in out


def test_options_of_no_group(mtl: Command) -> None:
    result = mtl("options", "sharin")
    assert result.code == 2 and "did you mean 'sharing'?" in result.err


@pytest.mark.parametrize("command", ["mtl", "mtl_run"])
def test_run_forwards_everything_to_hydra(command: str, request: pytest.FixtureRequest, jobs: Jobs) -> None:
    call: Command = request.getfixturevalue(command)
    assert call("run", "-m", "seed=1,2", "sharing=soft").code == 0
    assert [job["config"]["seed"] for job in jobs.calls] == [1, 2]
    assert "to: centroid" in call("run", "sharing=soft", "--cfg", "job").out
    assert "resume=RUN_DIR" in call("run", "--help").out
    assert call("run", "sharing=sofft").code == 2


def test_mtl_run_takes_subcommands(mtl_run: Command) -> None:
    assert "adamw" in mtl_run("options", "optimizer").out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_command(mtl: Command, arguments: list[str]) -> None:
    from mtl_runner.cli import SUBCOMMANDS

    result = mtl(*arguments)
    for name in SUBCOMMANDS:
        assert re.search(rf"^  {name} ", result.out + result.err, re.MULTILINE)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("predictt", "predictt: there is no such command; there are run, tune"),
        ("runn", "(did you mean 'run'?)"),
        ("explain a b", "mtl explain: got unexpected extra argument"),
        ("explain", "mtl explain: missing argument 'RUN'"),
        ("explain x --rows 0", "mtl explain: invalid value for '--rows'"),
        ("explain x --rowz 5", "mtl explain: no such option: --rowz"),
        ("predict x -i there.csv", "mtl predict: missing option '--output' / '-o'"),
        ("ui --port ten", "mtl ui: invalid value for '--port'"),
        ("affinity -k 0", "mtl affinity: invalid value for '--budget' / '-k'"),
        (
            "affinity -cd a -cd b",
            "--config-dir is given more than once: a, b; one is read, others are added by 'hydra.searchpath=[file://b]'",
        ),
        ("tune -cn a -cn b", "--config-name is given more than once"),
        ("study a -cd a --config-dir b", "--config-dir is given more than once"),
        ("tune --sharing=hard", "--sharing=hard: there is no such flag; keys and groups have no dashes: sharing=hard"),
        ("tune -cd", "-cd"),
    ],
)
def test_a_mistake_is_said_in_a_line_or_two(mtl: Command, folder: Path, typed: str, said: str) -> None:
    (folder / "there.csv").touch()
    result = mtl(*typed.split())
    assert result.code == 2 and said in result.err, result.err
    assert result.err.startswith("error: ") and len(result.err.splitlines()) <= 2


def test_predict_evaluate_and_sync_hand_over_what_was_typed(mtl: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mtl_runner.predict
    import mtl_runner.tracking

    calls: list[Any] = []
    monkeypatch.setattr(mtl_runner.predict, "predict", lambda *args: calls.append(args))
    monkeypatch.setattr(mtl_runner.predict, "evaluate", lambda *args, allowed, stream: calls.append((*args, allowed, stream)))
    monkeypatch.setattr(mtl_runner.tracking, "sync", lambda *args: calls.append(args) or "0123")
    (folder / "new.csv").touch()
    assert mtl("predict", "RUN", "--input", "new.csv", "--output", "out.parquet", "--batch-size", "9", "--stream", "s").code == 0
    assert mtl("evaluate", "RUN", "--input", "new.csv", "--allow-module", "mine").code == 0
    assert "0123" in mtl("sync", "RUN").out
    predicted = ("RUN", Path("new.csv"), Path("out.parquet"), 9, [], "s")
    assert calls == [predicted, ("RUN", Path("new.csv"), ["mine"], None), (Path("RUN"),)]


def test_an_input_that_is_not_there(mtl: Command) -> None:
    result = mtl("evaluate", "RUN", "--input", "new.csv")
    assert result.code == 2 and "new.csv" in result.err


def test_ui_without_any_run(mtl: Command, folder: Path) -> None:
    result = mtl("ui")
    assert result.code == 2 and str(folder / "mlflow.db") in result.err
    assert not list(folder.iterdir())


def test_ui_on_a_port_that_is_taken(mtl: Command, folder: Path) -> None:
    (folder / "mlflow.db").touch()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = mtl("ui", "--port", str(port))
    assert result.code == 2 and str(port) in result.err


def test_ui_of_a_server_names_its_address(mtl: Command) -> None:
    assert "http://tracker:5000" in mtl("ui", "--uri", "http://tracker:5000").out


@pytest.mark.slow
def test_ui_answers_and_ends(folder: Path) -> None:
    """Ctrl-C ends the page and every process of it."""
    from mtl_runner.tracking.session import connect

    connect(f"sqlite:///{folder}/mlflow.db", "an experiment")
    command = [sys.executable, "-c", "from mtl_runner.cli import app_main; app_main()", "ui"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as page:
        try:
            assert page.stdout is not None
            line = page.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            assert address, line + page.stdout.read()
            query = urllib.request.Request(
                f"{address[0]}/api/2.0/mlflow/experiments/search", b'{"max_results": 10}', {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(query, timeout=60) as answer:
                assert "an experiment" in answer.read().decode()
        finally:
            os.kill(page.pid, signal.SIGINT)
            assert page.wait(30) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(address[1]))) != 0, "a process of the page is left"
