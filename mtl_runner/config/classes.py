"""From a dotted path to a class, and to nothing but a class."""

import importlib
import inspect
from collections.abc import Iterable

from mtl_runner.errors import UserError, choices, nearest


def locate(path: str, trusted: Iterable[str]) -> type:
    """The class at ``package.module.Class``, which lies in one of the packages ``trusted`` and was defined in one.

    The module is imported by its full name and the class is looked up in it, in one step: no path through another
    module's imports (``torch.optim.adam.torch.hub.load``) leads anywhere. Raises ``UserError``.
    """
    module, _, name = path.rpartition(".")
    trusted = list(trusted)
    if not below(module, trusted):
        added = f"allow_modules=[{module}] on the command line adds one"
        raise UserError(f"only classes of {choices(trusted)} may be named here; {added}")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name and not below(module, [error.name]):  # the module is there, what it imports is not
            raise
        raise UserError(f"there is no module {module}") from None
    if not inspect.isclass(found) or not below(found.__module__, trusted):
        classes = [each for each, value in vars(importlib.import_module(module)).items() if inspect.isclass(value)]
        raise UserError(f"{name} is no class of {module}{nearest(name, classes)}")
    return found


def below(module: str, packages: Iterable[str]) -> bool:
    """Whether ``module`` is one of ``packages`` or inside one."""
    return any(module == package or module.startswith(package + ".") for package in packages)
