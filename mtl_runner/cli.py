"""The two commands: ``mtl-run`` (Hydra's, one experiment or a sweep) and ``mtl`` (everything around it)."""

import os
import sys
from collections.abc import Callable, Sequence

from mtl_runner.errors import UserError

SUBCOMMANDS = ("run", "tune", "options", "ui", "compare", "study", "affinity", "predict", "evaluate", "explain", "sync")
"""Names of the Typer application's commands; written down here so that ``mtl-run`` need not import it to know them."""


def run_main() -> None:
    """``mtl-run``: Hydra's, unless the first argument is the name of a subcommand."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in SUBCOMMANDS:
        app_main()
        return
    sys.exit(_report(lambda: _hydra(arguments)))


def app_main() -> None:
    """``mtl``: the Typer application."""
    sys.exit(_report(lambda: _app(sys.argv[1:])))


def _app(arguments: Sequence[str]) -> int:
    from mtl_runner.commands.app import call

    return call(arguments)


def _hydra(arguments: Sequence[str]) -> int:
    from mtl_runner.commands.launch import launch

    return launch(arguments)


def _report(command: Callable[[], int | None]) -> int:
    """The exit code of ``command``; what the user did wrong becomes a line or two instead of a traceback."""
    try:
        return command() or 0
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that cannot be written; a missing file of the user's has its own message
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
