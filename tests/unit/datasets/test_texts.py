"""Texts: words, characters and pieces as numbers, pairs, corpora of their own, GLUE's files, broken input."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from mtl_runner.datasets.glue import TASKS, Glue
from mtl_runner.datasets.prepared import read_preparation
from mtl_runner.datasets.texts import Text
from mtl_runner.datasets.words.text_reading import BETWEEN, paired, units
from mtl_runner.errors import UserError
from mtl_runner.tasks import make_tasks

ROWS = [
    {"text": f"{word} film, really {word}{'!' * (place % 3)}", "mood": mood, "stars": stars + place % 2}
    for place in range(8)
    for word, mood, stars in (("good", "glad", 4), ("bad", "sad", 1), ("dull", "sad", 2))
]


def csv(path: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    names = list(rows[0])
    lines = [",".join(names), *(",".join(json.dumps(str(row[name])) for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def same(one: Any, other: Any) -> bool:
    return all(
        torch.equal(value, other.splits[part].inputs[stream][name])
        for part, split in one.splits.items()
        for stream, fields in split.inputs.items()
        for name, value in fields.items()
    )


def test_the_same_rows_in_three_formats_are_the_same_data(tmp_path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n\n" for row in ROWS))
    paths = [csv(tmp_path / "rows.csv"), str(tmp_path / "rows.parquet"), str(tmp_path / "rows.jsonl")]
    made = [Text(path, {"mood": None, "stars": {"type": "regression"}}).load() for path in paths]
    assert len({data.fingerprint for data in made}) == 1
    assert made[0].targets["mood"].classes == ("glad", "sad")
    (first, *_) = (data.splits["test"].inputs["input"]["tokens"] for data in made)
    assert first.shape[1] == 7 and int(first.max()) == made[0].streams["input"].vocabulary - 1 == 8


def test_units_and_pairs() -> None:
    assert units("Don't  stop, Ünder_score 3.5", "words") == ["Don", "'", "t", "stop", ",", "Ünder_score", "3", ".", "5"]
    assert units("a b\n", "characters") == ["a", "b"]
    assert paired("abc", "de", 10) == [*"abc", BETWEEN, *"de"]
    assert paired("abcdefgh", "xy", 6) == [*"abc", BETWEEN, *"xy"]  # the longer one is cut
    assert paired("ab", "uvwxyz", 6) == [*"ab", BETWEEN, *"uvw"]
    assert paired("abcdef", "uvwxyz", 6) == [*"abc", BETWEEN, *"uv"]


@pytest.mark.parametrize(
    "options",
    [{}, {"level": "characters"}, {"characters": True, "max_letters": 3}, {"min_count": 2, "max_words": 4, "max_length": 3}],
)
def test_a_preparation_reads_rows_as_training_did(tmp_path: Path, options: dict[str, Any]) -> None:
    path = csv(tmp_path / "rows.csv")
    data = Text(path, ["mood"], split={"by": "random"}, **options).load()
    prepared = read_preparation(json.loads(json.dumps(data.preparation)))["input"]
    (rows,) = prepared.batches(Path(path), [*prepared.columns, *prepared.target_columns()], 1000)
    fields, places = prepared.inputs(rows), data.splits["test"].context["input"]["row"]
    assert all(torch.equal(fields[name][places], value) for name, value in data.splits["test"].inputs["input"].items())
    assert torch.equal(
        prepared.targets(rows)["mood"][places],
        data.splits["test"].targets["mood"],
    )
    if options.get("max_words"):
        assert data.streams["input"].vocabulary == 6 and fields["tokens"].shape[1] == 3
        assert "24 of 24 texts are longer than 3: the rest of them is not read" in data.notes


def test_pairs_have_a_mark_between_them_and_an_empty_one_is_no_error(tmp_path: Path) -> None:
    rows = [{"a": row["text"], "b": "same" if place % 2 else "", "mood": row["mood"]} for place, row in enumerate(ROWS)]
    data = Text(csv(tmp_path / "pairs.csv", rows), ["mood"], text=["a", "b"]).load()
    tokens = data.splits["train"].inputs["input"]["tokens"]
    assert ((tokens == 2).sum(1) == 1).all()  # the first number behind padding and unknown


def test_a_tokenizer_file(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "good": 4, "bad": 5, "film": 6}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    data = Text(csv(tmp_path / "rows.csv"), ["mood"], tokenizer=str(tmp_path), max_length=6).load()
    assert data.streams["input"].vocabulary == 7 and data.streams["input"].fields == {"tokens": (6,)}
    assert {tuple(row) for row in data.splits["train"].inputs["input"]["tokens"].tolist()} == {
        (2, word, 6, 1, 1, 3) for word in (1, 4, 5)
    }
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is no tokenizer file"):
        Text(csv(tmp_path / "rows.csv"), ["mood"], tokenizer=str(tmp_path)).load()


def test_one_corpus_for_each_task(tmp_path: Path) -> None:
    first, second = (
        csv(tmp_path / "a.csv"),
        csv(tmp_path / "b.csv", [{"review": row["text"], "stars": row["stars"]} for row in ROWS]),
    )
    corpora = {"moods": {"path": first, "tasks": ["mood"]}, "reviews": {"path": second, "text": "review", "tasks": {"stars": {}}}}
    data = Text(corpora=corpora).load()
    assert {name: spec.stream for name, spec in data.targets.items()} == {"mood": "moods", "stars": "reviews"}
    assert set(read_preparation(data.preparation)) == {"moods", "reviews"}
    with pytest.raises(UserError, match=r"several of them have a task mood"):
        Text(corpora={"a": corpora["moods"], "b": corpora["moods"]}).load()
    with pytest.raises(UserError, match=r"dataset.corpora.a: option 'pth' does not exist \(did you mean 'path'\?\)"):
        Text(corpora={"a": {"pth": first}})
    with pytest.raises(UserError, match=r"dataset.corpora.reviews: dataset.text: no column is called 'text'"):
        Text(corpora={**corpora, "reviews": {"path": second, "tasks": ["stars"]}}).load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "txt"}, r"dataset.text: no column is called 'txt' \(did you mean 'text'\?\)"),
        ({"tasks": ["text"]}, r"dataset.tasks.text: column 'text' is the text"),
        ({"tokenizer": "nowhere"}, r"dataset.tokenizer=nowhere: there is no file"),
        ({"text": ["a", "b", "c"]}, r"dataset.text=\['a', 'b', 'c'\]: one column of texts"),
        ({"level": "characters", "characters": True}, r"dataset.characters=true: letters stand beside words"),
        ({"corpora": {"a": {}}}, r"either dataset.path and dataset.tasks, or dataset.corpora"),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Text(**{"path": csv(tmp_path / "rows.csv"), "tasks": ["mood"], **changes}).load()


def test_an_empty_text_stops_or_is_left_out(tmp_path: Path) -> None:
    path = csv(tmp_path / "rows.csv", [*ROWS[:5], {"text": "  ", "mood": "sad", "stars": 1}, *ROWS[5:]])
    with pytest.raises(UserError, match=r"rows.csv, line 7, column 'text': an empty text"):
        Text(path, ["mood"]).load()
    data = Text(path, ["mood"], on_error="skip").load()
    assert sum(split.size("input") for split in data.splits.values()) == len(ROWS)
    assert data.skipped and data.skipped[0].startswith(f"{path}, line 7")
    prepared = read_preparation(data.preparation)["input"]
    assert prepared.inputs(prepared.blank(2))["tokens"][:, 0].tolist() == [1, 1]  # asked for a prediction, it is unknown


def test_a_line_that_is_no_json_object_is_named(tmp_path: Path) -> None:
    for line, message in (("{broken", r"rows.jsonl, line 3: not JSON"), ("[1]", r"rows.jsonl, line 3: not a JSON object")):
        (tmp_path / "rows.jsonl").write_text(f'{{"text": "a", "mood": 1}}\n\n{line}\n')
        with pytest.raises(UserError, match=message):
            Text(str(tmp_path / "rows.jsonl"), ["mood"]).load()


def test_glue_reads_its_files(tmp_path: Path) -> None:
    """Quotation marks are part of a sentence there; CoLA's files have no header."""
    with pytest.raises(UserError, match=r"are missing: CoLA/train.tsv, CoLA/dev.tsv, STS-B/train.tsv, STS-B/dev.tsv") as missing:
        Glue(str(tmp_path), ["cola", "stsb"]).load()
    assert "gluebenchmark.com" in str(missing.value)
    lines = {
        "cola": [f'gj04\t{place % 2}\t*\tThe "sailors rode number {place}.' for place in range(12)],
        "mrpc": ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        + [f'{place % 2}\t1\t2\tHe said "so {place}\tShe said so' for place in range(12)],
        "mnli": ["index\tsentence1\tsentence2\tlabel1\tgold_label"]
        + [f"{place}\tone {place}\ttwo\tx\t{TASKS['mnli'].classes[place % 3]}" for place in range(12)],
        "stsb": ["index\tsentence1\tsentence2\tscore"] + [f"{place}\tone\ttwo {place}\t{place / 3:.2f}" for place in range(12)],
    }
    for name, content in lines.items():
        for file in TASKS[name].files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text("\n".join(content) + "\n")
    data = Glue(str(tmp_path), list(lines), split={"validation": 0.2}).load()
    kinds = {"cola": "binary", "mrpc": "binary", "mnli": "multiclass", "stsb": "regression"}
    assert {name: spec.kind for name, spec in data.targets.items()} == kinds
    assert [data.splits["test"].size(name) for name in lines] == [12] * 4  # all of dev.tsv
    assert [data.targets[name].metric for name in ("cola", "stsb")] == ["mcc", "spearman"]
    assert make_tasks(data.targets)[-1].primary.name == "spearman"
    assert data.targets["mnli"].classes[0] == "contradiction"
    (tmp_path / "MRPC/train.tsv").write_text("\n".join([*lines["mrpc"][:4], "1\t1\tshort"]) + "\n")
    with pytest.raises(UserError, match=r"train.tsv, line 5: 3 values, but there are 5 columns"):
        Glue(str(tmp_path), ["mrpc"]).load()


def test_a_time_to_an_event_is_named_by_its_two_columns(tmp_path: Path) -> None:
    rows = [{"review": f"word {row}", "days": row, "died": row % 2} for row in range(20)]
    task = {"life": {"type": "survival", "time": "days", "event": "died"}}
    data = Text(csv(tmp_path / "lives.csv", rows), task, "review").load()
    assert (data.targets["life"].kind, data.targets["life"].columns) == ("survival", ("days", "died"))


def test_a_list_or_an_object_is_no_text(tmp_path: Path) -> None:
    """A number and a text that looks like a list are; other columns may hold what they like."""
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, Any]] = [{"text": f"word {place}", "mood": place % 2, "more": [place]} for place in range(20)]
    rows[3]["text"], rows[4]["text"] = '["a", "b"]', 12.50
    path.write_text("\n".join(map(json.dumps, rows)))
    data = Text(str(path), ["mood"], split={"validation": 0.1, "test": 0.1}).load()
    prepared = read_preparation(json.loads(json.dumps(data.preparation)))["input"]
    for text, kind in ((["a", "b"], "a list"), ({"a": "b"}, "an object"), ([], "a list")):
        rows[5]["text"] = text
        path.write_text("\n".join(map(json.dumps, rows)))
        message = rf"rows\.jsonl, line 6, column 'text': {kind}, where one text is expected"
        with pytest.raises(UserError, match=message):
            Text(str(path), ["mood"]).load()
        with pytest.raises(UserError, match=message):
            list(prepared.batches(path, ("text",), 4))
    parquet.write_table(pa.table({"text": [["a", "b"]] * 20, "mood": ["glad", "sad"] * 10}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows\.parquet, column 'text': holds list<.*>, where one text a row is expected"):
        Text(str(tmp_path / "rows.parquet"), ["mood"]).load()
