"""What makes a comparison fair, checked from what the runs have written down."""

from collections.abc import Callable, Iterable, Sequence

from mtl_runner.analysis.choice import Choice
from mtl_runner.analysis.comparison import Finding
from mtl_runner.analysis.groups import RunGroup
from mtl_runner.analysis.listing import by_value, listed, quoted
from mtl_runner.analysis.results import Result
from mtl_runner.analysis.tuned import search

_BUDGET = {
    "trainer.epochs": "epochs", "trainer.steps": "steps", "trainer.batch_size": "batch size",
    "trainer.early_stopping.patience": "patience", "trainer.early_stopping.monitor": "monitored",
    "trainer.early_stopping.min_delta": "least improvement",
}  # fmt: skip


def findings(groups: Sequence[RunGroup], baseline: RunGroup | None, choice: Choice) -> tuple[Finding, ...]:
    """Everything that was checked, what is fine as well as what is not."""
    checks: tuple[Callable[[Sequence[RunGroup]], Finding], ...] = (_data, _units, _budget, _metrics, _commit, _test)
    found = [check(groups) for check in checks]
    found.insert(3, search(groups, baseline))
    return (*found, *_choice(groups, choice), *_hosts(groups))


def _data(groups: Sequence[RunGroup]) -> Finding:
    """One fingerprint for each split: it is a hash of all parts."""
    seen: dict[str, set[str]] = {}
    for run in _runs(groups):
        seen.setdefault(run.split, set()).add(run.fingerprint)
    if any("" in prints for prints in seen.values()):
        return Finding(False, "data: not all runs say which data they saw")
    if several := [split for split, prints in seen.items() if len(prints) > 1]:
        return Finding(
            False, f"data: runs of the same split saw different data ({listed(split or 'one split' for split in several)})"
        )
    what = f"{len(seen)} splits, each" if len(seen) > 1 else "one split,"
    return Finding(True, f"data: {what} with the same rows in every group (by fingerprint)")


def _units(groups: Sequence[RunGroup]) -> Finding:
    """The same seeds and splits in each group."""
    everywhere = {group.name: {run.unit for run in group.runs} for group in groups}
    every = set().union(*everywhere.values())
    lacking = [f"{name} lacks {len(every - units)} of {len(every)}" for name, units in everywhere.items() if units != every]
    if lacking:
        return Finding(False, f"seeds: not the same in all groups; pairs are of those that both have ({listed(lacking)})")
    return Finding(True, f"seeds: every group has the same {_counted(every)}")


def _counted(units: Iterable[tuple[int, str]]) -> str:
    units = list(units)
    seeds, splits = len({seed for seed, _ in units}), len({split for _, split in units})
    words = f"{seeds} seed{'s' * (seeds != 1)}"
    return words if splits == 1 else f"{words} and {splits} splits"


def _budget(groups: Sequence[RunGroup]) -> Finding:
    """Epochs or steps, batch size, early stopping; and the epochs of a second phase."""
    differ = []
    for key, words in _BUDGET.items():
        of = {group.name: "/".join(dict.fromkeys(run.settings.get(key, "null") for run in group.runs)) for group in groups}
        if len(set(of.values())) > 1:
            differ.append(f"{words} {by_value(of)}")
    second = {group.name: max(map(_second_phase, group.runs)) for group in groups}
    if len(set(second.values())) > 1:
        most = [quoted(name) for name, epochs in second.items() if epochs == max(second.values())]
        each = by_value({name: str(epochs) for name, epochs in second.items()})
        differ.append(f"epochs of a second phase {each}; {listed(most)} {'has' if len(most) == 1 else 'have'} more")
    if longer := sum(run.extended for run in _runs(groups)):
        differ.append(
            f"{longer} of {len(_runs(groups))} runs began with a smaller one, whose schedule their first epochs followed"
        )
    if differ:
        return Finding(False, f"budget: not the same in all groups: {'; '.join(differ)}")
    settings = groups[0].runs[0].settings
    steps, patience = settings.get("trainer.steps", "null"), settings.get("trainer.early_stopping.patience", "null")
    length = f"{settings.get('trainer.epochs')} epochs" if steps == "null" else f"{steps} steps"
    length += f" and {epochs} of a second phase" if (epochs := max(second.values())) else ""
    early = "no early stopping" if patience == "null" else f"early stopping after {patience} epochs"
    return Finding(True, f"budget: at most {length} of batches of {settings.get('trainer.batch_size')}, {early}, in every group")


def _second_phase(run: Result) -> int:
    """Epochs beside the trainer's: those of ``imbalance.*.epochs``, whatever the strategy is called."""
    found = [value for key, value in run.settings.items() if key.startswith("imbalance.") and key.endswith(".epochs")]
    return sum(int(value) for value in found if value.isdecimal())


def _metrics(groups: Sequence[RunGroup]) -> Finding:
    seen: dict[str, set[str]] = {}
    for run in _runs(groups):
        for task, metric in run.primary.items():
            seen.setdefault(task, set()).add(metric)
    if several := [f"{task}: {', '.join(sorted(metrics))}" for task, metrics in seen.items() if len(metrics) > 1]:
        return Finding(False, f"metrics: runs were chosen by different primary metrics ({listed(several)})")
    return Finding(True, "metrics: every task has the same primary metric in all runs")


def _commit(groups: Sequence[RunGroup]) -> Finding:
    """One commit, of the repository that holds the package; one version, where the package was installed."""
    commits, versions = sorted({run.commit for run in _runs(groups)}), sorted({run.version for run in _runs(groups)})
    if len(known := [version for version in versions if version]) > 1:
        return Finding(False, f"code: several versions ({listed(known)})")
    if commits == [""] and versions == known:
        return Finding(True, f"code: version {known[0]} in all runs, not from a repository")
    short = listed(commit[:10] + "+" * commit.endswith("+") for commit in commits if commit)
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


def _choice(groups: Sequence[RunGroup], choice: Choice) -> list[Finding]:
    """Who takes no part in it, or over what it is made where that is not everything."""
    every = len({run.unit for run in _runs(groups)})
    if choice.left_out:
        has = "has" if len(choice.left_out) == 1 else "have"
        who = f"{listed(map(quoted, choice.left_out))}, which {has} fewer than half of the {choice.most} seeds and splits"
        return [Finding(False, f"choice: the best group is chosen without {who} in common with the others")]
    if 0 < len(choice.units) < every:
        over = f"the {len(choice.units)} of {every} seeds and splits that all groups have"
        return [Finding(True, f"choice: the best group is chosen over {over}")]
    return []


def _hosts(groups: Sequence[RunGroup]) -> list[Finding]:
    hosts = {run.host for run in _runs(groups) if run.host}
    return [Finding(False, f"times: from {len(hosts)} machines, and not to be compared")] if len(hosts) > 1 else []


def _runs(groups: Sequence[RunGroup]) -> list[Result]:
    return [run for group in groups for run in group.runs]
