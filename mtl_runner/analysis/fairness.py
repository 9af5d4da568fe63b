"""What makes a comparison fair, checked from what the runs have written down."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from mtl_runner.analysis.comparison import Finding
from mtl_runner.analysis.groups import RunGroup
from mtl_runner.analysis.results import Result

_BUDGET = {
    "trainer.epochs": "epochs", "trainer.steps": "steps", "trainer.batch_size": "batch size",
    "trainer.early_stopping.patience": "patience", "trainer.early_stopping.monitor": "monitored",
    "trainer.early_stopping.min_delta": "least improvement",
}  # fmt: skip
_NAMED = 4


def findings(groups: Sequence[RunGroup], baseline: RunGroup | None) -> tuple[Finding, ...]:
    """Everything that was checked, what is fine as well as what is not."""
    checks: tuple[Callable[[Sequence[RunGroup]], Finding], ...] = (_data, _units, _budget, _metrics, _commit, _test)
    found = [check(groups) for check in checks]
    found.insert(3, _search(groups, baseline))
    return (*found, *_hosts(groups))


def _data(groups: Sequence[RunGroup]) -> Finding:
    """One fingerprint for each split: it is a hash of all parts."""
    seen: dict[str, set[str]] = {}
    for run in _runs(groups):
        seen.setdefault(run.split, set()).add(run.fingerprint)
    if any("" in prints for prints in seen.values()):
        return Finding(False, "data: not all runs say which data they saw")
    if several := [split for split, prints in seen.items() if len(prints) > 1]:
        return Finding(
            False, f"data: runs of the same split saw different data ({_listed(split or 'one split' for split in several)})"
        )
    what = f"{len(seen)} splits, each" if len(seen) > 1 else "one split,"
    return Finding(True, f"data: {what} with the same rows in every group (by fingerprint)")


def _units(groups: Sequence[RunGroup]) -> Finding:
    """The same seeds and splits in each group."""
    everywhere = {group.name: {run.unit for run in group.runs} for group in groups}
    every = set().union(*everywhere.values())
    lacking = [f"{name} lacks {len(every - units)} of {len(every)}" for name, units in everywhere.items() if units != every]
    if lacking:
        return Finding(False, f"seeds: not the same in all groups; pairs are of those that both have ({_listed(lacking)})")
    return Finding(True, f"seeds: every group has the same {_counted(every)}")


def _counted(units: Iterable[tuple[int, str]]) -> str:
    units = list(units)
    seeds, splits = len({seed for seed, _ in units}), len({split for _, split in units})
    words = f"{seeds} seed{'s' * (seeds != 1)}"
    return words if splits == 1 else f"{words} and {splits} splits"


def _budget(groups: Sequence[RunGroup]) -> Finding:
    """Epochs or steps, batch size, early stopping."""
    differ = []
    for key, words in _BUDGET.items():
        of = {group.name: "/".join(dict.fromkeys(run.settings.get(key, "null") for run in group.runs)) for group in groups}
        if len(set(of.values())) > 1:
            differ.append(f"{words} {_by_value(of)}")
    if differ:
        return Finding(False, f"budget: not the same in all groups: {'; '.join(differ)}")
    settings = groups[0].runs[0].settings
    steps, patience = settings.get("trainer.steps", "null"), settings.get("trainer.early_stopping.patience", "null")
    length = f"{settings.get('trainer.epochs')} epochs" if steps == "null" else f"{steps} steps"
    early = "no early stopping" if patience == "null" else f"early stopping after {patience} epochs"
    return Finding(True, f"budget: at most {length} of batches of {settings.get('trainer.batch_size')}, {early}, in every group")


def _search(groups: Sequence[RunGroup], baseline: RunGroup | None) -> Finding:
    """Who was searched for how long, the baseline before all."""
    of = {group.name: "/".join(dict.fromkeys(_trials(run) for run in group.runs)) for group in groups}
    if set(of.values()) == {"0"}:
        return Finding(True, "search: no group was tuned, the baseline neither" if baseline else "search: no group was tuned")
    if len(set(of.values())) == 1:
        trials = next(iter(of.values()))
        return Finding(True, f"search: every group was tuned over {trials} trials{', the baseline too' if baseline else ''}")
    untuned = "the baseline was not tuned, others were: " if baseline and of[baseline.name] == "0" else ""
    return Finding(False, f"search: not the same in all groups: {untuned}trials {_by_value(of)}")


def _trials(run: Result) -> str:
    return str(run.tuned.get("trials", "?")) if run.tuned else "0"


def _metrics(groups: Sequence[RunGroup]) -> Finding:
    seen: dict[str, set[str]] = {}
    for run in _runs(groups):
        for task, metric in run.primary.items():
            seen.setdefault(task, set()).add(metric)
    if several := [f"{task}: {', '.join(sorted(metrics))}" for task, metrics in seen.items() if len(metrics) > 1]:
        return Finding(False, f"metrics: runs were chosen by different primary metrics ({_listed(several)})")
    return Finding(True, "metrics: every task has the same primary metric in all runs")


def _commit(groups: Sequence[RunGroup]) -> Finding:
    commits = sorted({run.commit for run in _runs(groups)})
    short = _listed(commit[:10] + "+" * commit.endswith("+") for commit in commits if commit)
    if "" in commits:
        return Finding(False, f"code: {'not all runs say' if short else 'no run says'} which commit it was")
    if any(commit.endswith("+") for commit in commits):
        return Finding(False, f"code: files differed from the commit ({short}; + marks it)")
    return Finding(len(commits) == 1, f"code: {'one commit' if len(commits) == 1 else 'several commits'} ({short})")


def _test(groups: Sequence[RunGroup]) -> Finding:
    """Each run counts its looks; one that is resumed with a larger budget after its end looks again."""
    runs, chosen = _runs(groups), "the best group is chosen by the validation average"
    if again := sum(run.looks is not None and run.looks > 1 for run in runs):
        return Finding(False, f"test: read more than once in {again} of {len(runs)} runs that went on after their end; {chosen}")
    if unknown := sum(run.looks is None for run in runs):
        return Finding(False, f"test: {unknown} of {len(runs)} runs do not say how often they read it; {chosen}")
    return Finding(True, f"test: read once in each run, after training; {chosen}")


def _hosts(groups: Sequence[RunGroup]) -> list[Finding]:
    hosts = {run.host for run in _runs(groups) if run.host}
    return [Finding(False, f"times: from {len(hosts)} machines, and not to be compared")] if len(hosts) > 1 else []


def _runs(groups: Sequence[RunGroup]) -> list[Result]:
    return [run for group in groups for run in group.runs]


def _by_value(of: Mapping[str, str]) -> str:
    """``30 (hard, soft), 60 (none)``."""
    names: dict[str, list[str]] = {}
    for name, value in of.items():
        names.setdefault(value, []).append(name)
    return ", ".join(f"{value} ({_listed(some)})" for value, some in names.items())


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
