"""What the user allowed in so many words."""

import os
import sys
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser


def allowed_modules(overrides: Sequence[str]) -> list[str]:
    """The modules of ``allow_modules=[…]`` among the overrides typed on the command line."""
    typed = [each for each in OverridesParser.create().parse_overrides(list(overrides)) if each.key_or_group == "allow_modules"]
    value = typed[-1].value() if typed else None
    modules = [str(module) for module in value] if isinstance(value, list) else []
    return importable(modules)


def importable(modules: Sequence[str]) -> list[str]:
    """``modules``, which can be imported from now on: one's own usually lie in the working folder."""
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return list(modules)
