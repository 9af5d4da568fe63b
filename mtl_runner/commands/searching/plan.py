"""What one command line of ``mtl tune`` searches, the same in each of its processes."""

import multiprocessing
import os
import shutil
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_runner.commands.searching.drawn import CommandLine, Drawn
from mtl_runner.config import check, plug
from mtl_runner.config.plugs import SEARCH, group_problems
from mtl_runner.errors import UserError
from mtl_runner.tuning.base import AVERAGE, Search

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from mtl_runner.run import Watch


@dataclass(frozen=True)
class Plan:
    """What one command line searches; each process makes its own of the same text."""

    line: CommandLine
    base: Drawn

    @classmethod
    def of(cls, config_name: str, config_dir: str | None, overrides: list[str]) -> "Plan":
        line = CommandLine(config_name, config_dir, overrides)
        return cls(line, line())

    @cached_property
    def search(self) -> Search:
        """Raises ``UserError`` with everything that is wrong with its keys."""
        node = dict(self.base.search)
        if not node:
            raise UserError(f"-cn {self.line.config_name}: has no search; its defaults have to name tune instead of config")
        if wrong := [f"{SEARCH}.{key}: is missing; give {SEARCH}.{key}=…" for key, value in node.items() if value == "???"]:
            raise UserError("\n".join(wrong))
        node["name"] = node.get("name") or self.line.config_name
        node["folder"] = node.get("folder") or f"{self.base.task.runs_dir}/tune/{node['name']}"
        if wrong := group_problems(node, SEARCH, self.line.allowed):
            raise UserError("\n".join(wrong))
        search: Search = plug(node, SEARCH, self.line.allowed)()
        return search

    @cached_property
    def study(self) -> "Study":
        from mtl_runner.build.identity import WITHOUT_EFFECT
        from mtl_runner.tuning.study import open_study

        values = {key: value for key, value in self.base.raw.items() if key not in WITHOUT_EFFECT}
        values["trainer"] = {key: value for key, value in values["trainer"].items() if f"trainer.{key}" not in WITHOUT_EFFECT}
        return open_study(self.search, values, self.base.task.trainer.epochs)

    def train(self, drawn: Mapping[str, str], folder: Path, watch: "Watch") -> list[float]:
        """One trial: a run whose folder has everything but a look at the test part."""
        from mtl_runner.build import check_combination, job_hash
        from mtl_runner.folder import Origin, RunFolder
        from mtl_runner.run import run

        composed = self.line(drawn)
        check(composed.task, self.line.allowed)
        check_combination(composed.task)
        typed = [each for each in self.line.overrides if each.lstrip("+~").split("=")[0].split(".")[0] != SEARCH]
        overrides = [*typed, *(f"{key}={value}" for key, value in drawn.items())]
        job = job_hash(composed.task)
        origin = Origin(composed.choices, overrides, sweep=str(self.search.folder), study=self.search.name, job=job)
        folder.mkdir()
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # several trials at once; run.log has it
                run(composed.task, folder, origin, watch, test=False)
        except UserError:
            if not (folder / "status.json").exists():  # it has not begun
                shutil.rmtree(folder)
            raise
        found = RunFolder(folder).read_json("validation_metrics.json")
        tasks = {name: found["tasks"][name][metric] for name, metric in found["primary"].items()}
        values = [found["average"] if name == AVERAGE else tasks[name] for name in self.search.objectives]
        return [float("nan") if value is None else value for value in values]

    def work(self) -> None:
        """Try, in this process, until the study has its trials."""
        from mtl_runner.tuning.trust import usable
        from mtl_runner.tuning.work import work

        parent = multiprocessing.parent_process()
        with usable(self.search):
            work(self.search, self.study, self.train, self._say, lambda: parent is None or parent.is_alive())

    def _say(self, trial: "FrozenTrial") -> None:
        from mtl_runner.tuning import report
        from mtl_runner.tuning.study import REASON, failure

        said = report.state(self.study, trial)
        why = trial.user_attrs.get(REASON) or failure(self.study, trial)
        if trial.values and trial.state.name == "COMPLETE":  # of a pruned one it is the last that was looked at
            said = ", ".join(f"{value:.4f}" for value in trial.values)
        print(f"trial {trial.number}: {said}  {report.drawn(trial)}{f': {why}' if why else ''}", flush=True)
