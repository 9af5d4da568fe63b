"""CoNLL-style files: what is a sentence, what is a comment, what is broken, and what becomes of words and tags."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_runner.batch import MISSING
from mtl_runner.datasets.conll import Conll
from mtl_runner.datasets.prepared import read_preparation
from mtl_runner.errors import UserError

UPOS = """# form\tupos\tner
# sent_id = 1
Anna\tPROPN\tB-PER
sleeps\tVERB\tO

# sent_id = 2
#\tSYM\tO
1\tNUM\tO
in\tADP\tO
Rome\tPROPN\tB-LOC

Dogs\tNOUN\tO
bark\tVERB\tO
"""
TEST = "# form\tupos\tner\nAnna\tPROPN\tB-PER\nspeaks\tVERB\tB-ORG\n\nUnbelievablylongword\t_\tO\n"
SPLIT = {"validation": 0.34}


def made(folder: Path, text: str = UPOS, test: str = TEST, **options: Any) -> Conll:
    (folder / "train.tsv").write_text(text)
    (folder / "test.tsv").write_text(test)
    paths = {"path": str(folder / "train.tsv"), "test_path": str(folder / "test.tsv")}
    return Conll(**{**paths, "tasks": ["upos", "ner"], "split": SPLIT, **options})


def test_words_letters_and_tags_become_numbers(tmp_path: Path) -> None:
    data = made(tmp_path, validation_path=str(tmp_path / "train.tsv"), max_letters=4).load()
    train, test = (data.splits[part] for part in ("train", "test"))
    assert {part: split.size("input") for part, split in data.splits.items()} == {"train": 3, "validation": 3, "test": 2}
    assert data.targets["upos"].classes == ("ADP", "NOUN", "NUM", "PROPN", "SYM", "VERB")
    assert data.targets["ner"].kind == "tagging" and data.targets["ner"].classes == ("B-LOC", "B-PER", "O")
    # all words come up once: they are numbered in alphabetical order, behind padding and unknown
    words = sorted(["anna", "sleeps", "#", "1", "in", "rome", "dogs", "bark"])
    numbers = {word: number for number, word in enumerate(words, start=2)}
    assert train.inputs["input"]["tokens"][1].tolist() == [numbers[word] for word in ("#", "1", "in", "rome")]
    assert test.inputs["input"]["tokens"].tolist() == [[numbers["anna"], 1, 0, 0], [1, 0, 0, 0]]
    assert train.context["input"]["length"].tolist() == [2, 4, 2]
    # a tag that training does not have, one that is missing, and padding are no labels
    assert test.targets["ner"].tolist() == [[1, MISSING, MISSING, MISSING], [2, MISSING, MISSING, MISSING]]
    assert test.targets["upos"].tolist() == [[3, 5, MISSING, MISSING], [MISSING] * 4]
    letters = json.loads(json.dumps(data.preparation))["letters"]
    known = {letter: number for number, letter in enumerate(letters["known"], start=2)}
    assert data.streams["input"].characters == 2 + len(known)
    characters = test.inputs["input"]["characters"]
    assert characters.shape == (2, 4, 4)
    assert characters[0, 0].tolist() == [known[letter] for letter in "Anna"]  # letters keep their case
    assert characters[1, 0].tolist() == [known.get(letter, 1) for letter in "Unrd"]  # the first and the last ones
    assert data.notes[1:] == (
        "task upos: the commonest tag of each word is right for 50.0 % of the test part",
        "task ner: tag B-ORG is not in the training part; its words count as unlabelled",
        "task ner: the commonest tag of each word is right for 100.0 % of the test part",
    )


def test_the_preparation_reads_files_as_training_did(tmp_path: Path) -> None:
    data = made(tmp_path, max_length=3).load()
    prepared = read_preparation(json.loads(json.dumps(data.preparation)))["input"]
    assert prepared.to_json() == data.preparation
    test = data.splits["test"]
    (rows,) = prepared.batches(tmp_path / "test.tsv", prepared.columns, 10)
    fields, length = prepared.inputs(rows), 2
    assert all(torch.equal(fields[name], test.inputs["input"][name][:, :length]) for name in fields)
    targets = prepared.targets(rows)
    assert all(torch.equal(targets[name], test.targets[name][:, :length]) for name in targets)
    (tmp_path / "words.txt").write_text("Anna\nbarks\nat\nRome\n")  # a file of words alone needs no header
    (rows,) = prepared.batches(tmp_path / "words.txt", prepared.columns, 10)
    assert prepared.inputs(rows)["tokens"].shape == (1, 3)
    assert {name: value.tolist() for name, value in prepared.context(rows).items()} == {"words": [4], "length": [3]}


def test_sentences_are_cut_as_the_note_says(tmp_path: Path) -> None:
    data = made(tmp_path, max_length=3).load()
    assert "1 sentences are longer than dataset.max_length=3: 1 words are not read" in data.notes
    assert data.splits["train"].inputs["input"]["tokens"].shape[1] == 3


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "eng.train",  # CoNLL-2003: white space, a document's mark
            "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n# NN B-NP O\n",
            [["EU", "rejects"], ["#"]],
        ),
        (
            "en.conllu",  # Universal Dependencies: names, comments, a range and an empty node
            "# text = He's\n1-2\tHe's\t_\t_\t_\t_\t_\t_\t_\t_\n1\tHe\the\tPRON\tPRP\t_\t2\tnsubj\t_\t_\n"
            "2\t's\tbe\tAUX\tVBZ\t_\t0\troot\t_\t_\n2.1\t_\t_\t_\t_\t_\t_\t_\t_\t_\n",
            [["He", "'s"]],
        ),
        ("plus.txt", "# global.columns = ID FORM UPOS\n1\ta\tX\n\n\n1\tb\tY\n2\tc\tX\n\n", [["a"], ["b", "c"]]),
        ("dos.txt", "\ufeff# form\tupos\r\na\tX\r\n\r\nb\tY\r\n", [["a"], ["b"]]),
    ],
)
def test_dialects(tmp_path: Path, name: str, text: str, words: list[list[str]]) -> None:
    from mtl_runner.datasets.skipping import Skipping
    from mtl_runner.datasets.words.conll_files import Format, read_sentences

    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    (rows,) = read_sentences(tmp_path / name, Format(), Skipping("stop", 0))  # found with .gz, too
    column = next(each for each in ("form", "FORM", "column_1") if each in rows.schema.names)
    assert rows.column(column).to_pylist() == words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": UPOS.replace("sleeps\tVERB\tO", "sleeps\tVERB")}, r"train.tsv, line 4: 2 values, but there are 3 columns"),
        ({"text": "# form\tupos\tner\n"}, r"train.tsv has no token"),
        ({"tasks": ["upos", "nar"]}, r"dataset.tasks.nar: column 'nar' does not exist \(did you mean 'ner'\?\)"),
        ({"tasks": {"upos": {"output": "crf", "role": "min"}}}, r"dataset.tasks.upos.role 'min' does not exist"),
        ({"word": "word"}, r"dataset.word: column 'word' does not exist \(did you mean 'form'\?\); allowed: form, upos, ner"),
        ({"tasks": {"ner": {"classes": ["O", "B-PER"]}}}, r"dataset.tasks.ner.classes: the column holds B-LOC, too"),
        ({"names": ["a", "b"]}, r"train.tsv: the first token has 3 columns, and there are 2 names: a, b"),
        ({"path": "no.tsv"}, r"there is no file no.tsv"),
        ({"split": {"by": "time", "column": "x"}}, r"dataset.split.by=time: sentences are split at random, or by test_path"),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(tmp_path, **changes).load()


def test_a_broken_sentence_can_be_skipped(tmp_path: Path) -> None:
    broken = UPOS.replace("sleeps\tVERB\tO", "sleeps\tVERB") + "\na\tX\tO\n"
    data = made(tmp_path, text=broken, on_error="skip").load()
    assert data.skipped == (f"{tmp_path / 'train.tsv'}, line 4: 2 values, but there are 3 columns",)
    assert sum(data.splits[part].size("input") for part in ("train", "validation")) == 3
    assert data.notes[-1].startswith("1 sentences could not be used")
    with pytest.raises(UserError, match=r"more than dataset.max_errors=0 items"):
        made(tmp_path, text=broken, on_error="skip", max_errors=0).load()


def test_english_web_text(shared_data: Path) -> None:
    folder = shared_data / "ud_ewt_pos_ner"
    data = Conll(str(folder / "ewt_dev.tsv.gz"), ["upos", "ner"], test_path=str(folder / "ewt_test.tsv.gz")).load()
    sizes = {part: split.size("input") for part, split in data.splits.items()}
    assert sizes["train"] + sizes["validation"] == 1998 and sizes["test"] == 2076
    assert int(data.splits["test"].context["input"]["length"].sum()) == 25_070
    assert len(data.targets["upos"].classes) == 17 and len(data.targets["ner"].classes) == 7
