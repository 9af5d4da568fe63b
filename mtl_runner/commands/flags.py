"""Flags of the commands: what is wrong with them in a line or two, instead of the whole usage."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from mtl_runner.errors import UserError

ONCE = {"-cd": "--config-dir", "-cn": "--config-name", "-cp": "--config-path"}
"""Flags of which a parser would take the last, and say nothing of the others."""


class Flags(ArgumentParser):
    """Reads flags that stand between overrides.

    Args:
        manual: the command that lists the flags.
        options: as ``ArgumentParser`` has them.
    """

    def __init__(self, manual: str, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.manual = manual

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; `{self.manual}` lists the flags")

    def read(self, arguments: Sequence[str]) -> Namespace:
        """``arguments``; raises ``UserError`` where one is no flag, or is there twice."""
        check_once(arguments)
        args, unknown = self.parse_known_intermixed_args(list(arguments))
        if unknown:
            raise UserError(self._unknown(unknown[0], arguments))
        return args

    def _unknown(self, flag: str, arguments: Sequence[str]) -> str:
        """Mostly a key or a group, written as other programs have it: ``--sharing=hard``, ``--sharing hard``."""
        from mtl_runner.commands.elsewhere import elsewhere
        from mtl_runner.config.plugs import SEARCH
        from mtl_runner.config.schema import Config

        key, equals, value = flag.lstrip("-").partition("=")
        after = arguments[arguments.index(flag) + 1 :][:1] if flag in arguments and not equals else []
        if after and "=" not in after[0] and not after[0].startswith("-"):
            flag, value = f"{flag} {after[0]}", after[0]
        said, keys = f"{flag}: there is no such flag", (*Config.__annotations__, SEARCH)
        if key.partition(".")[0] in keys:
            return f"{said}; keys and groups have no dashes: {key}={value or '…'}"
        if other := elsewhere(f"{key}={value}"):
            return f"{flag}{other.removeprefix(f'{key}={value}')}"
        known = {f"--{name}": f"{name}={value or '…'}" for name in keys} | {name: name for name in self._option_string_actions}
        close = get_close_matches(f"--{key}", known, n=1)
        return f"{said} (did you mean '{known[close[0]]}'?)" if close else f"{said}; `{self.manual}` lists them"


def check_once(arguments: Sequence[str]) -> None:
    """Raises ``UserError`` where a flag that counts once is there again."""
    given: dict[str, list[str]] = {}
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if (name := ONCE.get(flag, flag)) in ONCE.values():
            given.setdefault(name, []).append(value if equals else after)
    for name, values in given.items():
        if len(values) > 1:
            places = ",".join(f"file://{value}" for value in values[1:])
            others = f", others are added by 'hydra.searchpath=[{places}]'" if name == "--config-dir" else ""
            raise UserError(f"{name} is given more than once: {', '.join(values)}; one is read{others}")
