"""One run: data, model, training, test; everything into its folder."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

from mtl_runner import build, checkpoint, figures, label_table, labels, serving
from mtl_runner.batch import Data, labelled
from mtl_runner.config import TrainerConfig, plug
from mtl_runner.config.schema import plain
from mtl_runner.console import Display, log, logging_to, print_results, print_tree, sizes_line
from mtl_runner.curves import curves, recall_by_class
from mtl_runner.errors import UserError
from mtl_runner.evaluate import Metrics, Report, averages, confusions, measure, predict
from mtl_runner.folder import Origin, RunFolder, now, write_text
from mtl_runner.imbalance.base import Adjuster
from mtl_runner.model import MultiTaskModel
from mtl_runner.predictions import check_names
from mtl_runner.pretrained import Start
from mtl_runner.tasks.group import pack
from mtl_runner.tracking.base import State, Tracker
from mtl_runner.trainer import Trainer
from mtl_runner.training import Training

Node = dict[str, Any]
Watch = Callable[[int, Mapping[str, float]], None]
"""Told of each epoch's metrics once they are written down; it may raise ``Pruned``."""


class Pruned(Exception):
    """A search sees no promise in this run: it ends here, without a look at the test part."""


@dataclass(frozen=True)
class Parts:
    """The objects of a run."""

    data: Data
    model: MultiTaskModel
    training: Training
    adjusters: Mapping[str, Adjuster]
    """What chooses how the outputs of a task are read, by task."""
    tracker: Tracker


def run(config: DictConfig, path: Path, origin: Origin, watch: Watch | None = None) -> float:
    """Train what ``config`` describes, into the folder ``path``; returns the validation average of the restored weights.

    Raises:
        UserError: the configuration or the data cannot be used; nothing but the log is in the folder then.
        Pruned: ``watch`` has ended it.
    """
    node = plain(config)
    folder = RunFolder(path)
    with logging_to(path / "run.log"):
        if node["print_config"]:
            print_tree(node)
        parts = _make(node)
        write_text(path / "config.yaml", OmegaConf.to_yaml(node))
        folder.write_data(parts.data)
        _show_labels(folder, parts.data)
        folder.status(
            state="running", started=now(), ended=None, epoch=0, error=None, name=node["name"], **asdict(origin),
            commit=_commit(), parameters=parts.model.sizes()["total"], **_process(),
        )  # fmt: skip
        checkpoint.save(parts.training.state_dict(), folder.last)
        return _train(node, folder, parts, watch)


def resume(path: Path, epochs: int | None = None, steps: int | None = None, allowed: Sequence[str] = ()) -> float:
    """Go on with the run in ``path``, with a larger budget if one is given; returns as ``run`` does.

    On the CPU it ends with the same weights, bit for bit, as a run that was never interrupted. ``allowed`` are modules of
    one's own that its configuration may name.
    """
    folder = RunFolder(path)
    status = folder.read_json("status.json")
    node = folder.read_config(allowed)
    larger = _enlarge(node["trainer"], epochs, steps)
    if status["state"] == "finished" and not larger:
        raise UserError(f"resume={path}: this run is finished; a larger trainer.epochs or trainer.steps makes it go on")
    with logging_to(path / "run.log"):
        parts = _make(node, folder)
        if larger and parts.training.in_second_phase:
            raise UserError(f"resume={path}: this run is in its second phase, and the budget is that of the first")
        if status["state"] == "finished" and parts.training.stopped_early:
            raise UserError(f"resume={path}: this run stopped early; a larger budget changes nothing")
        folder.cut_metrics(parts.training.number)
        _show_labels(folder, parts.data)
        write_text(path / "config.yaml", OmegaConf.to_yaml(node))
        folder.status(state="running", ended=None, error=None, epoch=parts.training.number, **_process())
        log.info("resuming after epoch %d", parts.training.number)
        return _train(node, folder, parts)


def _make(node: Node, resumed: RunFolder | None = None) -> Parts:
    """Everything that a run needs, made before anything is written; of one that goes on, as its last checkpoint has it."""
    options = build.trainer_options(node["trainer"])
    _set_up_torch(options)
    device = build.make_device(options.device)
    data: Data = plug(node["dataset"], "dataset", node["allow_modules"])().load()
    if resumed is not None and data.fingerprint != (known := resumed.read_json("data.json")["fingerprint"]):
        raise UserError(f"resume={resumed.path}: the data are not those that the run was started with (fingerprint {known})")
    data, primary = labels.with_primary_metrics(data) if resumed is None else (_with_metrics_of(data, resumed), [])
    notes = build.check_strategies(node, data.targets, data.streams)
    for line in (*data.notes, *primary, *notes, *_unlabelled(data)):
        log.info("note: %s", line)
    check_names(data.targets)
    start = Start(data, **node["init_from"], encoder=node["encoder"]) if node["init_from"] and resumed is None else None
    model = build.make_model(node, data.streams, data.targets, start.load if start else None, resumed is not None)
    state = None if resumed is None else checkpoint.load(resumed.last)
    if state is not None:
        for name in state["frozen"]:
            model.get_parameter(name).requires_grad_(False)
    if start is not None:
        log.info(start.line())
    sizes = model.sizes()
    training = build.make_training(node, options, data, model, device)
    log.info("%s on %s", sizes_line(sizes), device)
    if state is not None:
        training.load_state_dict(state)
    adjusters = build.make_adjusters(node, data.targets)
    return Parts(data, model, training, adjusters, plug(node["tracker"], "tracker", node["allow_modules"])())


def _with_metrics_of(data: Data, folder: RunFolder) -> Data:
    """The same data with the primary metrics that a run has trained with: early stopping compares with its scores."""
    _, known = folder.read_specs()
    return replace(data, targets={name: replace(spec, metric=known[name].metric) for name, spec in data.targets.items()})


def _train(node: Node, folder: RunFolder, parts: Parts, watch: Watch | None = None) -> float:
    tracker, training = parts.tracker, parts.training
    tracker.start(folder.path)
    with _ending(folder, tracker):
        wanted = node["trainer"]["progress"]
        with Display(training.epochs, training.steps_per_epoch(), wanted) as display:
            for epoch in training.fit(display.step):
                line = folder.append_metrics(epoch.number, epoch.step, epoch.metrics, epoch.seconds)
                checkpoint.save(training.state_dict(), folder.last)
                folder.status(epoch=epoch.number)
                tracker.log_metrics(line)
                display.epoch(epoch.number, epoch.metrics)
                if epoch.number == 1:
                    _say_undefined(epoch.undefined, parts.data, "validation")
                if watch is not None:
                    watch(epoch.number, epoch.metrics)
        return _finish(folder, parts)


def _finish(folder: RunFolder, parts: Parts) -> float:
    """Best weights, validation average, the one look at the test part, and the files that come of it."""
    model, training = parts.model, parts.training
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
    figures.draw(folder.path)
    _say_undefined(report.undefined(), parts.data, "test")
    print_results(report.metrics, means, model.tasks, "test")
    if parts.tracker.keeps_model:
        serving.package(folder.path, model)
    log.info("run folder: %s", folder.path)
    return float("nan") if validation is None else validation


def _tested(folder: RunFolder, parts: Parts) -> tuple[Report, dict[str, float], float | None]:
    """Metrics of the test part and their averages, written down, and the validation average: with the decisions chosen here."""
    model, training, tasks = parts.model, parts.training, parts.model.tasks
    test = pack(parts.data.splits["test"].to(training.device), model.task_groups)
    outputs = predict(model, test, training.plan.eval_batch_size)
    unadjusted: Metrics = {}
    if parts.adjusters:
        unadjusted = {name: row for name, row in measure(model, outputs, test).metrics.items() if name in parts.adjusters}
        training.adjust(parts.adjusters)
    specs = {task.name: task.spec for task in tasks}
    folder.write_data(replace(parts.data, targets=specs))
    report, validation = measure(model, outputs, test), training.average()
    means = averages(report.metrics, tasks)
    matrices = {
        name: {"classes": list(specs[name].classes), "matrix": matrix}
        for name, matrix in confusions(model, outputs, test).items()
    }
    folder.write_json("confusion.json", matrices)
    folder.write_json("curves.json", curves(model.by_task(outputs), parts.data.splits["test"].targets, specs))
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


def _show_labels(folder: RunFolder, data: Data) -> None:
    """How imbalanced the tasks are, before they are trained."""
    profiles = labels.profile(data)
    write_text(folder.path / "labels.csv", label_table.as_csv(profiles))
    label_table.print_labels(profiles)


@contextmanager
def _ending(folder: RunFolder, tracker: Tracker) -> Iterator[None]:
    """However the run ends, its folder and its tracker are told."""
    state: State = "failed"
    error = None
    try:
        yield
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    except Pruned:
        state = "pruned"
        raise
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
        raise
    finally:
        folder.status(state=state, ended=now(), error=error, train_seconds=folder.train_seconds())
        tracker.finish(state)


def _set_up_torch(options: TrainerConfig) -> None:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if options.deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler: seconds
        torch.use_deterministic_algorithms(options.deterministic)


def _unlabelled(data: Data) -> list[str]:
    """A line for each task that has no label in some part."""
    consequences = {
        "train": "is not trained: its figures are those of random weights",
        "validation": "does not count in early stopping",
        "test": "has no test metrics",
    }
    lines = []
    for name in data.targets:
        absent = [part for part in consequences if not labelled(data.splits[part].targets[name]).any()]
        said = [consequences[part] for part in absent] if len(absent) < len(consequences) else ["is neither trained nor measured"]
        if absent:
            lines.append(f"task {name} has no label in {', '.join(absent)}: it {', '.join(said)}")
    return lines


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


def _say_undefined(undefined: Sequence[str], data: Data, part: str) -> None:
    """Metrics without a value; of a task without any label in the part that was said before."""
    if said := [entry for entry in undefined if entry not in data.targets or labelled(data.splits[part].targets[entry]).any()]:
        log.info("note: undefined on the %s part, and left out: %s", part, ", ".join(said))


def _enlarge(trainer: Node, epochs: int | None, steps: int | None) -> bool:
    """Put a larger budget in place of the run's own; whether there is one."""
    before = dict(trainer)
    budget = "epochs" if trainer["steps"] is None else "steps"  # where both are given, the steps count
    for key, value in (("epochs", epochs), ("steps", steps)):
        if value is None:
            continue
        if key != budget or value < trainer[key]:
            raise UserError(
                f"trainer.{key}={value}: a run is resumed with its own budget or a larger one; it has {budget}: {trainer[budget]}"
            )
        trainer[key] = value
    return trainer != before


def _process() -> Node:
    """Who trains: whether a run that says it is running still does so can be asked of the machine."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _commit() -> str | None:
    """The git commit of the working folder, with ``+`` where files differ from it."""
    git = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]  # a repository's settings run no program
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=2, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=2
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")
