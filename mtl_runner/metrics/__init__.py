"""Which metrics belong to which kind of task, and their values for T tasks of a kind at once; one file per family."""

from collections.abc import Mapping

from mtl_runner.metrics.base import Metric
from mtl_runner.metrics.classes_and_numbers import (
    BINARY,
    CALIBRATION_BINS,
    MULTICLASS,
    NUMBERS,
    balanced_accuracy,
    binary,
    confusion,
    g_mean,
    macro_f1,
    multiclass,
    regression,
)
from mtl_runner.metrics.correlation import CORRELATIONS
from mtl_runner.metrics.count import COUNT
from mtl_runner.metrics.dense import DEPTH, NORMALS, SEGMENTATION
from mtl_runner.metrics.detection import DETECTION
from mtl_runner.metrics.keypoints import KEYPOINTS
from mtl_runner.metrics.multilabel import MULTILABEL
from mtl_runner.metrics.ordinal import ORDINAL
from mtl_runner.metrics.quantile import QUANTILE
from mtl_runner.metrics.ranking import RANKING, RATING
from mtl_runner.metrics.survival import SURVIVAL
from mtl_runner.metrics.tagging import TAGGING

METRICS: Mapping[str, tuple[Metric, ...]] = {
    "segmentation": SEGMENTATION,
    "depth": DEPTH,
    "normals": NORMALS,
    "keypoints": KEYPOINTS,
    "detection": DETECTION,
    "tagging": TAGGING,
    "binary": BINARY,
    "multiclass": MULTICLASS,
    "ranking": RANKING,
    "rating": RATING,
    "reconstruction": NUMBERS,
    "regression": (*NUMBERS, *CORRELATIONS),
    "multilabel": MULTILABEL,
    "ordinal": ORDINAL,
    "quantile": QUANTILE,
    "count": COUNT,
    "survival": SURVIVAL,
}
"""By target kind, the primary metric first."""

__all__ = [
    "CALIBRATION_BINS",
    "METRICS",
    "Metric",
    "balanced_accuracy",
    "binary",
    "confusion",
    "g_mean",
    "macro_f1",
    "multiclass",
    "regression",
]
