"""The input itself, from the features."""

from mtl_runner.tasks.regression import Regression


class Reconstruction(Regression):
    """Squared error of every value of the input stream.

    R² is one over all values, 1 - Σ (z - y)² / Σ (y - ȳ)²: a pixel that hardly varies weighs little.
    """

    kind = "reconstruction"
    average = "variance_weighted"
