"""Where MLflow is."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from mtl_runner.errors import UserError

_SQLITE = "sqlite:///"


def resolve(uri: str | None) -> str:
    """``uri``, or ``MLFLOW_TRACKING_URI``, or the file ``mlflow.db`` in the working folder; a path in it is made absolute.

    Raises ``UserError`` for anything but ``http``, ``https`` and ``sqlite``: MLflow no longer writes to plain folders.
    """
    source, value = "tracker.uri", uri
    if value is None:
        source, value = "MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    address = urlsplit(value)
    if address.scheme in ("http", "https") and address.netloc:
        return value.rstrip("/")
    if value.startswith(_SQLITE) and len(value) > len(_SQLITE):
        return _SQLITE + _usable(Path(value.removeprefix(_SQLITE)).absolute())
    raise UserError(
        f"{source}={value} is no place for MLflow runs; allowed: http://HOST:PORT, https://HOST, sqlite:////FOLDER/mlflow.db"
    )


def database(uri: str) -> Path | None:
    """The file behind a ``sqlite`` address, or None where the address is a server's."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def _usable(path: Path) -> str:
    """SQLAlchemy reads ``%`` and ``?`` in an address as its own and would open another file."""
    if {"%", "?"} & set(str(path)):
        raise UserError(f"MLflow cannot keep its database at {path}: no % or ? in the path; name another place with tracker.uri")
    return str(path)
