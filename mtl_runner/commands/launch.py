"""``mtl-run``: composes and checks the configuration, then hands the jobs of a sweep to a launcher, or all else to Hydra."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.errors import HydraException

from mtl_runner.commands import precheck
from mtl_runner.commands.composed import CONFIG_NAME
from mtl_runner.commands.flags import Flags
from mtl_runner.commands.job import Job, say_how_to_go_on
from mtl_runner.commands.messages import explained, first_line
from mtl_runner.commands.usage import usage
from mtl_runner.config import config_dir
from mtl_runner.errors import UserError

FULL_ERROR = "HYDRA_FULL_ERROR"


def launch(arguments: Sequence[str]) -> int:
    """Does what ``mtl-run ARGUMENTS`` asks for; returns the exit code."""
    version.setbase("1.3")
    if any(argument.startswith("resume=") and argument != "resume=null" for argument in arguments):
        from mtl_runner.commands.resume import resume

        return resume(arguments)
    parser = Flags("mtl-run --hydra-help", prog="mtl-run", description="Hydra", parents=[get_args_parser()], add_help=False)
    args = parser.read(arguments)
    _check_flags(args)
    shows = bool(args.help or args.hydra_help or args.cfg or args.info)
    adds = args.config_dir or args.config_path or args.config_name or args.overrides  # to what is ours, which is safe to show
    if args.help and not adds:
        print(usage())
        return 0
    job = Job()
    if not args.shell_completion and (adds or not shows):
        with precheck.checked(args, runs=not shows) as (_, found):
            job.existing = found.existing
            if found.jobs is not None:
                from mtl_runner.commands.sweeping.running import sweep

                return sweep(found, job, arguments)
    if shows or args.shell_completion:
        with explained(args):
            _hydra(args, parser, job)
        return 0
    return _train(args, parser, job)


def _train(args: Namespace, parser: ArgumentParser, job: Job) -> int:
    try:
        _hydra(args, parser, job)
    except KeyboardInterrupt:
        if job.interrupted is None:
            raise
        say_how_to_go_on(job.interrupted)
        return 130
    except HydraException as error:  # a launcher's or sweeper's; jobs raise other kinds
        raise UserError(first_line(error)) from error
    if job.failure is not None:
        raise job.failure
    return 0


def _check_flags(args: Namespace) -> None:
    if args.experimental_rerun is not None:
        raise UserError("--experimental-rerun loads a pickle, which can run any code; use `mtl-run resume=RUN_DIR`")
    if sum(map(bool, (args.run, args.cfg, args.multirun, args.shell_completion, args.info))) > 1:
        raise UserError("only one of --run, --multirun, --cfg, --info and --shell-completion can be given")
    if args.resolve and not (args.cfg or args.help):
        raise UserError("--resolve goes with --cfg or --help only")


def _hydra(args: Namespace, parser: ArgumentParser, job: Job) -> None:
    with _errors_reach_us():
        _run_hydra(args, parser, job, config_path=str(config_dir()), config_name=CONFIG_NAME)


@contextmanager
def _errors_reach_us() -> Iterator[None]:
    """Hydra prints exceptions itself and exits with 1, unless it is told to raise them."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before
