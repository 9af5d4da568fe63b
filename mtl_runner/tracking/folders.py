"""Run folders and MLflow runs, the one from the other: `mtl sync`, and a run named by its MLflow identifier."""

import atexit
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mtl_runner.errors import UserError
from mtl_runner.tracking import journal, record
from mtl_runner.tracking.sender import reason
from mtl_runner.tracking.session import Session, silent_client
from mtl_runner.tracking.uri import database, resolve


def sync(run_dir: str | Path, uri: str | None = None) -> str:
    """Sends what MLflow lacks of a run folder, all of it if need be, and returns the MLflow run's identifier.

    To ``uri``, else to where the run was tracked, else to where its configuration says. A run whose folder says that it
    is still running stays so in MLflow.

    Raises:
        UserError: ``run_dir`` is no run folder, or MLflow cannot be reached.
    """
    folder = Path(run_dir).absolute()
    run = record.read(folder)
    known = journal.read(folder)
    place = resolve(uri or (known.uri if known else run.config.get("tracker", {}).get("uri")))
    try:
        session = Session(folder, place, lambda _: None)
        session.open(running=False)
        if not session.journal.finished:
            session.close(run.state)
        return session.run_id
    except Exception as error:
        raise UserError(f"MLflow at {place}: {reason(error)}") from error


def locate(run: str | Path, uri: str | None = None, only: Sequence[str] = ()) -> Path:
    """The folder of a run, which is given as such or by its MLflow identifier.

    Where the identifier's folder is not on this machine, what MLflow keeps of it, or the files ``only``, is fetched into a folder
    that goes with the process.

    Raises:
        UserError: there is no such folder, and no such run in MLflow.
    """
    if Path(run).is_dir() or not re.fullmatch(r"[0-9a-f]{32}", str(run)):
        return record.read(Path(run)).folder
    place = resolve(uri)
    if (file := database(place)) and not file.exists():
        raise UserError(f"there is no folder {run}, and no MLflow database {file} to look for a run with that identifier")
    try:
        client = silent_client(place)
        folder = Path(client.get_run(str(run)).data.tags.get("mtl.folder", ""))
        known = journal.read(folder)
        if known and known.run_id == str(run):
            return folder
        fetched = tempfile.mkdtemp(prefix="mtl-")
        atexit.register(shutil.rmtree, fetched, ignore_errors=True)
        for name in only or ("",):
            client.download_artifacts(str(run), name, fetched)
        return Path(fetched)
    except Exception as error:
        raise UserError(f"MLflow at {place}: {reason(error)}") from error
