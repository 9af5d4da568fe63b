"""What a run leaves when its training is over."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from safetensors.torch import save_file

from mtl_runner import checkpoint, figures, serving
from mtl_runner.batch import Data, labelled
from mtl_runner.console import log, print_results
from mtl_runner.curves import curves, recall_by_class
from mtl_runner.evaluate import Metrics, Report, averages, measured
from mtl_runner.folder import RunFolder
from mtl_runner.parts import Parts
from mtl_runner.tasks.group import pack
from mtl_runner.trainer import Trainer


def finish(folder: RunFolder, parts: Parts, trained: Callable[[], None] | None = None) -> float:
    """Best weights, validation average, the one look at the test part, and the files that come of it.

    ``trained`` is called first where another run fits beside it, which has its data to read before it trains.
    """
    model, training = parts.model, parts.training
    if trained is not None and training.device.type == "cpu" and _leaves_room():
        trained()
    training.restore_best()
    for trainer in training.all_trainers:
        log.info(_kept(trainer))
    checkpoint.save(model.state_dict(), folder.best)
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if not name.endswith("_extra_state")}
    save_file(weights, folder.path / "weights.safetensors")
    report, means, validation = _tested(folder, parts)
    if (gradients := training.gradients()) is not None:
        folder.write_json("gradients.json", gradients)
    for name, table in model.sharing.tables().items():
        folder.write_table(
            f"sharing/{figures.file_name(name)}.csv", table.title, table.rows, table.columns, table.values.tolist()
        )
    say_undefined(report.undefined(), parts.data, "test")
    print_results(report.metrics, means, model.tasks, "test")
    log.info("run folder: %s", folder.path)
    figures.draw(folder.path)
    if parts.tracker.keeps_model:
        serving.package(folder.path, model)
    return float("nan") if validation is None else validation


def _leaves_room() -> bool:
    """Whether this process has never had more than a quarter of the machine's memory."""
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 4 * peak < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _tested(folder: RunFolder, parts: Parts) -> tuple[Report, dict[str, float], float | None]:
    """Metrics of the test part and their averages, written down, and the validation average: with the decisions chosen here."""
    model, training, tasks = parts.model, parts.training, parts.model.tasks
    folder.status(test_reads=folder.read_json("status.json").get("test_reads", 0) + 1)
    test = pack(parts.data.splits["test"].to(training.device), model.task_groups)
    seen = measured(model, test, training.plan.eval_batch_size)
    unadjusted: Metrics = {}
    if parts.adjusters:
        unadjusted = {name: row for name, row in seen.report().metrics.items() if name in parts.adjusters}
        training.adjust(parts.adjusters)
    specs = {task.name: task.spec for task in tasks}
    folder.write_data(replace(parts.data, targets=specs))
    report, validation = seen.report(), training.average()
    means = averages(report.metrics, tasks)
    matrices = {name: {"classes": list(specs[name].classes), "matrix": matrix} for name, matrix in seen.confusions().items()}
    folder.write_json("confusion.json", matrices)
    folder.write_json("curves.json", curves(model.by_task(seen.outputs), parts.data.splits["test"].targets, specs))
    folder.write_json(
        "test_metrics.json",
        {
            "tasks": _rows(report.metrics),
            "unadjusted": _rows(unadjusted),
            "recall": recall_by_class(matrices),
            "average": means,
            "primary": {task.name: task.primary.name for task in tasks},
            "undefined": report.undefined(),
            "validation_average": validation,
            "best_epoch": {_whose(trainer): trainer.learner.stopping.best_epoch for trainer in training.all_trainers},
        },
    )
    return report, means, validation


def validated(folder: RunFolder, parts: Parts) -> float:
    """Best weights and their validation metrics, written down: all that a search looks at."""
    training, tasks = parts.training, parts.model.tasks
    training.restore_best()
    for trainer in training.all_trainers:
        log.info(_kept(trainer))
    if parts.adjusters:
        training.adjust(parts.adjusters)
    report, average = training.validate(), training.average()
    folder.write_json(
        "validation_metrics.json",
        {
            "tasks": _rows(report.metrics),
            "average": average,
            "primary": {task.name: task.primary.name for task in tasks},
            "best_epoch": {_whose(trainer): trainer.learner.stopping.best_epoch for trainer in training.all_trainers},
        },
    )
    return float("nan") if average is None else average


def _whose(trainer: Trainer) -> str:
    """``a,b``, and ``second phase: a,b``."""
    return "second phase: " * bool(trainer.plan.start) + ",".join(trainer.names)


def _kept(trainer: Trainer) -> str:
    """Which epoch's weights are kept, and whether training stopped before its budget was used up."""
    stopping, done = trainer.learner.stopping, trainer.progress.epoch
    whose = f"{_whose(trainer)}: " if trainer.plan.start or len(trainer.learner.network.modules) > 1 else ""
    score = "" if stopping.best is None else f" (score {stopping.best:.4f})"
    early = f"; stopped early, after {stopping.waited} epochs without a better one" if stopping.done else ""
    return f"{whose}weights of epoch {stopping.best_epoch} of {done} kept{score}{early}"


def _rows(metrics: Metrics) -> dict[str, dict[str, float | None]]:
    """For JSON, which knows no NaN."""
    return {name: {key: None if value != value else value for key, value in row.items()} for name, row in metrics.items()}


def say_undefined(undefined: Sequence[str], data: Data, part: str) -> None:
    """Metrics without a value; of a task without any label in the part that was said before."""
    if said := [entry for entry in undefined if entry not in data.targets or labelled(data.splits[part].targets[entry]).any()]:
        log.info("note: undefined on the %s part, and left out: %s", part, ", ".join(said))
