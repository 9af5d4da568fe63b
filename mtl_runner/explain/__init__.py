"""What the tasks of a trained model use, and what they have in common."""

from mtl_runner.explain.explanation import PARTS, Explanation, explain, explained
from mtl_runner.explain.files import write

__all__ = ["PARTS", "Explanation", "explain", "explained", "write"]
