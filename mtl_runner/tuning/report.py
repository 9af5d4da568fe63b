"""What a study has found, on the terminal and in its folder: ``trials.csv`` and ``figures/``."""

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.markup import escape
from rich.table import Table

from mtl_runner.console import Screen
from mtl_runner.figures.search import Tried, fronts, history, importances
from mtl_runner.folder import write_text
from mtl_runner.tuning.base import Search
from mtl_runner.tuning.study import REASON, counted, failure

MOST = 10
"""Trials in the table."""
_ENOUGH = 4
"""Finished trials without which nothing is said of what mattered."""


def finished(study: Study) -> list[FrozenTrial]:
    """The trials with values, best first; with several objectives in their order."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return trials if len(study.directions) > 1 else sorted(trials, key=lambda trial: -trial.values[0])


def best(study: Study) -> list[FrozenTrial]:
    """The best trial; with several objectives those that none other beats in all of them."""
    return finished(study)[:1] if len(study.directions) == 1 else study.best_trials


def state(study: Study, trial: FrozenTrial) -> str:
    """What became of a trial, in a word or two."""
    if trial.state == TrialState.PRUNED:
        return "not applicable" if REASON in trial.user_attrs else "pruned"
    if trial.state == TrialState.FAIL:
        return "failed" if failure(study, trial) else "interrupted"
    return {TrialState.COMPLETE: "finished"}.get(trial.state, trial.state.name.lower())


def drawn(trial: FrozenTrial) -> str:
    """``sharing=soft optimizer.lr=0.00123``."""
    return " ".join(f"{key}={_short(value)}" for key, value in trial.params.items())


def write(search: Search, study: Study) -> None:
    """``trials.csv`` and the figures."""
    write_text(search.folder / "trials.csv", _csv(search, study))
    figures, wanted = search.folder / "figures", list(search.objectives)
    figures.mkdir(exist_ok=True)
    done, front = counted(study), {trial.number for trial in best(study)}
    tried = [
        Tried(
            each.number,
            each.values or list(each.intermediate_values.values())[-1:],
            each.state != TrialState.COMPLETE,
            each.number in front,
        )
        for each in done
        if each.state == TrialState.COMPLETE or (each.state == TrialState.PRUNED and each.intermediate_values)
    ]
    names = [_named(name) for name in wanted]
    history(tried, names, search.name).savefig(figures / "history.png")
    if shares := _importances(study, names, search.seed):
        importances(shares, search.name).savefig(figures / "importances.png")
    if len(wanted) > 1:
        fronts(tried, names, search.name).savefig(figures / "front.png")


def show(search: Search, study: Study) -> None:
    """A table of the best trials, and how many came to what."""
    several = len(search.objectives) > 1
    trials = best(study) if several else finished(study)[:MOST]
    keys = [key for key in search.space if any(key in trial.params for trial in trials)]
    title = f"{search.name}: {'no trial beats one of these in every objective' if several else 'the best trials'}"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("trial", justify="right")
    for name in search.objectives:
        table.add_column(escape(_named(name)), justify="right")
    for key in keys:
        table.add_column(escape(key), overflow="fold")
    for trial in trials:
        values = [f"{value:.4f}" for value in trial.values]
        table.add_row(str(trial.number), *values, *(escape(_short(trial.params.get(key, "–"))) for key in keys))
    console = Screen()
    if not console.is_terminal:
        console = Screen(width=160)
    console.print(table)
    states = [state(study, trial) for trial in counted(study)]
    console.print(
        f"{len(states)} trials: " + ", ".join(f"{states.count(each)} {each}" for each in dict.fromkeys(states)), highlight=False
    )


def _csv(search: Search, study: Study) -> str:
    trials = study.get_trials(deepcopy=False)
    keys = [key for key in search.space if any(key in trial.params for trial in trials)]
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerow(["trial", "state", *search.objectives, *keys, "epochs", "seconds", "why"])
    for trial in trials:
        values = trial.values or [""] * len(search.objectives)
        seconds = f"{trial.duration.total_seconds():.1f}" if trial.duration else ""
        why = trial.user_attrs.get(REASON) or failure(study, trial) or ""
        row = [trial.number, state(study, trial), *values, *(trial.params.get(key, "") for key in keys)]
        writer.writerow([*row, _epochs(search.folder / str(trial.number)), seconds, why])
    return lines.getvalue()


def _epochs(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text(encoding="utf-8").count("\n") if path.exists() else 0


def _importances(study: Study, names: Sequence[str], seed: int) -> Mapping[str, Mapping[str, float]]:
    """By objective and key, of the keys that every finished trial has; nothing where there are too few trials."""
    trials = finished(study)
    common = set.intersection(*(set(trial.params) for trial in trials)) if trials else set()
    if len(trials) < _ENOUGH or not common:
        return {}
    shares = {}
    for place, name in enumerate(names):
        if len({trial.values[place] for trial in trials}) > 1:
            evaluator = FanovaImportanceEvaluator(seed=seed)
            shares[name] = get_param_importances(study, evaluator=evaluator, target=partial(_value, place))
    return shares


def _value(place: int, trial: FrozenTrial) -> float:
    return float(trial.values[place])


def _named(objective: str) -> str:
    return "validation average" if objective == "average" else objective


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
