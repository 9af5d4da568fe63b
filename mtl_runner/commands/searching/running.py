"""A search from its command line to its results: checked, run in one process or several, reported."""

import multiprocessing
import sys

from mtl_runner.commands.composed import prepare_tracking
from mtl_runner.commands.searching.found import report
from mtl_runner.commands.searching.plan import Plan
from mtl_runner.commands.searching.space_check import space_problems
from mtl_runner.commands.sweeping.orders import threads
from mtl_runner.config import check, plug
from mtl_runner.config.schema import plain
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.tuning.base import AVERAGE
from mtl_runner.tuning.space import Space


def search(config_name: str, folder: str | None, overrides: list[str]) -> int:
    """Search, and report; returns the exit code."""
    plan = Plan.of(config_name, folder, overrides)
    _check(plan)
    found = plan.search
    if not plan.study.get_trials(deepcopy=False) and any(found.folder.glob("[0-9]*")):
        raise UserError(f"{found.folder}: holds trials that are in no database; delete it, or take another search.name")
    print(f"study {found.name}: {', '.join(found.objectives)} of the validation part; {found.folder}", flush=True)
    prepare_tracking([plan.base.whole], plan.line.allowed)
    try:
        plan.work() if found.processes == 1 else _work_together((config_name, folder, overrides), found.processes)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with the study", file=sys.stderr)
        return 130
    return report(plan)


def _check(plan: Plan) -> None:
    """Everything that can be seen before a trial begins."""
    space = Space(plan.search.space)
    if lines := space_problems(space, plan.line):
        raise UserError("\n".join(lines))
    base = plan.base.task
    check(base, plan.line.allowed)
    tasks = plug(plain(base)["dataset"], "dataset", plan.line.allowed)().load().targets
    for name in plan.search.objectives:
        if name not in (AVERAGE, *tasks):
            known = [AVERAGE, *tasks]
            raise UserError(f"search.objectives: there is no task {name}; choose from {choices(known)}{nearest(name, known)}")


def _work_together(command: tuple[str, str | None, list[str]], processes: int) -> None:
    """As many processes of their own as asked for, which share the cores; one that is killed leaves the others running."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_worker, args=(*command, threads(processes))) for _ in range(processes)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:  # the terminal tells the workers as well
        for worker in workers:
            worker.join(10)
            worker.terminate()
        raise


def _worker(config_name: str, folder: str | None, overrides: list[str], share: int) -> None:
    try:
        import torch

        torch.set_num_threads(share)
        Plan.of(config_name, folder, overrides).work()
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        sys.exit(f"error: {error}")
