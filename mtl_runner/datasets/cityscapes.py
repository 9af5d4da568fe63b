"""Cityscapes as MTAN prepared it: streets with 7 classes and depths."""

from mtl_runner.datasets.maps.npy_layout import NpyLayout, Published

CLASSES = ["flat", "construction", "object", "nature", "sky", "human", "vehicle"]
CITYSCAPES = Published(
    "cityscapes",
    {"train": 2975, "val": 500},
    {
        "segmentation": {"type": "segmentation", "columns": "label", "classes": CLASSES, "ignore": -1},
        "depth": {"type": "depth", "columns": "depth"},
    },
    "https://github.com/lorenmt/mtan (prepared Cityscapes, 128 × 256 pixels)",
    "not for commercial use, see https://www.cityscapes-dataset.com/license",
)


class Cityscapes(NpyLayout):
    """Cordts et al., The Cityscapes dataset for semantic urban scene understanding, CVPR 2016.

    The files of Liu, Johns and Davison, End-to-end multi-task learning with attention, CVPR 2019: 2,975 scenes to train and 500
    to test, 128 × 256 pixels; ``label`` (7 classes, -1: none) and ``depth`` (inverse depth, 0: none).
    """

    published = CITYSCAPES
