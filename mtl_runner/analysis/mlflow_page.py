"""A comparison in MLflow: the address of its own compare page for the same runs, and the report beside them."""

import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from mtl_runner.analysis.results import Result
from mtl_runner.tracking.sender import reason
from mtl_runner.tracking.uri import database, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

PORT = 5000
TAG = "mtl.comparison"
"""Marks the run that holds a report; it is no run of an experiment and has no run folder."""


def page(runs: Sequence[Result], uri: str | None = None) -> str | None:
    """The address of MLflow's compare page for those of ``runs`` that the tracker ``uri`` has (None: as ``resolve``).

    Where the tracker is a file, the command that serves it, and the address below. None where MLflow has none of them or
    does not answer.
    """
    place = _place(runs, uri)
    if place is None:
        return None
    tracked = [run.tracked for run in runs if run.tracked and run.tracked.run_id and run.tracked.uri == place]
    with _unless_away(place):
        client = _client(place)
        names = dict.fromkeys(each.experiment for each in tracked)
        experiments = [found.experiment_id for name in names if (found := client.get_experiment_by_name(name))]
        route = address([str(each.run_id) for each in tracked], experiments)
        if (file := database(place)) is None:
            return place + route
        here = "" if resolve(None) == place else f" --uri {shlex.quote(f'sqlite:///{file}')}"
        return f"mtl ui --port {PORT}{here}\nhttp://127.0.0.1:{PORT}{route}"
    return None


def address(runs: Sequence[str], experiments: Sequence[str]) -> str:
    """The route of MLflow 3's compare page: two lists as JSON, behind the mark that stays in the browser.

    ``workflowType`` keeps the page's side bar that of training runs.
    """
    values = {"runs": runs, "experiments": experiments}
    lists = "&".join(f"{name}={quote(json.dumps(list(value)))}" for name, value in values.items())
    return f"/#/compare-runs?{lists}&workflowType=machine_learning"


def log(folder: Path, name: str, runs: Sequence[Result], uri: str | None = None) -> str | None:
    """The files of ``folder`` as artifacts of a run named ``comparison`` in the experiment of ``runs``; its identifier.

    The comparison of the same name replaces its earlier files. None where MLflow has none of the runs or does not answer.
    """
    place = _place(runs, uri)
    if place is None:
        return None
    with _unless_away(place):
        client = _client(place)
        experiment = next(run.tracked.experiment for run in runs if run.tracked and run.tracked.uri == place)
        if (found := client.get_experiment_by_name(experiment)) is None:
            return None
        key = blake2b(name.encode(), digest_size=8).hexdigest()
        where, tags = found.experiment_id, {TAG: key, "compared": name}
        known = client.search_runs([where], f"tags.`{TAG}` = '{key}'", max_results=1)
        run = known[0] if known else client.create_run(where, run_name="comparison", tags=tags)
        client.log_artifacts(run.info.run_id, str(folder))
        client.set_terminated(run.info.run_id)
        return str(run.info.run_id)
    return None


def _place(runs: Sequence[Result], uri: str | None) -> str | None:
    """The user's tracker, if it is there and has some of the runs; one that only a run folder names may be a stranger's."""
    place = resolve(uri)
    file = database(place)
    there = any(run.tracked and run.tracked.run_id and run.tracked.uri == place for run in runs)
    return place if there and (file is None or file.exists()) else None


def _client(place: str) -> "MlflowClient":
    from mtl_runner.tracking.session import silent_client

    return silent_client(place)


@contextmanager
def _unless_away(place: str) -> Iterator[None]:
    """A comparison is complete without MLflow: what goes wrong there is said, and no more."""
    from mtl_runner.tracking.session import hurry

    try:
        with hurry():
            yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the report is there
        _log.warning("MLflow at %s: %s", place, reason(error))
