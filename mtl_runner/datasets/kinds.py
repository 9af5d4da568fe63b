"""The types of task, and what a user may tell each of them beside what every task can be told."""

from collections.abc import Mapping

KINDS: Mapping[str, tuple[str, ...]] = {
    "segmentation": (),
    "depth": ("loss", "variance_focus"),
    "normals": (),
    "keypoints": ("form", "loss", "normaliser", "between", "threshold", "pairs"),
    "detection": ("grid", "radius", "threshold", "overlap", "most"),
    "tagging": ("output",),
    "binary": (),
    "multiclass": (),
    "ranking": (),
    "rating": ("bounds",),
    "reconstruction": (),
    "regression": ("loss", "delta"),
    "multilabel": (),
    "ordinal": ("loss",),
    "quantile": ("quantiles",),
    "count": (),
    "survival": ("model", "ties", "intervals", "cuts"),
}
"""By type the names of its options: the keyword arguments of its class in ``tasks/``, which checks their values."""
