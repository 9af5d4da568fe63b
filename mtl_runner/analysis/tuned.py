"""Who was tuned: whether a run is still what a search has found."""

from collections.abc import Mapping, Sequence

from mtl_runner.analysis.comparison import Finding
from mtl_runner.analysis.groups import RunGroup
from mtl_runner.analysis.listing import by_value, listed
from mtl_runner.analysis.results import Result, leaves, said

UNKNOWN = "unknown"


def search(groups: Sequence[RunGroup], baseline: RunGroup | None) -> Finding:
    """Who was searched for how long, the baseline before all."""
    of = {group.name: "/".join(dict.fromkeys(trials(run) for run in group.runs)) for group in groups}
    runs, wrong = [run for group in groups for run in group.runs], []
    if others := _changed(groups):
        wrong.append(f"changed after the search: {others}")
    if unknown := sum(trials(run) == UNKNOWN for run in runs):
        wrong.append(f"{unknown} of {len(runs)} runs do not say what the search found, which they may have been changed since")
    if len(set(of.values())) > 1:
        untuned = "the baseline was not tuned, others were: " if baseline and of[baseline.name] == "0" else ""
        wrong.append(f"not the same in all groups: {untuned}trials {by_value(of)}")
    if wrong:
        return Finding(False, f"search: {'; '.join(wrong)}")
    if (count := next(iter(of.values()))) == "0":
        return Finding(True, "search: no group was tuned, the baseline neither" if baseline else "search: no group was tuned")
    return Finding(True, f"search: every group was tuned over {count} trials{', the baseline too' if baseline else ''}")


def _changed(groups: Sequence[RunGroup]) -> str:
    """``sharing (none), optimizer.lr (hard, soft)``."""
    names: dict[str, list[str]] = {}
    for group in groups:
        for key in dict.fromkeys(key for run in group.runs for key in changed(run)):
            names.setdefault(key, []).append(group.name)
    return listed(f"{key} ({listed(some)})" for key, some in names.items())


def trials(run: Result) -> str:
    """Of the search that found the run's settings: ``0`` without one or where they were changed since, or ``unknown``.

    Searches of the first version wrote down no more than their name and trials.
    """
    if not run.tuned or changed(run):
        return "0"
    return said(run.tuned.get("trials", "?")) if isinstance(run.tuned.get("found"), Mapping) else UNKNOWN


def changed(run: Result) -> list[str]:
    """The searched keys and the chosen options that are not those of the search; of another option only the choice."""
    tuned = run.tuned or {}
    chosen = _texts(tuned.get("choices"))
    other = [group for group, option in chosen.items() if run.settings.get(group) != option]
    found = {key: value for key, value in _texts(tuned.get("found")).items() if key.split(".")[0] not in other}
    return other + [key for key, value in found.items() if run.settings.get(key) != value]


def _texts(values: object) -> dict[str, str]:
    """Flat, as the settings of a run are."""
    known = values.items() if isinstance(values, Mapping) else ()
    return {said(name): said(text) for key, value in known for name, text in leaves(value, str(key))}
