"""What a comparison says in sentences, the same ones in each kind of report."""

from collections.abc import Iterable, Sequence
from math import isfinite

from mtl_runner.analysis.comparison import Comparison, Group
from mtl_runner.analysis.report.columns import differs, shown

_NAMED = 4
"""Groups or tasks that a sentence names."""


def summary(comparison: Comparison) -> list[str]:
    """Which group is best, whether it beats the baseline, which others it cannot be told apart from, and which tasks suffer."""
    best, others = comparison.best, [group for group in comparison.groups if group.name != comparison.best.name]
    average = shown(best.average, 4)
    said = [f"Best by validation: '{best.name}', with a test average of {average} over {_repeats(comparison, [best])}."]
    if best.reference:
        said.append(_beside_baseline(best))
    elif comparison.baseline and others:
        said.append("It is a single-task baseline itself: no sharing was better by validation.")
    close = [group for group in others if differs(group.against_best.get("average")) is False]
    untested = [group for group in others if differs(group.against_best.get("average")) is None]
    if close:
        said.append(f"Its average cannot be told apart from that of {listed(group.name for group in close)} (Holm p ≥ 0.05).")
    if untested:
        said.append(f"Not tested against it, for want of common seeds or of spread: {listed(group.name for group in untested)}.")
    hurt = [f"'{group.name}' in {listed(group.suffers, '')}" for group in comparison.groups if group.suffers]
    if hurt:
        said.append(f"Sure negative transfer: {'; '.join(hurt[:_NAMED])}{_more(len(hurt))}.")
    elif any(isfinite(gain.half) for group in others for gain in group.gains.values()):
        said.append("No group loses surely in any task against the baseline.")
    return said


def _beside_baseline(best: Group) -> str:
    paired, gain = best.against_baseline.get("average"), best.delta_m
    amount = f"Δm = {shown(gain, 2, signed=True)} %" if gain and isfinite(gain.mean) else "no gain in %"
    verdict = differs(paired)
    if paired is None or verdict is None:
        return f"Whether it beats the baseline '{best.reference}' could not be tested; {amount}."
    test = f"{amount} (paired t on the average, Holm {p_is(paired.holm)})"
    if not verdict:
        return f"After Holm's correction it cannot be told apart from the baseline '{best.reference}': {test}."
    return f"It {'beats' if paired.difference.mean > 0 else 'loses to'} the baseline '{best.reference}': {test}."


def legend(comparison: Comparison) -> list[tuple[str, str]]:
    """The marks of the tables, and what each says."""
    found = [("best", "best mean of its column")] if len(comparison.groups) > 1 else []
    if any(differs(paired) is False for group in comparison.groups for paired in group.against_best.values()):
        found.append(("≈", f"cannot be told apart from '{comparison.best.name}', the best by validation (Holm p ≥ 0.05)"))
    if any(group.suffers for group in comparison.groups):
        found.append(
            ("†", "sure negative transfer: the whole 95 % interval of the gain, in % or else in units of the metric, is below 0")
        )
    return found


def spread(comparison: Comparison) -> str:
    """What the intervals are over, by the numbers of values behind them."""
    if all(group.n < 2 for group in comparison.groups):
        return "single runs: there is no interval"
    return f"mean ± half of the 95 % interval over {_repeats(comparison, comparison.groups)}"


def _repeats(comparison: Comparison, groups: Sequence[Group]) -> str:
    """``5 seeds``, ``3 to 5 seeds``, or splits where these differ."""
    counts = sorted({group.n for group in groups})
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{number} {repeat(comparison)}{'s' * (counts[-1] != 1)}"


def repeat(comparison: Comparison) -> str:
    """What is counted: ``seed``, or ``split`` where these differ."""
    return "split" if len({run.split for group in comparison.groups for run in group.runs}) > 1 else "seed"


def gain_of(comparison: Comparison) -> str:
    """What gains are over."""
    references = {group.reference for group in comparison.groups if group.reference}
    over = f"'{references.pop()}'" if len(references) == 1 else "each group's single-task baseline"
    return f"gain over {over}, seed by seed"


def listed(names: Iterable[str], quote: str = "'") -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    return ", ".join(f"{quote}{name}{quote}" for name in names[:_NAMED]) + _more(len(names))


def probability(p: float) -> str:
    """``0.031``, ``< 0.001``; – where it is unknown."""
    return "–" if not isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def p_is(p: float) -> str:
    """``p = 0.031``, ``p < 0.001``."""
    text = probability(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _more(count: int) -> str:
    return f" and {count - _NAMED} more" if count > _NAMED else ""
