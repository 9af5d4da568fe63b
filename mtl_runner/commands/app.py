"""``mtl``: everything around a run. Each command imports what it needs when it is called."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mtl_runner.commands.flags import check_once
from mtl_runner.errors import UserError, choices, nearest

app = typer.Typer(
    name="mtl",
    help="Multi-task learning experiments: run them, look at them, use what was trained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or an MLflow run id.")]
Input = Annotated[Path, typer.Option("--input", "-i", exists=True, help="A table: CSV or Parquet, gzipped or not.")]
Allowed = Annotated[
    list[str] | None,
    typer.Option("--allow-module", metavar="MODULE", help="A module of your own that the run's configuration names."),
]
Stream = Annotated[str | None, typer.Option("--stream", metavar="NAME", help="Of a run with several input streams: which one.")]
FORWARD = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def call(arguments: Sequence[str]) -> int:
    """Does what ``mtl ARGUMENTS`` asks for; returns the exit code.

    Raises:
        UserError: a command, an option or an argument is wrong; the command's own errors.
    """
    check_once(arguments)
    name, known = next(iter(arguments), "--help"), [each.callback.__name__ for each in app.registered_commands if each.callback]
    if not name.startswith("-") and name not in known:
        raise UserError(f"{name}: there is no such command; there are {choices(known)}{nearest(name, known)}")
    try:
        return app(arguments or [name], standalone_mode=False) or 0
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        if not isinstance(error, _USAGE_ERROR):
            raise
        raise UserError(_usage(error)) from None


_USAGE_ERROR: Any = typer.BadParameter.__base__
"""Click's UsageError; some versions of Typer bring a copy of Click and no name for this."""


def _usage(error: Any) -> str:
    """What Click says below four lines of usage."""
    said, command = " ".join(error.format_message().split()).rstrip("."), error.ctx.command_path if error.ctx else "mtl"
    said = said.replace("Input should be", "must be").replace("a valid integer, unable to parse string as an", "an")
    return f"{command}: {said[:1].lower()}{said[1:]}; `{command} --help` has more"


@app.command(context_settings=FORWARD)
def run(context: typer.Context) -> None:
    """Run an experiment or a sweep, as mtl-run does."""
    from mtl_runner.commands.launch import launch

    raise SystemExit(launch(context.args))


@app.command(context_settings=FORWARD)
def tune(context: typer.Context) -> None:
    """Search for good values of keys and options, by the validation part."""
    from mtl_runner.commands.tune import tune as search

    raise SystemExit(search(context.args))


@app.command()
def options(group: Annotated[str | None, typer.Argument(metavar="[GROUP]", help="Only this group.")] = None) -> None:
    """List the options of every group, a line each."""
    from mtl_runner.commands.options import show

    show(group)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    uri: Annotated[str | None, typer.Option(help="The tracker; otherwise MLFLOW_TRACKING_URI or ./mlflow.db.")] = None,
) -> None:
    """Open MLflow's page on the runs of this folder, at 127.0.0.1."""
    from mtl_runner.commands.ui import serve

    raise SystemExit(serve(port, uri))


@app.command()
def compare(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WHAT]...", help="Sweep or run folders, MLflow run ids, tags of sweeps; else the newest sweep."),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="All runs of this experiment in MLflow.")] = None,
    sweep: Annotated[str | None, typer.Option(help="The runs in MLflow with this tag.")] = None,
    study: Annotated[str | None, typer.Option(help="The runs in MLflow with this tag.")] = None,
    filter: Annotated[str | None, typer.Option(help="The runs in MLflow that its search finds by this.")] = None,
    baseline: Annotated[str | None, typer.Option(metavar="KEY=VALUE", help="What gains are over; else sharing=none.")] = None,
    by: Annotated[str | None, typer.Option(metavar="KEY,…", help="What makes groups; all that differs if omitted.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder; otherwise comparisons/NAME.")] = None,
    uri: Annotated[str | None, typer.Option(help="The tracker; otherwise MLFLOW_TRACKING_URI or ./mlflow.db.")] = None,
) -> None:
    """Compare groups of finished runs: gains over the single-task baseline, intervals, tests, fairness."""
    from mtl_runner.analysis.mlflow_search import Wanted
    from mtl_runner.commands.compare import compare as show

    show(Wanted(tuple(what or ()), experiment, sweep, study, filter, uri), (by or "").split(","), baseline, output)


@app.command()
def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a file NAME.yaml in --config-dir.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[OVERRIDES]...", help="As for mtl-run.")] = None,
    config_dir: Annotated[Path, typer.Option("--config-dir", "-cd", help="The folder of studies.")] = Path("experiments"),
    sweep: Annotated[Path | None, typer.Option(exists=True, help="Run nothing: the report of a sweep that is there.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder; otherwise CONFIG_DIR/NAME.")] = None,
) -> None:
    """Run the jobs of a study that are not finished yet, and write its report."""
    from mtl_runner.commands.study import study as conduct

    raise SystemExit(conduct(name, config_dir, overrides or (), sweep, output))


@app.command()
def affinity(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[OVERRIDES]...", help="As for mtl-run.")] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="Again for several; otherwise all.", metavar="NAME")
    ] = None,
    budget: Annotated[int, typer.Option("--budget", "-k", min=1, help="The largest number of networks.")] = 2,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder; otherwise affinity/DATASET.")] = None,
    every: Annotated[int, typer.Option(min=1, help="gradients, lookahead: steps from one look to the next.")] = 10,
    step_size: Annotated[float, typer.Option(min=0.0, help="lookahead: size of the step that is tried.")] = 0.1,
    config_dir: Annotated[Path | None, typer.Option("--config-dir", "-cd", help="A folder of your own configurations.")] = None,
    config_name: Annotated[str | None, typer.Option("--config-name", "-cn", help="Another primary configuration.")] = None,
) -> None:
    """Measure how related the tasks are, and propose which of them should share a network."""
    from mtl_runner.commands.affinity import affinity as measure

    measure((overrides or (), config_dir, config_name), method or (), budget, output, every, step_size)


@app.command()
def predict(
    run: Run,
    input: Input,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write them: .parquet or .csv.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time; bounds the memory.")] = 65536,
    stream: Stream = None,
    allow_module: Allowed = None,
) -> None:
    """Predict every task for the rows of a table."""
    from mtl_runner.commands.allowed import importable
    from mtl_runner.predict import predict as write

    write(run, input, output, batch_size, importable(allow_module or ()), stream)
    typer.echo(f"predictions: {output}")


@app.command()
def evaluate(run: Run, input: Input, stream: Stream = None, allow_module: Allowed = None) -> None:
    """Print the metrics of a trained run on a labelled table."""
    from mtl_runner.commands.allowed import importable
    from mtl_runner.predict import evaluate as report

    report(run, input, allowed=importable(allow_module or ()), stream=stream)


@app.command()
def explain(
    run: Run,
    part: Annotated[str, typer.Option(help="validation or train: the rows to look at.")] = "validation",
    input: Annotated[Path | None, typer.Option("--input", "-i", exists=True, help="Labelled rows of a table, instead.")] = None,
    repeats: Annotated[int, typer.Option(min=2, help="How often each input is shuffled.")] = 10,
    rows: Annotated[int | None, typer.Option(min=2, help="Rows at random; otherwise 2000 at most.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder; otherwise RUN_DIR/explain/STREAM.")] = None,
    stream: Stream = None,
    allow_module: Allowed = None,
) -> None:
    """Show which inputs each task of a run uses, and which it shares with the others."""
    from mtl_runner.commands.allowed import importable
    from mtl_runner.commands.explain import show

    show(run, part, input, repeats, rows, output, importable(allow_module or ()), stream)


@app.command()
def sync(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run folder.")], allow_module: Allowed = None
) -> None:
    """Send to the tracker what it lacks of a run."""
    from mtl_runner.tracking import sync as send

    if (run_dir / "checkpoints" / "best.pt").exists() and not (run_dir / "model").exists():
        from mtl_runner import serving
        from mtl_runner.commands.allowed import importable
        from mtl_runner.predict import load

        serving.package(run_dir, load(run_dir, "cpu", importable(allow_module or ())).model)
    typer.echo(f"MLflow run: {send(run_dir)}")
