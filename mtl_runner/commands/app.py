"""``mtl``: everything around a run. Each command imports what it needs when it is called."""

from pathlib import Path
from typing import Annotated

import typer

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
FORWARD = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(context_settings=FORWARD)
def run(context: typer.Context) -> None:
    """Run an experiment or a sweep, as mtl-run does."""
    from mtl_runner.commands.launch import launch

    raise SystemExit(launch(context.args))


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
def predict(
    run: Run,
    input: Input,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write them: .parquet or .csv.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time; bounds the memory.")] = 65536,
    allow_module: Allowed = None,
) -> None:
    """Predict every task for the rows of a table."""
    from mtl_runner.commands.allowed import importable
    from mtl_runner.predict import predict as write

    write(run, input, output, batch_size, importable(allow_module or ()))
    typer.echo(f"predictions: {output}")


@app.command()
def evaluate(run: Run, input: Input, allow_module: Allowed = None) -> None:
    """Print the metrics of a trained run on a labelled table."""
    from mtl_runner.commands.allowed import importable
    from mtl_runner.predict import evaluate as report

    report(run, input, allowed=importable(allow_module or ()))


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
