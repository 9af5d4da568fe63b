"""``mtl-run resume=RUN_DIR``: goes on with a run, in its own folder and with its own configuration."""

from collections.abc import Sequence
from pathlib import Path

from mtl_runner.commands.allowed import allowed_modules
from mtl_runner.commands.lock import only_here
from mtl_runner.errors import UserError

BUDGET = ("trainer.epochs", "trainer.steps")


def resume(arguments: Sequence[str]) -> int:
    """Goes on with the run named in ``resume=…``; returns the exit code."""
    folder: Path | None = None
    budget: dict[str, int] = {}
    allowed: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key == "resume" and equals:
            folder = _run_folder(value)
        elif key in BUDGET:
            budget[key.rpartition(".")[2]] = _number(argument, value)
        elif key == "allow_modules":
            allowed = allowed_modules([argument])
        else:
            raise UserError(f"{argument}: a run is resumed as it was; only a larger budget may go with it: {' or '.join(BUDGET)}")
    assert folder is not None
    from mtl_runner import run

    try:
        with only_here(folder):
            if budget:
                _note_budget(folder, allowed)
            run.resume(folder, epochs=budget.get("epochs"), steps=budget.get("steps"), allowed=allowed)
    except KeyboardInterrupt:
        from mtl_runner.commands.job import say_how_to_go_on

        say_how_to_go_on(folder)
        return 130
    return 0


def _note_budget(folder: Path, allowed: Sequence[str]) -> None:
    """Keeps in ``status.json`` what the schedule of the first epochs was planned for, where it depends on that."""
    from mtl_runner.build.identity import paced
    from mtl_runner.folder import RunFolder

    run = RunFolder(folder)
    if paced(node := run.read_config(allowed)) and "planned" not in run.read_json("status.json"):
        run.status(planned={key: node["trainer"][key] for key in ("epochs", "steps")})


def _run_folder(typed: str) -> Path:
    folder = Path(typed.strip("'\"")).expanduser()
    if not folder.is_dir():
        raise UserError(f"resume={typed}: there is no such folder")
    if not (folder / "config.yaml").is_file():
        raise UserError(f"resume={typed}: is no run folder; a run folder holds config.yaml and checkpoints/")
    return folder.absolute()  # as the folder of a new run is


def _number(argument: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise UserError(f"{argument}: a whole number of at least 1 is expected")
    return int(value)
