"""One image: its size, its window, what cannot be read; and the idx files."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtl_runner.datasets.files import Expected, expect
from mtl_runner.datasets.pictures.idx import read_idx, read_labelled
from mtl_runner.datasets.pictures.image_files import BadImageError, Fit, Look, decoded, size_of
from mtl_runner.errors import UserError

RAMP = np.arange(6 * 12 * 3, dtype=np.uint8).reshape(6, 12, 3)


def saved(path: Path, array: np.ndarray) -> str:
    Image.fromarray(array).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("fit", "window", "shown"),
    [
        ("stretch", (0, 0, 12, 6), None),
        ("crop", (3, 0, 6, 6), RAMP[:, 3:9]),
        ("pad", (0, -3, 12, 12), np.pad(RAMP, ((3, 3), (0, 0), (0, 0)))),
    ],
)
def test_the_window_is_what_is_shown(tmp_path: Path, fit: Fit, window: tuple[float, ...], shown: np.ndarray | None) -> None:
    side = 6 if fit != "pad" else 12
    pixels, found = decoded(saved(tmp_path / "a.png", RAMP), Look(3, side, side, fit))
    assert found == window
    if shown is not None:
        np.testing.assert_array_equal(pixels, shown.transpose(2, 0, 1))


def test_grey_images_of_16_bits_keep_their_range_and_others_become_what_was_asked_for(tmp_path: Path) -> None:
    deep = np.array([[0, 257], [32896, 65535]], np.uint16)
    pixels, _ = decoded(saved(tmp_path / "deep.png", deep), Look(3, 2, 2))
    np.testing.assert_array_equal(pixels, np.broadcast_to([[0, 1], [128, 255]], (3, 2, 2)))
    assert decoded(saved(tmp_path / "colour.png", RAMP), Look(1, 6, 12))[0].shape == (1, 6, 12)
    see_through = np.full((2, 2, 4), [9, 8, 7, 0], np.uint8)
    np.testing.assert_array_equal(decoded(saved(tmp_path / "alpha.png", see_through), Look(3, 2, 2))[0][:, 0, 0], [9, 8, 7])


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    whole = Path(saved(tmp_path / "whole.png", noise)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "real.tif")
    reasons = {
        "cut.png": "truncated",
        "text.png": "not an image of a known format",
        "empty.jpg": "not an image of a known format",
        "real.tif": "floating-point",
        "none.png": "is not there",
    }
    for name, reason in reasons.items():
        with pytest.raises(BadImageError, match=reason):
            decoded(str(tmp_path / name), Look(3, 4, 4))
    assert size_of(str(tmp_path / "cut.png")) == (40, 40)


def test_a_file_that_would_start_a_program_or_fill_the_memory_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(BadImageError, match="not an image of a known format"):
        size_of(str(tmp_path / "script.png"))
    large = saved(tmp_path / "large.png", RAMP)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 71)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(BadImageError, match="12 × 6 pixels, more than 71"):
        size_of(large)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def test_idx_files_are_read_packed_or_not_and_checked(tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    for name in ("a", "a.gz"):
        np.testing.assert_array_equal(read_idx(tmp_path / name, 3), array)
    broken = {
        "short": (idx(array)[:-1], "24 bytes, it has 23"),
        "other": (idx(array[0]), "with 3 axes"),
        "text": (b"label,image", "is not an idx file"),
        "cut.gz": (gzip.compress(idx(array))[:20], "cannot be unpacked"),
        "changed.gz": (gzip.compress(b"")[:10] + b"\x07" + gzip.compress(idx(array))[11:], "cannot be unpacked"),
    }
    for name, (data, message) in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            read_idx(tmp_path / name, 3)
    for name, header, said in (
        ("long", (2, 3, 4), r"says 2 × 3 × 4 = 24 bytes, it has more"),
        ("wide", (2**20, 2**10, 2**10), r"says 1048576 × 1024 × 1024 = 1,099,511,627,776 bytes; up to 1,073,741,824 are read"),
    ):  # gigabytes in a file of megabytes: no more is unpacked than the header says, and the header says no more than fits
        content = bytes([0, 0, 8, 3]) + struct.pack(">3I", *header) + bytes(1 << 20)
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        for ending in ("", ".gz"):
            tracemalloc.start()
            with pytest.raises(UserError, match=rf"{name}{ending}: its header {said}"):
                read_idx(tmp_path / f"{name}{ending}", 3)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 1 << 19, "the array of the header, and a buffer"
    (tmp_path / "labels").write_bytes(idx(np.zeros(3)))
    with pytest.raises(UserError, match=r"2 images, .* 3 labels"):
        read_labelled(tmp_path / "a", tmp_path / "labels")


def test_all_missing_files_are_named_at_once_and_others_than_the_published_refused(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("content")
    files = [Expected("there.txt", md5="9a0364b9e99bb480dd25e1f0284c8555"), Expected("one.txt"), Expected("two", folder=True)]
    with pytest.raises(UserError, match=r"missing: one.txt, two/\nget them from https://x.y; licence: free"):
        expect("preset", tmp_path, files, "https://x.y", "free")
    assert expect("preset", tmp_path, files[:1], "", "") == {"there.txt": tmp_path / "there.txt"}
    (tmp_path / "there.txt").write_text("Content")
    with pytest.raises(UserError, match=r"MD5 checksum f15c1cae7882448b3fb0404682e17e61 and not 9a0364.*\n.*verify=false"):
        expect("preset", tmp_path, files[:1], "x", "y")
    assert expect("preset", tmp_path, files[:1], "x", "y", verify=False)
    with pytest.raises(UserError, match="7 bytes and not 8"):
        expect("preset", tmp_path, [Expected("there.txt", size=8)], "x", "y")
