"""``mtl study NAME``: runs what a study's YAML describes and writes its report beside it."""

import csv
import io
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mtl_runner.analysis.comparison import Comparison
from mtl_runner.analysis.results import Result
from mtl_runner.errors import UserError, choices, nearest

HOME = Path("experiments")
MARKS = ("<!-- written by mtl study -->", "<!-- end -->")


def study(name: str, home: Path, overrides: Sequence[str], sweep: Path | None, output: Path | None) -> int:
    """Runs the jobs of ``home/name.yaml`` that are not finished yet, and writes the report of all of them.

    Args:
        name: of the primary configuration.
        home: its folder.
        overrides: as mtl-run takes them.
        sweep: a sweep of this study that is there already: only the report is written.
        output: the folder of the report; ``home/name`` if omitted.

    Returns:
        The exit code of the sweep: 1 where a job failed. The report is of the others.

    Raises:
        UserError: there is no such study, its configuration is wrong, or none of its jobs is finished.
    """
    file, code = _file(name, home), 0
    if sweep is None:
        from mtl_runner.commands.launch import launch

        homes = [each.partition("=")[2] for each in overrides if each.startswith("runs_dir=")]
        sweep = Path(homes[-1] if homes else "runs") / f"{datetime.now():%Y-%m-%d/%H-%M-%S-%f}"
        where = f"hydra.sweep.dir={sweep}"
        code = launch(["--config-dir", str(home), "--config-name", name, "-m", "skip_finished=true", *overrides, where])
        if code not in (0, 1):
            return code
    from mtl_runner.analysis.mlflow_search import Wanted
    from mtl_runner.commands.compare import compare

    folder = output or home / name
    comparison, files = compare(Wanted(what=(str(sweep),)), (), None, folder, name)
    typed = [each for each in overrides if not each.startswith("data_dir=")]
    flags = ["-cd", str(home)] if home != HOME else []
    flags += ["-o", str(output)] if output else []
    _write(comparison, folder, files, file.read_text(encoding="utf-8"), shlex.join(["mtl", "study", name, *flags, *typed]))
    return code


def _file(name: str, home: Path) -> Path:
    file = home / f"{name}.yaml"
    if not home.is_dir():
        raise UserError(f"study {name}: there is no folder {home.absolute()}; -cd DIR names the one that holds {name}.yaml")
    if not file.is_file():
        known = sorted(path.stem for path in home.glob("*.yaml") if "\n  - tune\n" not in path.read_text(encoding="utf-8"))
        there = f"there are {choices(known)}{nearest(name, known)}" if known else f"there is none in {home}"
        raise UserError(f"study {name}: there is no {file}; {there}")
    return file


def _write(comparison: Comparison, folder: Path, files: Sequence[Path], configuration: str, command: str) -> None:
    """``runs.csv``, and in ``README.md`` between two marks the tables, with all that is needed to have them again."""
    runs = [(group.name, run) for group in comparison.groups for run in group.runs]
    (folder / "runs.csv").write_text(_runs(runs), encoding="utf-8", newline="\n")
    path = folder / "README.md"
    page = path.read_text(encoding="utf-8") if path.exists() else f"# {comparison.title}\n\n{MARKS[0]}\n{MARKS[1]}\n"
    table = (folder / "table.md").read_text(encoding="utf-8").partition("\n")[2]  # without its title, which the page has
    text = _text(comparison, table, [each for each in files if each.suffix == ".svg"], configuration, command)
    path.write_text(_between_marks(page, text), encoding="utf-8", newline="\n")


def _text(comparison: Comparison, table: str, drawn: Sequence[Path], configuration: str, command: str) -> str:
    runs = [run for group in comparison.groups for run in group.runs]
    commits = dict.fromkeys(run.commit or "unknown" for run in runs)
    seeds = sorted({run.seed for run in runs})
    said = [
        f"- command: `{command}`",
        f"- code: {choices(commits)}",
        f"- seeds: {choices(seeds)}; {len(runs)} runs in {len(comparison.groups)} groups, with their ids in [runs.csv](runs.csv)",
        f"- finished {min(run.ended for run in runs)} to {max(run.ended for run in runs)}",
    ]
    figures = "\n\n".join(f"![{path.stem.replace('_', ' ')}](figures/{path.name})" for path in drawn)
    whole = f"<details><summary>Configuration</summary>\n\n```yaml\n{configuration.strip()}\n```\n\n</details>"
    return "\n\n".join(["\n".join(said), table.strip(), figures, whole])


def _between_marks(page: str, text: str) -> str:
    """``page`` with ``text`` between its marks; at its end where it has none."""
    before, _, rest = page.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    return f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after or chr(10)}"


def _runs(runs: Sequence[tuple[str, Result]]) -> str:
    """A line for each run: what it is, where it was tracked, and its figures on the test part."""
    out = io.StringIO()
    tasks = list(dict.fromkeys(task for _, run in runs for task in run.primary))
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["group", "seed", "split", "run", "job", "commit", "ended", "average", *tasks])
    for group, run in runs:
        scores = [run.scores.get(task, {}).get(run.primary.get(task, "")) for task in tasks]
        figures = ["" if value is None or value != value else f"{value:.6g}" for value in (run.average, *scores)]
        writer.writerow([group, run.seed, run.split, run.id, run.job, run.commit, run.ended, *figures])
    return out.getvalue()
