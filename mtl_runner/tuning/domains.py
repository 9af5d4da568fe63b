"""What one key may be drawn from."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt, MinLen

if TYPE_CHECKING:
    from optuna.trial import Trial

Conditions = Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included: whole ones where both ends (and ``step``) are."""

    low: int | float
    high: int | float
    log: bool = False
    """Drawn by its logarithm."""
    step: Annotated[int | float, Gt(0)] | None = None
    when: Conditions = field(default_factory=dict)
    """``{KEY: choice}`` or ``{KEY: [choice, choice]}``: drawn only there."""

    @property
    def whole(self) -> bool:
        return all(isinstance(each, int) for each in (self.low, self.high, self.step) if each is not None)

    def problem(self) -> str | None:
        """Why nothing can be drawn."""
        low, high, step = self.low, self.high, self.step
        if not low < high or not math.isfinite(high - low):
            return f"low={low} is not below high={high}"
        if self.log and low <= 0:
            return f"low={low}: with log: true it has to be above 0"
        if self.log and step is not None:
            return f"step={step}: goes with log: false only"
        if step is not None and (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step)):
            return f"step={step}: does not lead from low={low} to high={high}"
        return None

    def draw(self, key: str, trial: "Trial") -> str:
        if self.whole:
            return str(trial.suggest_int(key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log))
        return repr(trial.suggest_float(key, float(self.low), float(self.high), step=self.step, log=self.log))

    def probes(self) -> list[str]:
        """Values that stand for all: what both ends may be, all between them may."""
        return [text(end if self.whole else float(end)) for end in (self.low, self.high)]


@dataclass(frozen=True)
class Choices:
    """One of a list: numbers, names, lists, anything that a key takes."""

    choices: Annotated[list[Any], MinLen(1)]
    when: Conditions = field(default_factory=dict)

    def problem(self) -> str | None:
        """Why nothing can be drawn."""
        texts = self.probes()
        twice = [each for each in texts if texts.count(each) > 1]
        return f"choices: {twice[0]} is there twice" if twice else None

    def draw(self, key: str, trial: "Trial") -> str:
        return str(trial.suggest_categorical(key, self.probes()))

    def probes(self) -> list[str]:
        """All of them, as the command line has them."""
        return [text(each) for each in self.choices]


def text(value: Any) -> str:
    """``value`` as the command line has it: ``[64,32]``, ``null``, ``1e-05``, ``'a, b'``."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(text, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    bare = re.fullmatch(r"[A-Za-z_][\w./\-]*", value) and value.lower() not in ("null", "true", "false", "nan", "inf")
    return value if bare else QuotedString(value, Quote.single).with_quotes()
