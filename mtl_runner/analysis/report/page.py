"""A comparison as one HTML file that needs nothing beside it."""

from base64 import b64encode
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from math import isfinite
from pathlib import Path

from mtl_runner.analysis.comparison import Comparison, Paired
from mtl_runner.analysis.report import words
from mtl_runner.analysis.report.columns import decimals, differs, gains, overall, scores, shown
from mtl_runner.analysis.report.figures import Drawn

HERE = Path(__file__).parent


def as_html(comparison: Comparison, figures: Sequence[Drawn]) -> str:
    """The page; every name is escaped, and its policy allows no script and no style but its own, and no network."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html.jinja").render(
        comparison=comparison,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        figures=figures,
        images={figure.name: _image(figure.paths[0]) for figure in figures if figure.paths},
        overall=overall(comparison),
        scores=scores(comparison, comparison.tasks),
        gains=gains(comparison, comparison.tasks),
        places=lambda estimate: decimals([estimate], signed=True),
        **{name: partial(getattr(words, name), comparison)() for name in ("summary", "legend", "spread", "gain_of")},
        shown=shown,
        probability=words.probability,
        number=_number,
        side=_side,
    )


def _policy(style: str, script: str) -> str:
    digests = {name: b64encode(sha256(text.encode()).digest()).decode() for name, text in (("style", style), ("script", script))}
    own = "; ".join(f"{name}-src 'sha256-{digest}'" for name, digest in digests.items())
    return f"default-src 'none'; img-src data:; {own}; base-uri 'none'; form-action 'none'"


def _image(path: Path) -> str:
    return f"data:image/svg+xml;base64,{b64encode(path.read_bytes()).decode()}"


def _number(value: float | None) -> str:
    """By which a cell is sorted; what is unknown comes last."""
    return repr(value) if value is not None and isfinite(value) else ""


def _side(paired: Paired) -> str:
    """A sure difference has a colour."""
    return "" if not differs(paired) else "gain" if paired.difference.mean > 0 else "loss"
