"""The presets on the real files: counts that the data sets' descriptions give, and their traps."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from clocks import cpu_seconds
from omegaconf import OmegaConf

from mtl_runner.datasets.table import Table

CONF = Path(__file__).parents[3] / "conf" / "dataset"


def options(name, data_dir, **changes):
    config = OmegaConf.merge({"data_dir": str(data_dir)}, {"dataset": OmegaConf.load(CONF / f"{name}.yaml")})
    keys = OmegaConf.to_container(config, resolve=True)["dataset"]
    keys.pop("_target_")
    return {**keys, **changes}


def labels(data, task):
    return np.concatenate([split.targets[task].numpy() for split in data.splits.values()])


def test_adult(shared_data):
    data = Table(**options("adult", shared_data)).load()
    assert {part: split.size("input") for part, split in data.splits.items()} == {
        "train": 27677,
        "validation": 4884,
        "test": 16281,
    }
    assert data.splits["test"].targets["income"].sum() == 3846
    assert labels(data, "income").sum() == 11687
    assert labels(data, "never_married").mean() == pytest.approx(0.33, abs=0.005)
    assert data.targets["income"].classes == ("<=50K", ">50K")
    names = data.streams["input"].names
    assert (len(names["numeric"]), len(names["categorical"])) == (6, 7)
    assert data.streams["input"].cardinalities[0] == 10  # 8 classes of work in training, missing, unseen
    assert not {"Y", "marital-status"} & {*names["numeric"], *names["categorical"]}
    assert cpu_seconds(Table(**options("adult", shared_data)).load) < 5  # about 0.4


def test_adult_as_the_public_gets_it(shared_data, tmp_path):
    (tmp_path / "adult").mkdir()
    for name, first in (("adult.data", ""), ("adult.test", "|1x3 Cross validator\n")):
        lines = gzip.decompress((shared_data / "adult" / f"{name}.gz").read_bytes()).decode().splitlines()[1:]
        (tmp_path / "adult" / name).write_text(first + "\n".join(lines) + "\n\n")
    ours, public = Table(**options("adult", shared_data)).load(), Table(**options("adult", tmp_path)).load()
    assert ours.fingerprint == public.fingerprint


def test_ctg(shared_data):
    data = Table(**options("ctg", shared_data)).load()
    assert np.bincount(labels(data, "nsp")).tolist() == [1655, 295, 176]
    assert np.bincount(labels(data, "class")).tolist() == [384, 579, 53, 81, 72, 332, 252, 107, 69, 197]
    assert len(data.streams["input"].names["numeric"]) == 21
    groups = [set(split.context["input"]["group"].tolist()) for split in data.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 352
    for split in data.splits.values():
        assert np.bincount(split.targets["class"], minlength=10).min() > 0


def test_mi_complications(shared_data):
    data = Table(**options("mi_complications", shared_data)).load()
    positives = {name: int((labels(data, name) > 0).sum()) for name in data.targets}
    assert positives == {
        "FIBR_PREDS": 170, "PREDS_TAH": 20, "JELUD_TAH": 42, "FIBR_JELUD": 71, "A_V_BLOK": 57, "OTEK_LANC": 159,
        "RAZRIV": 54, "DRESSLER": 75, "ZSN": 394, "REC_IM": 159, "P_IM_STEN": 148, "LET_IS": 271,
    }  # fmt: skip
    names = [name for name in data.streams["input"].names["numeric"] if not name.endswith(" is missing")]
    assert len(names) == 111 - 9
    assert not [name for name in names if name.startswith(("93.", "94.", "95.", "100.", "105.", "Outcome", "1. "))]
    for part, split in data.splits.items():
        share = {"train": 0.7, "validation": 0.15, "test": 0.15}[part]
        assert all(abs(int((split.targets[name] > 0).sum()) - share * count) < 3 for name, count in positives.items())


@pytest.mark.parametrize("separator", ["\t", ","])
def test_parkinsons(shared_data, tmp_path, separator):
    folder = tmp_path / "parkinsons_telemonitoring"
    folder.mkdir()
    raw = gzip.decompress((shared_data / folder.name / "parkinsons_updrs.data.gz").read_bytes()).decode()
    (folder / "parkinsons_updrs.data").write_text(raw.replace("\t", separator))
    data = Table(**options("parkinsons", tmp_path)).load()
    assert sum(split.size("input") for split in data.splits.values()) == 5875
    assert data.targets["motor_UPDRS"].center[0] == pytest.approx(21.3, abs=1)
    assert len(data.streams["input"].names["numeric"]) == 19
    groups = [set(split.context["input"]["group"].tolist()) for split in data.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 42


@pytest.mark.parametrize("first", ["UID", "UDI"])
def test_ai4i2020(shared_data, tmp_path, first):
    (tmp_path / "ai4i2020").mkdir()
    raw = gzip.decompress((shared_data / "ai4i2020" / "ai4i2020.csv.gz").read_bytes()).decode("utf-8-sig")
    (tmp_path / "ai4i2020" / "ai4i2020.csv").write_text("\ufeff" + raw.replace("UID", first, 1))
    data = Table(**options("ai4i2020", tmp_path, only=["RNF"])).load()
    assert list(data.targets) == ["RNF"]
    assert [int(split.targets["RNF"].sum()) for split in data.splits.values()] == [13, 3, 3]
    names = data.streams["input"].names
    assert (len(names["numeric"]), names["categorical"]) == (5, ("Type",))
