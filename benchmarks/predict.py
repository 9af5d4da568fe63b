"""Rows a second of ``mtl predict`` from Parquet to Parquet on one core, and its peak memory for two sizes of file.

    python benchmarks/predict.py --data-dir data

The network is ``dataset=adult``'s (mlp 256-128, two tasks); the file repeats Adult's rows. Where Adult is absent, a generated
table of the same columns and kinds takes its place.
"""

import argparse
import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import torch
from hydra import compose, initialize_config_dir

from mtl_runner import predict, run
from mtl_runner.config import config_dir
from mtl_runner.datasets.rows.reading import Reading, read
from mtl_runner.folder import Origin

HERE = Path(__file__).resolve().parent
NUMBERS = ["age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"]
CATEGORIES = {"workclass": 9, "education": 16, "occupation": 15, "relationship": 6, "race": 5, "sex": 2, "native-country": 42}


def generated(rows: int = 32_561, seed: int = 0) -> pa.Table:
    """A table with Adult's columns."""
    draws = np.random.default_rng(seed)
    columns: dict[str, object] = {name: draws.integers(0, 1000, rows) for name in NUMBERS}
    columns |= {name: [f"{name} {k}" for k in draws.integers(0, number, rows)] for name, number in CATEGORIES.items()}
    columns |= {"marital-status": draws.choice(["Never-married", "Divorced"], rows), "Y": draws.choice(["<=50K", ">50K"], rows)}
    return pa.table(columns)


def typed(table: pa.Table) -> pa.Table:
    """Numbers as numbers: what a Parquet file holds."""
    for name in NUMBERS:
        numbers = pc.cast(pc.utf8_trim_whitespace(table.column(name)), pa.int64())
        table = table.set_column(table.schema.get_field_index(name), name, numbers)
    return table.replace_schema_metadata(None)


def train(folder: Path, data_dir: Path) -> pa.Table:
    """One epoch on Adult into ``folder``; returns its rows."""
    source = ["dataset=adult", f"data_dir={data_dir}"]
    if not (data_dir / "adult").is_dir():
        pyarrow.parquet.write_table(generated(), folder / "adult.parquet")
        tasks = (
            "{income:{columns:Y,type:binary,positive:'>50K'},single:{columns:marital-status,type:binary,positive:Never-married}}"
        )
        source = ["dataset=table", f"dataset.path={folder / 'adult.parquet'}", f"dataset.tasks={tasks}"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", [*source, "trainer.epochs=1", "tracker=none", "trainer.device=cpu", "trainer.progress=false"])
    with contextlib.redirect_stdout(io.StringIO()):
        run.run(config, folder, Origin({}))
    path = folder / "adult.parquet"
    return (
        pyarrow.parquet.read_table(path) if path.exists() else typed(read(str(data_dir / "adult" / "adult.data.gz"), Reading()))
    )


def measure(folder: Path, table: pa.Table, rows: int) -> tuple[float, float]:
    """Seconds and peak MiB of predicting ``rows`` rows in a process of its own, its start-up and the model's loading aside."""
    source, target = folder / f"{rows}.parquet", folder / f"{rows}_out.parquet"
    repeated = pa.concat_tables([table] * (rows // len(table) + 1)).slice(0, rows)
    pyarrow.parquet.write_table(repeated, source)
    command = [sys.executable, __file__, "--child", str(folder), str(source), str(target)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    seconds, memory = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()[-2:]
    return float(seconds), float(memory)


def child(folder: str, source: str, target: str) -> None:
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    predict.load(folder)  # imports and caches are warm: what is timed is reading, preparing, predicting, writing
    start = time.perf_counter()
    predict.predict(folder, Path(source), Path(target))
    print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 1_200_000])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = train(folder, arguments.data_dir)
        print("     rows   rows a second   peak MiB")
        for rows in arguments.rows:
            seconds, memory = min(measure(folder, table, rows) for _ in range(arguments.repeat))
            print(f"{rows:9,d}  {rows / seconds:14,.0f}  {memory:9.0f}", flush=True)


if __name__ == "__main__":
    main()
