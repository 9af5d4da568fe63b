"""Everything that a run needs, made before it writes anything."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mtl_runner import build, checkpoint, labels
from mtl_runner.batch import Data, labelled
from mtl_runner.config import plug
from mtl_runner.console import log, sizes_line
from mtl_runner.errors import UserError
from mtl_runner.folder import RunFolder
from mtl_runner.imbalance.base import Adjuster
from mtl_runner.model import MultiTaskModel
from mtl_runner.predictions import check_names
from mtl_runner.pretrained import Start
from mtl_runner.tracking.base import Tracker
from mtl_runner.training import Training

Node = dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """The objects of a run."""

    data: Data
    model: MultiTaskModel
    training: Training
    adjusters: Mapping[str, Adjuster]
    """What chooses how the outputs of a task are read, by task."""
    tracker: Tracker


def make(node: Node, resumed: RunFolder | None = None) -> Parts:
    """Everything that a run needs, made before anything is written; of one that goes on, as its last checkpoint has it."""
    options = build.trainer_options(node["trainer"])
    build.set_up_torch(options)
    device = build.make_device(options.device)
    data: Data = plug(node["dataset"], "dataset", node["allow_modules"])().load()
    if resumed is not None and data.fingerprint != (known := resumed.read_json("data.json").get("fingerprint")):
        raise UserError(f"resume={resumed.path}: the data are not those that the run was started with (fingerprint {known})")
    data, primary = labels.with_primary_metrics(data) if resumed is None else (_with_metrics_of(data, resumed), [])
    notes = build.check_strategies(node, data.targets, data.streams)
    for line in (*data.notes, *primary, *notes, *_unlabelled(data)):
        log.info("note: %s", line)
    check_names(data.targets)
    start = Start(data, **node["init_from"], encoder=node["encoder"]) if node["init_from"] and resumed is None else None
    model = build.make_model(node, data.streams, data.targets, start.load if start else None, resumed is not None)
    if resumed is None:
        model.sharing.check_labels(data.splits["train"].targets)
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
