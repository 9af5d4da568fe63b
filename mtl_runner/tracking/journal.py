"""``tracker.json``: which MLflow run belongs to a run folder."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

FILE = "tracker.json"


@dataclass(frozen=True)
class Journal:
    """What has to survive the process. What was sent is not in it: MLflow itself is asked."""

    uri: str
    experiment: str
    key: str
    """A random tag of the MLflow run, by which it is found again when the answer to its creation was lost."""
    run_id: str | None = None
    finished: bool = False
    """Whether everything has arrived."""

    def write(self, folder: Path, **changes: Any) -> "Journal":
        """Changes fields and replaces the file in one go."""
        changed = replace(self, **changes)
        part = folder / f"{FILE}.part"
        part.write_text(json.dumps(asdict(changed), indent=2) + "\n", encoding="utf-8")
        os.replace(part, folder / FILE)
        return changed


def read(folder: Path) -> Journal | None:
    """The journal of ``folder``, or None where it was never tracked."""
    try:
        return Journal(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def begin(uri: str, experiment: str) -> Journal:
    """The journal of a run that MLflow has not seen."""
    return Journal(uri, experiment, uuid4().hex)
