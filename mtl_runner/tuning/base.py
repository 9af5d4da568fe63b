"""What every search has: what to search, by which objectives, how long, and where it is kept."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from annotated_types import Ge, Gt

from mtl_runner.config.values import Matches
from mtl_runner.errors import UserError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

Count = Annotated[int, Ge(1)]
Name = Annotated[str, Matches(r"\w[\w.\-]*", "letters, digits, _, - and . (it names a folder)")]
AVERAGE = "average"
"""The objective that is no task: the validation average."""
CLAIMS = "running"
"""The folder in a search's by whose locks processes claim trials."""
LOCK = "study.lock"
"""Held in a search's folder by who looks for a trial; there from the begin on."""
_SQLITE = "sqlite:///"
_DATABASES = (_SQLITE, "postgresql", "mysql", "mariadb")


class Options(TypedDict, total=False):
    """The keywords of ``Search``, for the constructors of samplers."""

    space: Mapping[str, Any]
    name: Name | None
    trials: Count
    timeout: Annotated[float, Gt(0)] | None
    objectives: tuple[str, ...]
    pruner: Literal["none", "median", "hyperband"]
    warmup_epochs: Annotated[int, Ge(0)]
    warmup_trials: Annotated[int, Ge(0)]
    processes: Count
    seed: Annotated[int, Ge(0)]
    storage: str | None
    folder: str | None


class Search(ABC):
    """A search in a space of keys and options.

    Args:
        space: by key or group, what to draw from (see ``tuning.space``).
        name: of the study; None: that of the primary configuration.
        trials: how many are to be finished: with a value, pruned, not applicable or failed.
        timeout: seconds after which no further trial begins; None: never.
        objectives: ``average``, or names of tasks, for each of which the primary metric on the validation part is maximised.
        pruner: what ends a trial early: ``median`` where it is worse than the median of the others was at that epoch,
            ``hyperband`` by successive halving at several starting budgets (Li et al. 2018).
        warmup_epochs: no trial is pruned before; with ``hyperband`` the smallest budget.
        warmup_trials: how many have to be finished before ``median`` prunes any.
        processes: how many trials run at once, each with its share of the cores.
        seed: of the sampler.
        storage: the address of the database; None: ``study.db`` in the folder.
        folder: of the study; None: ``runs/tune/NAME``.

    Raises:
        UserError: values that do not go together.
    """

    def __init__(
        self,
        *,
        space: Mapping[str, Any],
        name: Name | None = None,
        trials: Count = 50,
        timeout: Annotated[float, Gt(0)] | None = None,
        objectives: tuple[str, ...] = (AVERAGE,),
        pruner: Literal["none", "median", "hyperband"] = "none",
        warmup_epochs: Annotated[int, Ge(0)] = 5,
        warmup_trials: Annotated[int, Ge(0)] = 5,
        processes: Count = 1,
        seed: Annotated[int, Ge(0)] = 0,
        storage: str | None = None,
        folder: str | None = None,
    ) -> None:
        self.space = space
        self.name = name or "tune"
        self.trials, self.timeout = trials, timeout
        self.objectives: Sequence[str] = objectives
        self.prunes = pruner
        self.warmup_epochs, self.warmup_trials = warmup_epochs, warmup_trials
        self.processes = processes
        self.seed = seed
        self.folder = Path(folder or f"runs/tune/{self.name}").expanduser().absolute()
        self.storage = storage or f"{_SQLITE}{self.folder / 'study.db'}"
        self._check()

    @abstractmethod
    def sampler(self, seed: int) -> "BaseSampler":
        """What chooses the values of one trial; all that it knows of the others is in the study."""

    def pruner(self, epochs: int | None) -> "BasePruner":
        """What ends trials early, of a budget of ``epochs`` (None: it is not known)."""
        from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

        if self.prunes == "median":
            return MedianPruner(n_startup_trials=self.warmup_trials, n_warmup_steps=self.warmup_epochs)
        if self.prunes == "hyperband":
            return HyperbandPruner(min_resource=max(1, self.warmup_epochs), max_resource=epochs or "auto")
        return NopPruner()

    def _check(self) -> None:
        objectives = list(self.objectives)
        if not objectives or len(set(objectives)) < len(objectives):
            raise UserError(f"search.objectives={objectives}: [{AVERAGE}], or one or more tasks, each once, is expected")
        if self.prunes != "none" and objectives != [AVERAGE]:
            raise UserError(
                f"search.pruner={self.prunes}: prunes by the validation average, and goes with search.objectives=[{AVERAGE}] only"
                f"{'; Optuna prunes no search with several objectives' if len(objectives) > 1 else ''}"
            )
        if not self.storage.startswith(_DATABASES) or self.storage == _SQLITE:
            raise UserError(
                f"search.storage={self.storage}: is no database of a search; allowed: sqlite:////FOLDER/study.db, "
                "postgresql://…, mysql://…"
            )
        if self.storage.startswith(_SQLITE) and {"%", "?"} & set(self.storage):  # SQLAlchemy reads them as its own
            raise UserError(f"search.storage={self.storage}: no % or ? in the path; name another place")
