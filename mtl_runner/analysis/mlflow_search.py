"""The runs that MLflow knows of, with the files that a comparison reads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_runner.analysis import results
from mtl_runner.analysis.results import Result
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.tracking import locate, record
from mtl_runner.tracking.journal import Journal
from mtl_runner.tracking.sender import reason
from mtl_runner.tracking.uri import database, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TRIAL = "trial"
"""The state of a trial of a search that is finished: a run that never sees the test part."""
TRIAL_FILE = "validation_metrics.json"
"""What it has in place of test metrics."""
_PAGE = 1000


@dataclass(frozen=True)
class Wanted:
    """What is to be compared; the newest sweep below ``runs/`` where nothing is said."""

    what: tuple[str, ...] = ()
    """Folders of runs or of sweeps, identifiers of MLflow runs, or tags of sweeps."""
    experiment: str | None = None
    sweep: str | None = None
    study: str | None = None
    filter: str | None = None
    """As MLflow's own search takes it."""
    uri: str | None = None

    @property
    def searched(self) -> bool:
        """Whether MLflow is asked which runs there are."""
        return any((self.experiment, self.sweep, self.study, self.filter))


@dataclass(frozen=True)
class Candidate:
    """A run that was found, finished or not."""

    state: str
    """As in ``status.json``, or ``TRIAL``."""
    job: str = ""
    """What identifies it whenever it runs."""
    result: Result | None = None
    """Of a finished one."""


def on_disk(folder: Path) -> Candidate:
    """What a folder says of its run."""
    try:
        status = record.read(folder).status
        state, job = results.said(status["state"]), results.said(status.get("job") or "")
        if state == "finished" and (folder / TRIAL_FILE).exists():
            return Candidate(TRIAL, job)
        return Candidate(state, job, results.read(folder) if state == "finished" else None)
    except (UserError, *results.BROKEN):
        return Candidate("unreadable")


def searched(wanted: Wanted, what: str = "") -> list[Candidate]:
    """What MLflow finds; without its own runs of comparisons, and those that other programs have made."""
    place = resolve(wanted.uri)
    if (file := database(place)) and not file.exists():
        missing = f"{what}: there is no such folder" if what else "no run can be searched"
        raise UserError(f"{missing}, and there is no MLflow database {file}; name the tracker with --uri")
    from mtl_runner.tracking.session import silent_client

    try:
        client = silent_client(place)
        experiments = _experiments(client, wanted.experiment)
        runs = [run for run in _pages(client, list(experiments), _filter(wanted)) if "mtl.folder" in run.data.tags]
        return [_in_mlflow(run, place, experiments[run.info.experiment_id]) for run in runs]
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"MLflow at {place}: {reason(error)}") from error


def _in_mlflow(run: "Run", place: str, experiment: str) -> Candidate:
    state, job = run.info.status.lower(), run.data.tags.get("job", "")
    if state != "finished":
        return Candidate(state, job)
    identifier = run.info.run_id
    found = on_disk(locate(identifier, place, results.FILES))
    tracked = Journal(place, experiment, "", identifier, True)
    return replace(found, result=replace(found.result, id=identifier, tracked=tracked)) if found.result else found


def _experiments(client: "MlflowClient", name: str | None) -> Mapping[str, str]:
    """Names by identifier: of one experiment, or of all."""
    if name is not None and (found := client.get_experiment_by_name(name)):
        return {found.experiment_id: found.name}
    known: dict[str, str] = {}
    token = None
    while True:
        page = client.search_experiments(max_results=_PAGE, page_token=token)
        known |= {each.experiment_id: each.name for each in page}
        if not (token := page.token):
            break
    if name is not None:
        names = list(known.values())
        raise UserError(f"--experiment {name}: there is no such experiment; there are {choices(names)}{nearest(name, names)}")
    return known


def _pages(client: "MlflowClient", experiments: list[str], condition: str) -> Iterator["Run"]:
    token = None
    while experiments:
        page = client.search_runs(
            experiments, condition, max_results=_PAGE, order_by=["attributes.start_time ASC"], page_token=token
        )
        yield from page
        if not (token := page.token):
            return


def _filter(wanted: Wanted) -> str:
    conditions = [wanted.filter] if wanted.filter else []
    for tag, value in (("sweep", wanted.sweep), ("study", wanted.study)):
        if value and "'" in value:
            raise UserError(f"--{tag} {value}: MLflow cannot search for a name with a quotation mark")
        if value:
            conditions.append(f"tags.{tag} = '{value}'")
    return " and ".join(conditions)
