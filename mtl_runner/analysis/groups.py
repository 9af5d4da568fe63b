"""Runs into groups, by the settings in which they differ."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mtl_runner.analysis.results import SPLIT_KEYS, Result
from mtl_runner.config import WITHOUT_EFFECT
from mtl_runner.errors import UserError, choices, nearest

NO_DIFFERENCE = (
    *WITHOUT_EFFECT, "seed", *SPLIT_KEYS, "dataset.path", "dataset.test_path", "trainer.deterministic",
    "trainer.log_gradients_every",
)  # fmt: skip
"""Settings that make no group, with all below them: what has no effect, what repeats a run, and what it reads and logs."""
BASELINE = "sharing=none"
_UNUSED = {"sharing": ("none", "weighting")}
"""Where nothing is shared there are no losses to weigh: a choice, and the group of settings that is then without effect."""
_UNSAID = "none"
"""A choice that a name need not say, but of sharing, where it is the baseline."""


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in nothing that makes a group."""

    name: str
    settings: Mapping[str, str]
    """The keys that differ and that it has."""
    runs: tuple[Result, ...] = field(repr=False)


@dataclass(frozen=True)
class Grouping:
    """All of them."""

    by: tuple[str, ...]
    groups: tuple[RunGroup, ...]
    along: tuple[str, ...] = ()
    """Keys that differ as well, and only together with those of ``by``."""


def grouped(runs: Sequence[Result], only: Sequence[str] = ()) -> Grouping:
    """Groups by all settings that differ, or by those of ``only``.

    A chosen option stands for its own keys: ``sharing.strength`` makes groups only where runs with the same sharing differ in it.

    Raises:
        UserError: a key of ``only`` that no run has.
    """
    settings = [_used(run.settings) for run in runs]
    known = list(dict.fromkeys(key for each in settings for key in each))
    for key in only:
        if key not in known:
            allowed = differing(settings) or known
            raise UserError(f"--by {key}: no run has this setting; they differ in {choices(allowed)}{nearest(key, known)}")
    by, along = (list(only), []) if only else _necessary(differing(settings), settings)
    members: dict[tuple[str | None, ...], list[Result]] = {}
    for run, each in zip(runs, settings, strict=True):
        members.setdefault(tuple(each.get(key) for key in by), []).append(run)
    names = _names(by, list(members))
    found = [
        RunGroup(name, {key: value for key, value in zip(by, values, strict=True) if value is not None}, tuple(some))
        for name, (values, some) in zip(names, members.items(), strict=True)
    ]
    return Grouping(tuple(by), tuple(found), tuple(along))


def _used(settings: Mapping[str, str]) -> dict[str, str]:
    """Without what makes no difference."""
    unused = [other for key, (choice, other) in _UNUSED.items() if settings.get(key) == choice]
    without = (*NO_DIFFERENCE, *unused)
    return {
        key: value for key, value in settings.items() if not any(key == name or key.startswith(f"{name}.") for name in without)
    }


def differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys in which runs differ: choices where any two do, others where two runs with the same choice do."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if _differs(key, settings)]


def _differs(key: str, settings: Sequence[Mapping[str, str]]) -> bool:
    root = key.split(".")[0]
    if root == key:
        return len({each[key] for each in settings if key in each}) > 1
    chosen = any(root in each and key in each for each in settings)
    alike: dict[str | None, set[str | None]] = {}
    for each in settings:
        alike.setdefault(each.get(root) if chosen else None, set()).add(each.get(key))
    return any(len(values) > 1 for values in alike.values())


def _necessary(keys: Sequence[str], settings: Sequence[Mapping[str, str]]) -> tuple[list[str], list[str]]:
    """The choices, and of the other keys as few as make the same groups; and those that are left."""
    kept = list(keys)
    for key in reversed([key for key in keys if "." in key]):
        fewer = [other for other in kept if other != key]
        if len(_distinct(fewer, settings)) == len(_distinct(kept, settings)):
            kept = fewer
    return kept, [key for key in keys if key not in kept]


def _distinct(keys: Iterable[str], settings: Sequence[Mapping[str, str]]) -> set[tuple[str | None, ...]]:
    keys = list(keys)
    return {tuple(each.get(key) for key in keys) for each in settings}


def _names(by: Sequence[str], values: Sequence[tuple[str | None, ...]]) -> list[str]:
    """``soft dynamic``, ``soft strength=0.1``; with whole keys where two would be the same."""
    ends = [key.removesuffix("._target_") if key.endswith("._target_") else key.split(".")[-1] for key in by]
    labels = [key if ends.count(end) > 1 else end for key, end in zip(by, ends, strict=True)]
    short = [" ".join(_words(by, labels, row)) or _UNSAID for row in values]
    if len(set(short)) == len(short):
        return short if by else ["all runs"] * len(short)
    return [" ".join(f"{key}={value}" for key, value in zip(by, row, strict=True) if value is not None) for row in values]


def _words(by: Sequence[str], labels: Sequence[str], values: Sequence[str | None]) -> list[str]:
    """A choice is its own word, any other value is said with its key."""
    said = [
        (key, label, value)
        for key, label, value in zip(by, labels, values, strict=True)
        if value is not None and ("." in key or value != _UNSAID or key == "sharing")
    ]
    return [f"{label}={value}" if "." in key else value for key, label, value in said]


def conditions(text: str) -> dict[str, str]:
    """``sharing=none,encoder=mlp`` as a mapping; ``UserError`` where it is not of this form."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not pairs or any(not key or not equals for key, equals, _ in pairs):
        raise UserError(f"--baseline {text}: KEY=VALUE is expected, as in --baseline {BASELINE}")
    return {key: value for key, _, value in pairs}


def baselines(groups: Sequence[RunGroup], wanted: Mapping[str, str]) -> list[RunGroup]:
    """The groups whose runs all have the settings ``wanted``."""
    return [
        group for group in groups if all(run.settings.get(key) == value for run in group.runs for key, value in wanted.items())
    ]


def own_baseline(group: RunGroup, candidates: Sequence[RunGroup], overall: RunGroup, wanted: Iterable[str]) -> RunGroup:
    """The candidate that has ``group``'s settings in everything else that it has itself; ``overall`` where there is none."""
    free = set(wanted)
    for candidate in candidates:
        others = {key: value for key, value in candidate.settings.items() if not {key, key.split(".")[0]} & free}
        if all(group.settings.get(key) == value for key, value in others.items()):
            return candidate
    return overall
