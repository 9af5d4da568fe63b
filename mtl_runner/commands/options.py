"""``mtl options``: what there is to choose from."""

import typer
from omegaconf import OmegaConf

from mtl_runner.config import config_dir
from mtl_runner.errors import UserError, choices, nearest


def show(group: str | None) -> None:
    """Prints every option of ``group`` (null: of every group) with its one-line description."""
    listed = [each for name in ("config", "tune") for each in OmegaConf.load(config_dir() / f"{name}.yaml").defaults]
    defaults = {name: option for each in listed if not isinstance(each, str) for name, option in each.items()}
    groups = [name for name in defaults if (config_dir() / name).is_dir()]
    if group is not None and group not in groups:
        raise UserError(f"{group}: there is no such group; choose from {choices(groups)}{nearest(group, groups)}")
    for name in groups if group is None else [group]:
        typer.secho(name, bold=True)
        options = descriptions(name)
        width = max(map(len, options))
        for option, description in options.items():
            typer.echo(f"  {option.ljust(width)}  {description}{' (default)' if option == defaults[name] else ''}")


def descriptions(group: str) -> dict[str, str]:
    """The options of ``group`` by name, each with the first comment of its file that is not Hydra's."""
    return {path.stem: _description(path.read_text(encoding="utf-8")) for path in sorted((config_dir() / group).glob("*.yaml"))}


def _description(text: str) -> str:
    comments = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    return next((comment for comment in comments if not comment.startswith("@")), "")
