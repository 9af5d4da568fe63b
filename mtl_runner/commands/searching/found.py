"""What a search has found: on the terminal, and as configurations to run."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from mtl_runner.commands.searching.drawn import CommandLine, Drawn
from mtl_runner.commands.searching.plan import Plan
from mtl_runner.config import WITHOUT_EFFECT
from mtl_runner.config.schema import plain
from mtl_runner.errors import UserError
from mtl_runner.folder import write_text
from mtl_runner.tuning.best import primary, removed
from mtl_runner.tuning.space import Space

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def report(plan: Plan) -> int:
    """Writes and shows everything; returns the exit code, 1 where trials are missing that no ``timeout`` has left out."""
    from mtl_runner.tuning import report
    from mtl_runner.tuning.study import REASON, counted, failure, leave_claims, under_way

    search, others = plan.search, under_way(plan.study, plan.search.folder)
    leave_claims(search.folder)
    done = counted(plan.study)
    report.write(search, plan.study)
    if not (best := report.best(plan.study)):
        reasons = (each.user_attrs.get(REASON) or failure(plan.study, each) for each in done)
        why = next(filter(None, reasons), "all were pruned" if done else "the time was over before")
        raise UserError(f"study {search.name}: none of {len(done)} trials has a value; {search.folder / 'trials.csv'} ({why})")
    report.show(search, plan.study)
    paths = _write_configurations(plan, best, len(done))
    shown = ", ".join(map(_shown, paths[:5])) + " …" * (len(paths) > 5)
    print(f"{'the front' if len(paths) > 1 else 'the best'}: {shown}")
    print(f"  mtl-run -cd {_shown(paths[0].parent)} -cn {paths[0].stem} -m 'seed=range(5)'")
    print(f"figures and trials.csv: {_shown(search.folder)}")
    if others:
        print(f"{others} of {search.trials} trials are still under way in another process, which will report on all")
    if (missing := search.trials - len(done) - others) > 0:
        print(f"{missing} of {search.trials} trials are missing; the same command goes on with the study", file=sys.stderr)
    return int(missing > 0 and search.timeout is None)


def _write_configurations(plan: Plan, trials: "list[FrozenTrial]", done: int) -> list[Path]:
    """``best.yaml``, or with several objectives ``front/NUMBER.yaml`` for each of ``trials``."""
    folder, project = plan.search.folder, CommandLine("config", plan.line.config_dir, [])
    usual = project().choices
    if len(plan.search.objectives) == 1:
        paths = {folder / "best.yaml": trials[0]}
    else:
        for old in (folder / "front").glob("*.yaml"):
            old.unlink()
        paths = {folder / "front" / f"{trial.number}.yaml": trial for trial in trials}
    for path, trial in paths.items():
        searched = Space(plan.search.space).drawn(trial.params)
        drawn = plan.line(searched)
        chosen = {group: option for group, option in drawn.choices.items() if usual.get(group) != option}
        defaults = project({group: f"[{option}]" if "," in option else option for group, option in chosen.items()}).raw
        comments = _comments(plan, trial, path, done, removed(drawn.raw, defaults))
        tuned = {"tuned": {"study": plan.search.name, "trials": done, **_found(drawn, searched)}}
        searchpath = [f"file://{Path(project.config_dir).absolute()}"] if project.config_dir else []
        write_text(path, primary(comments, chosen, {**drawn.raw, **tuned}, defaults, searchpath))
    return list(paths)


def _found(drawn: Drawn, searched: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The searched keys with their values, and the options that they were found with: what a run has to keep to be tuned."""
    values = OmegaConf.create(plain(drawn.task))
    found = {key: OmegaConf.select(values, key) for key in searched if key not in drawn.choices}
    choices = {group: option for group, option in drawn.choices.items() if group not in WITHOUT_EFFECT}
    return {"found": plain(OmegaConf.create(found)), "choices": choices}


def _comments(plan: Plan, trial: "FrozenTrial", path: Path, done: int, lost: list[str]) -> list[str]:
    """What a configuration is, and how it is run; what it cannot leave out by itself, the command line does."""
    objectives = zip(plan.search.objectives, trial.values, strict=True)
    values = ", ".join(f"{name} {value:.4f}" for name, value in objectives)
    without = "".join(f"'~{key}' " for key in lost)
    return [
        f"Trial {trial.number} of the {done} of the search {plan.search.name}: {values} on the validation part.",
        f"  mtl-run -cd {_shown(path.parent)} -cn {path.stem} {without}-m 'seed=range(5)'",
    ]


def _shown(path: Path) -> str:
    """From here, where that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
