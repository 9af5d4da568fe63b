"""NYU Depth V2 as MTAN prepared it: rooms with 13 classes, depths and normals."""

from mtl_runner.datasets.maps.npy_layout import NpyLayout, Published

CLASSES = [
    "bed",
    "books",
    "ceiling",
    "chair",
    "floor",
    "furniture",
    "objects",
    "picture",
    "sofa",
    "table",
    "tv",
    "wall",
    "window",
]
NYUV2 = Published(
    "nyuv2",
    {"train": 795, "val": 654},
    {
        "segmentation": {"type": "segmentation", "columns": "label", "classes": CLASSES, "ignore": -1},
        "depth": {"type": "depth", "columns": "depth"},
        "normals": {"type": "normals", "columns": "normal"},
    },
    "https://github.com/lorenmt/mtan (prepared NYUv2, 288 × 384 pixels)",
    "for research, see https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
)


class NYUv2(NpyLayout):
    """Silberman, Hoiem, Kohli and Fergus, Indoor segmentation and support inference from RGBD images, ECCV 2012.

    The files of Liu, Johns and Davison, End-to-end multi-task learning with attention, CVPR 2019: 795 scenes to train and 654 to
    test, 288 × 384 pixels; ``label`` (-1: none), ``depth`` (metres, 0: none) and ``normal`` (0: none).
    """

    published = NYUV2
