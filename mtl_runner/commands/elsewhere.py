"""Keys that ``mtl-run`` does not have, and another command does."""

from mtl_runner.config.plugs import SEARCH
from mtl_runner.errors import choices

TUNES = f"{SEARCH}: this configuration is one of a search; `mtl tune` takes the same arguments"


def elsewhere(typed: str) -> str | None:
    """What to say of ``KEY=VALUE``, which is no key of a run; None where no command has it."""
    key, _, value = typed.lstrip("+~").partition("=")
    if key.partition(".")[0] == SEARCH:
        return f"{typed}: belongs to `mtl tune`, which takes the arguments of a run as well: mtl tune {key}={value}"
    from mtl_runner.tuning.base import Options

    if key in Options.__annotations__:
        return f"{typed}: is no key of a run; `mtl tune` has {SEARCH}.{key}={value}"
    flag = f"--{key.replace('_', '-')}"
    if commands := _with_option(flag):
        return f"{typed}: is no key of a run; an option of {choices(f'`mtl {name}`' for name in commands)}: {flag}"
    return None


def _with_option(flag: str) -> list[str]:
    """The names of the commands that have it."""
    import typer

    from mtl_runner.commands.app import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return [name for name, command in commands.items() if any(flag in each.opts for each in command.params)]
