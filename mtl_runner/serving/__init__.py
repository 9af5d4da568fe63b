"""A trained model as an MLflow model: named columns in, every task's prediction out."""

from mtl_runner.serving.packaging import package

__all__ = ["package"]
