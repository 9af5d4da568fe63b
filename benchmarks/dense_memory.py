"""Peak memory of evaluating outputs at each pixel, for growing numbers of images: of a part in memory, and from files.

    python benchmarks/dense_memory.py

The network is a small U-Net with segmentation, depth and normals on ``dataset=shapes``. The images repeat a few, so that the data
themselves take the same memory however many they are; each figure is the peak of a process of its own over what it began with.
"""

import argparse
import contextlib
import io
import multiprocessing
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from mtl_runner import predict, run
from mtl_runner.batch import Data, Split
from mtl_runner.config import config_dir
from mtl_runner.datasets.dense import Dense
from mtl_runner.datasets.maps.scenes import drawn
from mtl_runner.evaluate import evaluate
from mtl_runner.folder import Origin
from mtl_runner.tasks.group import pack

SIZE, DIFFERENT, BATCH = 64, 16, 16
PER_PIXEL = 4 + 1 + 3
KINDS = {"label": "segmentation", "depth": "depth", "normal": "normals"}


def written(folder: Path) -> None:
    """A few scenes as png and npy files."""
    draws = np.random.default_rng(0)
    for name in ("image", *KINDS):
        (folder / name).mkdir()
    for number in range(DIFFERENT):
        scene = drawn(draws, SIZE, 3)
        pixels = (255 * scene.image).round().astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(pixels).save(folder / "image" / f"{number}.png")
        np.save(folder / "label" / f"{number}.npy", scene.classes)
        np.save(folder / "depth" / f"{number}.npy", scene.depth)
        np.save(folder / "normal" / f"{number}.npy", scene.normals)


def listed(folder: Path, count: int) -> Path:
    """A file that names ``count`` images, the same ones again and again."""
    path = folder / f"list_{count}.csv"
    lines = (f"image/{n}.png,label/{n}.npy,depth/{n}.npy,normal/{n}.npy" for n in (row % DIFFERENT for row in range(count)))
    path.write_text("\n".join(["image,label,depth,normal", *lines]) + "\n")
    return path


def trained(folder: Path) -> tuple[Path, Data]:
    """A run of one epoch on the scenes, and its data."""
    tasks = ",".join(f"{name}:{{type:{kind}}}" for name, kind in KINDS.items())
    source = [f"dataset.path={listed(folder, DIFFERENT)}", f"dataset.tasks={{{tasks}}}"]
    small = [
        "dataset=dense",
        "encoder=unet",
        "encoder.channels=8",
        "encoder.depth=2",
        "trainer.epochs=1",
        "trainer.progress=false",
    ]
    with initialize_config_dir(str(config_dir()), version_base=None):
        config = compose("config", [*small, *source, "tracker=none", "trainer.device=cpu", f"trainer.eval_batch_size={BATCH}"])
    (folder / "run").mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        run.run(config, folder / "run", Origin({}))
    return folder / "run", Dense(str(listed(folder, DIFFERENT)), {name: {"type": kind} for name, kind in KINDS.items()}).load()


def repeated(split: Split, count: int) -> Split:
    """The first example ``count`` times, without a copy."""
    inputs = {
        stream: {n: value[:1].expand(count, *value.shape[1:]) for n, value in f.items()} for stream, f in split.inputs.items()
    }
    targets = {name: value[:1].expand(count, *value.shape[1:]) for name, value in split.targets.items()}
    return Split(inputs, targets, split.streams)


def peak(work: Callable[[], object]) -> float:
    """Megabytes that ``work`` takes at most, in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with contextlib.redirect_stdout(io.StringIO()):
            work()
        sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    process = context.Process(target=child)
    process.start()
    found = receiver.recv()
    process.join()
    return float(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[50, 200, 800])
    counts = parser.parse_args().images
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written(folder)
        path, data = trained(folder)
        model = predict.load(path).model

        def in_memory(count: int) -> None:
            evaluate(model, pack(repeated(data.splits["test"], count), model.task_groups), BATCH)

        print(f"{SIZE} × {SIZE} pixels, {BATCH} images at a time; peak MB over what the process began with")
        print(f"{'images':>8}{'in memory':>12}{'from files':>12}{'all outputs would take':>25}")
        for count in counts:
            file = listed(folder, count)
            figures = peak(lambda count=count: in_memory(count)), peak(lambda file=file: predict.evaluate(path, file, BATCH))
            kept = count * SIZE**2 * PER_PIXEL * 4 / 2**20
            print(f"{count:>8,}{figures[0]:>12.1f}{figures[1]:>12.1f}{kept:>25.1f}")


if __name__ == "__main__":
    main()
