"""A comparison of groups of runs, as its statistics make it and its report shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

from mtl_runner.analysis.results import Result


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds or folds, and how well it is known."""

    mean: float
    half: float
    """Half of the 95 % interval; NaN with fewer than two values."""
    n: int


@dataclass(frozen=True)
class Paired:
    """A group beside a reference, over the seeds and splits that both have."""

    difference: Estimate
    """Group − reference in units of the metric, the sign turned so that + is better."""
    p: float
    """Of the paired t test, corrected where parts overlap (Nadeau and Bengio 2003); NaN where it cannot be computed."""
    holm: float
    """``p`` after Holm's correction over the family: all groups, tasks and the average beside one reference."""
    wilcoxon: float | None
    """p of Wilcoxon's signed-rank test; None with fewer than six pairs, where it cannot fall below 0.05."""


@dataclass(frozen=True)
class TaskInfo:
    """A task and how it is judged."""

    name: str
    metric: str
    """Its primary metric."""
    higher_is_better: bool
    role: str
    """``main`` or ``auxiliary``."""


@dataclass(frozen=True)
class Group:
    """The runs of one setting, which differ in seeds and splits alone."""

    name: str
    """What differs, in the order of ``Comparison.by``: ``soft dynamic``."""
    settings: Mapping[str, str]
    """The keys that differ: ``{"sharing": "soft", "weighting": "dynamic"}``."""
    runs: tuple[Result, ...]
    scores: Mapping[str, Estimate]
    """By task: the primary metric on the test part."""
    average: Estimate
    """Of the primary metrics of the main tasks."""
    gains: Mapping[str, Estimate]
    """By task: gain over the baseline of the same seeds in %, + is better; empty without a baseline."""
    delta_m: Estimate | None
    """Δm: mean of the gains over the main tasks, in %."""
    rank: float
    """Mean rank over tasks and seeds; 1 is best."""
    seconds: Estimate
    """Time inside training."""
    parameters: float
    against_baseline: Mapping[str, Paired]
    """By task, and ``average``."""
    against_best: Mapping[str, Paired]
    """By task, and ``average``."""
    suffers: tuple[str, ...]
    """Tasks with sure negative transfer: the whole interval of the gain is below 0."""
    is_baseline: bool
    reference: str | None = None
    """The baseline that it is compared with: the one with the same settings otherwise, if there is one."""
    validation: float = nan
    """Mean of the validation averages, by which the best is chosen; NaN of a group that takes no part in the choice."""

    @property
    def n(self) -> int:
        """Seeds or splits with a value: of the average, or of the task that has most where there is no average."""
        return self.average.n or max((score.n for score in self.scores.values()), default=0)


@dataclass(frozen=True)
class Ranking:
    """Whether the groups' ranks differ at all, and by how much two must (Demšar 2006)."""

    friedman_p: float
    critical_difference: float
    """Nemenyi's, at 0.05."""
    blocks: int
    """What was ranked: tasks × seeds."""


@dataclass(frozen=True)
class Finding:
    """One thing that was checked about the fairness of the comparison."""

    fair: bool
    """True: checked and fine. False: a warning."""
    text: str


@dataclass(frozen=True)
class Comparison:
    """All that a report shows."""

    title: str
    by: tuple[str, ...]
    """The keys that differ."""
    tasks: tuple[TaskInfo, ...]
    groups: tuple[Group, ...]
    """The best average first."""
    baseline: Group | None
    best: Group
    """By the validation average, never by test."""
    ranking: Ranking | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """What a reader has to know: ``3 seeds: too few to tell …``."""
    mlflow: str | None
    """The address of MLflow's compare page for these runs, or the command to get there."""
