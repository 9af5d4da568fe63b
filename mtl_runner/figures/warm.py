"""Imported by a process that others are forked from: matplotlib, its fonts and what else a first picture takes."""

import io

from matplotlib import rc_context
from matplotlib.figure import Figure

from mtl_runner.figures.style import PNG, QUICK, panel, titles

with rc_context(QUICK):
    _figure = Figure()
    panel(_figure, 1, 1, 2, 2).plot([0, 1], [0, 1], label="curve")
    titles(_figure, "bold", "plain")
    _figure.savefig(io.BytesIO(), format="png", pil_kwargs=PNG)
